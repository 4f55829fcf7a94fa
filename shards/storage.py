"""Where the files of a dataset lie: a folder on this machine, or a URL; both give any bytes of any file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shards.names import parse_shard_name
from shards.schema import ShardError

Root = Path | str  # a folder, or a URL such as s3://bucket/shards or https://host/shards


class ByteSource(Protocol):
    """A file that is open for reading at any place; may be shared by threads, and goes on working after a fork."""

    num_bytes: int

    def read_at(self, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Return up to `num_bytes` bytes from `start`: fewer only where the file ends."""


class Storage(Protocol):
    """The files of one dataset; nothing outside of it can be named."""

    def open_shard(self, shard: Path | str) -> ByteSource:
        """Open `<split>/<name>.tar`.

        Raises:
            ShardError: it is missing, no plain file, or leads out of the dataset.
        """

    def open_file(self, name: str) -> ByteSource | None:
        """Open dataset.json or index.parquet; None where it is missing."""

    def describe(self, name: str) -> str:
        """Return path or URL of a file, for messages."""


def is_url(root: Root) -> bool:
    """Say whether `root` is a URL that fsspec opens, such as s3://bucket/shards."""
    return isinstance(root, str) and "://" in root


def parse_root(text: str) -> Root:
    """Return the folder or URL that a user wrote."""
    return text if is_url(text) else Path(text)


def open_storage(root: Root) -> Storage:
    """Return the files under `root`."""
    if is_url(root):
        from shards.remote import RemoteStorage  # only who reads over a network waits for its libraries

        return RemoteStorage(str(root))
    return LocalStorage(Path(root))


class LocalSource:
    """A plain file, open until nobody uses it.

    Every read names its place (`pread`), so threads and forked processes, which share the descriptor, do not meet.
    """

    def __init__(self, file: Path | int) -> None:
        """Open the file at a path, or take over an open descriptor."""
        self._descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self.num_bytes = os.fstat(self._descriptor).st_size

    def read_at(self, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Return up to `num_bytes` bytes from `start`: fewer only where the file ends."""
        data = np.empty(min(num_bytes, max(0, self.num_bytes - start)), np.uint8)
        done = 0
        while done < len(data):  # Linux reads at most 2 GiB at once
            count = os.preadv(self._descriptor, [data[done:].data], start + done)
            if count == 0:
                return data[:done]
            done += count
        return data

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at exit `os` may be gone already
        if hasattr(self, "_descriptor"):
            close(self._descriptor)


class LocalStorage:
    """A folder."""

    def __init__(self, root: Path) -> None:
        """Remember the folder."""
        self._root = root

    def open_shard(self, shard: Path | str) -> LocalSource:
        """Open a shard; see Storage."""
        return LocalSource(find_shard(self._root, shard))

    def open_file(self, name: str) -> LocalSource | None:
        """Open dataset.json or index.parquet; None where it is missing."""
        path = self._root / name
        return LocalSource(path) if path.is_file() else None

    def describe(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._root / name)


def find_shard(root: Path, shard: Path | str) -> Path:
    """Return where `shard` of the dataset in the folder `root` lies.

    Raises:
        ShardError: it is missing, no plain file, or leads out of the dataset, also through a link.
    """
    resolved_root = root.resolve()
    path = (resolved_root / shard).resolve()  # an absolute path stays itself
    if not path.is_relative_to(resolved_root):
        raise ShardError(f"shard {str(shard)!r} leads out of the dataset {root}")
    parse_shard_name(path.relative_to(resolved_root).as_posix())
    if not path.is_file():
        raise ShardError(f"{shard}: missing from {root}; copy it there or extract the dataset again")
    return path
