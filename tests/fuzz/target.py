"""What a target of fuzzing is, and how bytes reach a parser without a disk."""

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_SECONDS = 5.0
MAX_MEMORY_BYTES = 1 << 30
SCRATCH = "FUZZ_SCRATCH"  # variable that names the folder of the process that started this one, and that removes it


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One parser."""

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]  # that it is documented to raise
    seeds: Callable[[], list[bytes]]
    modules: tuple[str, ...]  # that coverage is taken of; () where the parser is a library in C
    max_bytes: int = 1 << 12


@cache
def scratch() -> Path:
    """Return a folder for parsers that read files, in memory where the system has such a folder."""
    if given := os.environ.get(SCRATCH):
        return Path(given)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that writes bytes to a file of that name and calls `read` with its path."""

    @cache
    def path() -> Path:
        (scratch() / name).parent.mkdir(parents=True, exist_ok=True)
        return scratch() / name

    def run(data: bytes) -> object:
        path().write_bytes(data)
        return read(path())

    return run


class BytesSource:
    """The bytes of a shard, as `shards.storage.ByteSource` has them."""

    def __init__(self, data: bytes) -> None:
        """Take the whole file."""
        self._data = np.frombuffer(data, np.uint8)
        self.num_bytes = len(data)

    def read_at(self, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Return up to `num_bytes` bytes from `start`: fewer only where the file ends."""
        return self._data[start : start + num_bytes]


@cache
def _memory_file() -> int:
    return os.memfd_create("fuzz", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else os.open(scratch() / "m", 66)


def as_raw_file(data: bytes) -> io.FileIO:
    """Return a file that holds the bytes until the next call."""
    descriptor = _memory_file()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)
    return io.FileIO(descriptor, closefd=False)
