"""Files that exist whole or not at all: a temporary name in the same folder, fsync, rename."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".tmp"
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{32}}{re.escape(_SUFFIX)}", re.DOTALL)  # as open_atomic names its files


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears as `path` only after the block has ended without an error.

    The folder is made where it is missing. An older file of that name is replaced in one step; on an error it
    stays as it was and nothing is left behind. Only a killed process leaves its temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed writers left in `folder` and return how many files that were.

    Only files with the names that `open_atomic` gives, `.<name>.<32 hexadecimal digits>.tmp`: a `.notes.tmp` is
    somebody else's. Only for a process that alone writes to the folder.
    """
    leftovers = [path for path in folder.glob(f".*{_SUFFIX}") if _TEMPORARY.fullmatch(path.name) and path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def sync(path: Path) -> None:
    """Make what was written to a file, or a rename in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
