"""One writer per output folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.inputs import InputError


@contextmanager
def lock_folder(out: Path, path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` of the output folder `out`; the system frees it however this process ends.

    Raises:
        InputError: another process holds it; `what` says what both would write ("cleaning").
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{out}: another {what} writes to this folder; wait for it or choose another --out"
            ) from error
        yield
