"""Opening files that strangers made: no pipe blocks, and a fault of the file is told apart from one of the machine."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What opening says of the file itself. Permission is among them: it belongs to the file, and a file that could not be
# opened has no fingerprint, so that every run looks at it again. Everything else (no descriptor or memory left, a disk
# that fails, a server that is gone) says nothing about the file, and another try may read it.
_FILE_FAULTS = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EACCES,
        errno.EPERM,
        errno.ENXIO,  # a socket
    }
)


class InputFileError(ValueError):
    """A file that cannot be read because of what it is: missing, empty, a folder, a pipe, or without permission."""


class MachineReadError(OSError):
    """A file that cannot be read here and now, through no fault of its own; `errno` and `filename` as of OSError."""


def machine_error(error: OSError, path: Path) -> MachineReadError:
    """Return the error that says what the machine could not do with a file."""
    return MachineReadError(
        error.errno, f"cannot be read now ({error.strerror}); look at this machine's disks", str(path)
    )


@contextmanager
def open_regular(path: Path, *, may_be_empty: bool = False) -> Iterator[io.FileIO]:
    """Open a regular file for reading, unbuffered.

    What was opened is what is checked (`fstat` of the descriptor, and no call waits for a pipe's other end), so it
    does not matter what takes the file's place in the meantime.

    Raises:
        InputFileError: it is missing, empty (unless it may be), not a regular file or not readable for this user.
        MachineReadError: this machine cannot open it now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise InputFileError(f"cannot be opened: {error}") from error
    except OSError as error:
        if error.errno not in _FILE_FAULTS:
            raise machine_error(error, path) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputFileError("no permission to read") from error
        if error.errno == errno.ENXIO:
            raise InputFileError("not a regular file") from error
        raise InputFileError(f"cannot be opened: {error.strerror}") from error
    try:
        try:
            status = os.fstat(descriptor)
        except OSError as error:
            raise machine_error(error, path) from error
        if not stat.S_ISREG(status.st_mode):
            raise InputFileError("not a regular file")
        if status.st_size == 0 and not may_be_empty:
            raise InputFileError("file is empty")
        yield io.FileIO(descriptor, closefd=False)
    finally:
        os.close(descriptor)


class InputError(ValueError):
    """An input folder or manifest that cannot be used at all."""
