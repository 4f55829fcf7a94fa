"""Datasets behind a URL: s3://, gs://, http(s):// and whatever else fsspec opens, read by byte range."""

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, cast

import aiohttp
import fsspec
import numpy as np
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from shards.names import parse_shard_name
from shards.per_process import PerProcess
from shards.remote_retry import Retrier
from shards.schema import ShardError
from shards.storage import ByteSource, LocalSource

_INDEX_BLOCK_BYTES = 2**20  # Parquet reads a footer and a few column chunks: small requests, read ahead
_ERRORS = (OSError, aiohttp.ClientError, fsspec.exceptions.FSTimeoutError)  # that a network raises
# Of one request over HTTP; what is long may take long as long as bytes arrive.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=20)


class RemoteStorage:
    """The files under a URL.

    A server that ignores byte ranges sends whole files; those are copied to a temporary file once and read there.
    Requests that fail are made again (`shards.remote_retry`), then raise UnreadableError.
    Connections belong to the process that made them: a forked one makes its own.
    """

    def __init__(self, url: str) -> None:
        """Choose the file system; nothing is fetched yet.

        Raises:
            ShardError: nothing installed opens such URLs.
        """
        self._url = url.rstrip("/")
        self._retrier = Retrier(_ERRORS)
        self._files = PerProcess(self._connect)
        self._files.get()

    def open_shard(self, shard: Any) -> ByteSource:
        """Open a shard; see Storage."""
        _, name = parse_shard_name(str(shard))
        source = self._open(name, cache_type="none")
        if source is None:
            raise ShardError(f"{name}: missing from {self._url}; copy it there or extract the dataset again")
        return source

    def open_file(self, name: str) -> ByteSource | None:
        """Open dataset.json or index.parquet; None where it is missing."""
        return self._open(name, cache_type="readahead", block_size=_INDEX_BLOCK_BYTES)

    def describe(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{name}"

    def _connect(self) -> tuple[Any, str]:
        """Return a file system, which is untyped, and the path in it."""
        is_http = self._url.startswith(("http://", "https://"))
        options = {"client_kwargs": {"timeout": _TIMEOUT}} if is_http else {}
        try:
            files, root = url_to_fs(self._url, **options)
        except (ImportError, ValueError) as error:
            remedy = "s3:// and gs:// need `.uv/bin/uv pip install -e '.[cloud]'`, other URLs what fsspec names"
            raise ShardError(f"{self._url}: {error}; {remedy}") from error
        return files, root.rstrip("/")

    def _open(self, name: str, **options: Any) -> ByteSource | None:
        open_stream, url = partial(self._open_stream, name, **options), self.describe(name)

        def open_source() -> ByteSource:
            stream = open_stream()
            return RemoteSource(open_stream, stream, url, self._retrier) if _has_ranges(stream) else self._copy(name)

        try:
            return self._retrier.call(url, open_source)
        except FileNotFoundError:
            return None

    def _open_stream(self, name: str, **options: Any) -> BinaryIO:
        files, root = self._files.get()
        return cast(BinaryIO, files.open(f"{root}/{name}", "rb", **options))

    def _copy(self, name: str) -> LocalSource:
        files, root = self._files.get()
        with tempfile.TemporaryFile() as copy:
            files.get_file(f"{root}/{name}", copy)
            copy.flush()
            return LocalSource(os.dup(copy.fileno()))  # the file is deleted when the last user lets go of it


@dataclass(slots=True)
class _Stream:
    """An open file with one place in it, used by one thread at a time."""

    file: BinaryIO | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # place and bytes belong together


class RemoteSource:
    """One remote file. A forked process opens it anew, and leaves that of its parent alone."""

    def __init__(self, open_stream: Callable[[], BinaryIO], stream: BinaryIO, name: str, retrier: Retrier) -> None:
        """Take an open file, what opens it again, its URL for messages, and what tries again."""
        self._open_stream = open_stream
        self._name = name
        self._retrier = retrier
        self._stream = PerProcess(_Stream)
        self._stream.get().file = stream
        self.num_bytes = stream.seek(0, 2)

    def read_at(self, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Return up to `num_bytes` bytes from `start`: fewer only where the file ends.

        Raises:
            ShardError: they cannot be had, though it was tried again (UnreadableError), or the file is gone.
        """
        wanted = min(num_bytes, max(0, self.num_bytes - start))
        try:
            data = self._retrier.call(self._name, partial(self._read_once, start, wanted))
        except FileNotFoundError as error:
            raise ShardError(f"{self._name}: has disappeared since it was opened; copy it there again") from error
        return np.frombuffer(bytearray(data), np.uint8)  # that may be written to

    def _read_once(self, start: int, wanted: int) -> bytes:
        stream = self._stream.get()
        with stream.lock:
            file, stream.file = stream.file or self._open_stream(), None  # after a failure it is opened anew
            file.seek(start)
            data = file.read(wanted)
            stream.file = file
        if len(data) < wanted:
            raise OSError(f"{len(data)} of {wanted} bytes came")
        return data


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
