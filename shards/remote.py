"""Datasets behind a URL: s3://, gs://, http(s):// and whatever else fsspec opens, read by byte range."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import aiohttp
import fsspec
import numpy as np
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from shards.names import parse_shard_name
from shards.schema import ShardError

_INDEX_BLOCK_BYTES = 2**20  # Parquet reads a footer and a few column chunks: small requests, read ahead


class RemoteStorage:
    """The files under a URL.

    A server that ignores byte ranges sends whole files; those are copied to a temporary file once and read there.
    """

    def __init__(self, url: str) -> None:
        """Choose the file system; nothing is fetched yet.

        Raises:
            ShardError: nothing installed opens such URLs.
        """
        self._url = url.rstrip("/")
        try:
            self._files, self._root = url_to_fs(self._url)
        except (ImportError, ValueError) as error:
            raise ShardError(
                f"{url}: {error}; s3:// and gs:// need `pip install -e '.[cloud]'`, other URLs what fsspec names"
            ) from error

    def open_shard(self, shard: Any) -> "RemoteSource":
        """Open a shard; see Storage."""
        _, name = parse_shard_name(str(shard))
        file = self._open(name, cache_type="none")
        if file is None:
            raise ShardError(f"{name}: missing from {self._url}; copy it there or extract the dataset again")
        return RemoteSource(file, self.describe(name))

    def open_file(self, name: str) -> BinaryIO | None:
        """Open dataset.json or index.parquet; None where it is missing."""
        return self._open(name, cache_type="readahead", block_size=_INDEX_BLOCK_BYTES)

    def describe(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{name}"

    def _open(self, name: str, **options: Any) -> BinaryIO | None:
        path = f"{self._root.rstrip('/')}/{name}"
        try:
            with naming_failures(self.describe(name)):
                file = self._files.open(path, "rb", **options)
                return cast(BinaryIO, file) if _has_ranges(file) else self._copy(path)
        except FileNotFoundError:
            return None

    def _copy(self, path: str) -> BinaryIO:
        copy = tempfile.TemporaryFile()  # noqa: SIM115  (it is deleted when the last user lets go of it)
        self._files.get_file(path, copy)
        copy.seek(0)
        return cast(BinaryIO, copy)


class RemoteSource:
    """One remote shard."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Take an open file; `name` is for messages."""
        self._file = file
        self._name = name
        self._lock = threading.Lock()  # place and bytes belong together
        self.num_bytes = file.seek(0, 2)

    def read_at(self, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Return up to `num_bytes` bytes from `start`: fewer only where the file ends."""
        wanted = min(num_bytes, max(0, self.num_bytes - start))
        with self._lock, naming_failures(self._name):
            self._file.seek(start)
            data = self._file.read(wanted)
        return np.frombuffer(bytearray(data), np.uint8)  # that may be written to


@contextmanager
def naming_failures(name: str) -> Iterator[None]:
    """Turn what a network does wrong into OSError with the name of the file; a missing file stays what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, aiohttp.ClientError, fsspec.exceptions.FSTimeoutError) as error:
        raise OSError(f"{name}: cannot be read: {type(error).__name__}: {error}") from error


def _has_ranges(file: Any) -> bool:
    """Say whether one byte from the middle can be had alone."""
    if not isinstance(file, fsspec.spec.AbstractBufferedFile):
        return bool(file.seekable())  # a file of this machine, or one in memory
    if file.size is None or not file.seekable():
        return False
    if file.size < 2:
        return True
    try:
        file.seek(1)
        file.read(1)
    except ValueError:  # fsspec's word for a server that answers with the whole file
        return False
    file.seek(0)
    return True
