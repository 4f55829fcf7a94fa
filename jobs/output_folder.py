"""One writer per output folder, and nobody else's files in it."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.input_file import InputError


def require_apart(source: Path, out: Path) -> None:
    """Refuse an output folder that is the input folder, or holds it: results would lie among the user's files.

    An output folder within the input folder is fine: what a job has written is never taken for an input.

    Raises:
        InputError: names both.
    """
    source_folder = source if source.is_dir() else source.parent
    if source.is_dir() and source_folder.resolve().is_relative_to(out.resolve()):
        raise InputError(f"--out {out} is or holds the input {source}; choose another folder for the results")


@contextmanager
def claim_folder(out: Path, lock: Path, what: str, owned: Sequence[str] = ("*",)) -> Iterator[None]:
    """Hold an output folder for this process; the system frees it however the process ends.

    Args:
        out: the folder; it is made where it is missing.
        lock: file within it that is locked. Where it is there, an earlier run has claimed the folder.
        what: that writes ("cleaning"), for messages.
        owned: patterns of the files that the job writes. In a folder that nobody has claimed they are somebody else's.

    Raises:
        InputError: another process holds the folder, or it holds files of somebody else.
    """
    if not lock.exists() and (foreign := sorted(path for pattern in owned for path in out.glob(pattern))):
        raise InputError(
            f"{out}: holds {foreign[0].relative_to(out)} ({len(foreign)} in all), which no {what} has written; it is "
            "left as it is: choose another --out, or move it away"
        )
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{out}: another {what} writes to this folder; wait for it or choose another --out"
            ) from error
        yield
