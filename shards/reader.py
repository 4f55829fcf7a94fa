"""Reads shards: one sample by its place, or a shard from end to end."""

import errno
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from shards.dataset_info import DatasetInfo, read_dataset_info
from shards.index import IndexRow
from shards.metadata import check_metadata, decode_metadata
from shards.npy import decode_array
from shards.per_process import ForkSafeLock
from shards.sample import Sample, check_lengths, is_key
from shards.schema import ARRAY_FIELDS, CODEBOOK_SIZE, FIELDS, METADATA, ShardError
from shards.storage import ByteSource, Root, find_shard, open_storage
from shards.tar import BLOCK_BYTES, END_MARK, build_header, pad_size, parse_header

__all__ = ["RawSample", "Sample", "ShardReader", "find_shard", "walk_shard"]

MAX_OPEN_SHARDS = 64  # far below the 1024 open files that systems allow, far above the shards of a shuffle window
_DISK_FAULTS = {errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT}  # of one file; others are of the machine
_CHUNK_BYTES = 8 * 2**20  # of sequential reading: one request to a remote server

_Bytes = NDArray[np.uint8]


@dataclass(slots=True, kw_only=True, eq=False)
class RawSample:
    """The bytes of one sample as they stand in a shard, from its first header to its last padding."""

    key: str
    start: int  # of `data` in the shard
    data: _Bytes
    members: tuple[tuple[int, int], ...]  # offset in the shard and size of each member's data, in the order of FIELDS

    def decode(self, where: str, codebook_size: int) -> Sample:
        """Return the sample; its arrays are views on `data`.

        Raises:
            ShardError: a member is not what the format says, or they do not fit each other.
        """
        begins = [offset - self.start for offset, _ in self.members]
        contents = [
            self.data[begin : begin + num_bytes] for begin, (_, num_bytes) in zip(begins, self.members, strict=True)
        ]
        metadata = decode_metadata(contents[0], where)
        check_metadata(metadata, where)
        arrays: dict[str, Any] = {
            field.name: decode_array(data, field, where) for field, data in zip(ARRAY_FIELDS, contents[1:], strict=True)
        }
        sample = Sample(key=self.key, metadata=metadata, **arrays)
        check_lengths(sample, where, codebook_size=codebook_size)
        return sample


class ShardReader:
    """Reads the shards of one dataset; nothing outside of it, and nothing but what its index names.

    Keeps a few shards open. May be shared by threads, pickled and forked, also while threads are reading: a forked
    process reads local shards through the same descriptors and opens remote ones anew.
    """

    def __init__(self, root: Root) -> None:
        """Remember the folder or URL; dataset.json and shards are opened when they are needed."""
        self.root = root
        self._storage = open_storage(root)
        self._info: DatasetInfo | None = None
        self._lock = ForkSafeLock()
        self._open: OrderedDict[str, ByteSource] = OrderedDict()

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[Root]]:
        """Open files stay where they are."""
        return ShardReader, (self.root,)

    @property
    def info(self) -> DatasetInfo:
        """Return dataset.json, read once; without a lock, so threads that ask first may read it twice."""
        if self._info is None:
            self._info = read_dataset_info(self.root)
        return self._info

    def read(self, row: IndexRow) -> Sample:
        """Return the sample that `row` of the index names, checked against the row and its checksum.

        One read of consecutive bytes; the arrays are views on them.

        Raises:
            ShardError: the shard is missing or too short, or the bytes are not those that the index describes.
        """
        where = f"{row.shard}: sample {row.key!r}"
        sample = self.read_raw(row).decode(where, self.info.codebook_size)
        if sample.latent_channels != self.info.latent_channels:
            raise ShardError(
                f"{where}: {sample.latent_channels} latent channels, dataset.json says {self.info.latent_channels}"
            )
        return sample

    def read_raw(self, row: IndexRow) -> RawSample:
        """Return the bytes of a sample, checked against the index, its checksum and the headers that it must have.

        Raises:
            ShardError: the shard is missing or too short, its disk or network cannot read it (UnreadableError, after
                more tries), or the bytes are not those that the index describes.
        """
        where = f"{row.shard}: sample {row.key!r}"
        try:
            source = self._source(row.shard)
            data = source.read_at(row.start, row.end - row.start)
        except OSError as error:
            if error.errno not in _DISK_FAULTS:
                raise
            raise ShardError(f"{where}: the disk or its server cannot read it: {error.strerror}") from error
        if row.end > source.num_bytes:
            raise ShardError(f"{where}: ends at byte {row.end}, but the shard has {source.num_bytes}: it was cut")
        if len(data) != row.end - row.start:
            raise ShardError(f"{where}: ends after {len(data)} of {row.end - row.start} bytes: the shard was cut")
        if crc32(data.data) != row.crc32:
            raise ShardError(f"{where}: checksum differs from the index: the shard is damaged or the index is stale")
        for field, (offset, num_bytes) in zip(FIELDS, row.members, strict=True):
            begin = offset - row.start
            if data[begin - BLOCK_BYTES : begin].tobytes() != build_header(f"{row.key}.{field.suffix}", num_bytes):
                raise ShardError(f"{where}: byte {offset - BLOCK_BYTES} starts no header of {field.suffix}")
        return RawSample(key=row.key, start=row.start, data=data, members=row.members)

    def iterate(self, shard: Path | str) -> Iterator[Sample]:
        """Yield the samples of a shard in order; one sample is in memory at a time.

        Needs neither the index nor dataset.json, so it also reads shards of a dataset that is not finished.

        Args:
            shard: path relative to the root, such as "train/000000.tar", or a path inside the root.

        Raises:
            ShardError: at the first sample that is cut, damaged, out of order or there twice.
        """
        for raw in walk_shard(self._storage.open_shard(shard), str(shard)):
            yield raw.decode(f"{shard}: sample {raw.key!r}", CODEBOOK_SIZE)

    def _source(self, shard: str) -> ByteSource:
        """Return a shard that is open; the one that was not used for longest makes room."""
        with self._lock:
            source = self._open.get(shard)
            if source is None:
                source = self._open[shard] = self._storage.open_shard(shard)
                if len(self._open) > MAX_OPEN_SHARDS:
                    self._open.popitem(last=False)  # closed when the last thread that reads it is done
            self._open.move_to_end(shard)
            return source


def walk_shard(source: ByteSource, shard: str) -> Iterator[RawSample]:
    """Yield the samples of a shard as bytes, judged by headers and order alone.

    Raises:
        ShardError: at the first sample that is cut, out of order or there twice, and where the end mark is not.
    """
    seen: set[str] = set()
    cursor = _Cursor(source)
    while (first := _read_header(cursor, shard)) is not None:
        key = _parse_first_name(first[0], shard)
        where = f"{shard}: sample {key!r}"
        if key in seen:
            raise ShardError(f"{where}: is there twice")
        seen.add(key)
        start = cursor.position - BLOCK_BYTES
        members = [_skip_member(cursor, first[1], where)]
        for field in ARRAY_FIELDS:
            header = _read_header(cursor, where)
            if header is None or header[0] != f"{key}.{field.suffix}":
                found = "the end of the shard" if header is None else repr(header[0])
                raise ShardError(f"{where}: expected {field.suffix}, found {found}; members have a fixed order")
            members.append(_skip_member(cursor, header[1], where))
        data = cursor.since(start)
        for offset, num_bytes in members:
            begin = offset - start + num_bytes
            if data[begin : begin - num_bytes + pad_size(num_bytes)].any():
                raise ShardError(f"{where}: bytes that are not zero after a member")
        yield RawSample(key=key, start=start, data=data, members=tuple(members))


class _Cursor:
    """A place in a shard that moves forward, and the bytes around it."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._chunk: _Bytes = np.empty(0, np.uint8)
        self._chunk_start = 0
        self.position = 0

    @property
    def bytes_left(self) -> int:
        return self._source.num_bytes - self.position

    def take(self, num_bytes: int) -> bytes:
        """Return the next bytes, fewer at the end of the shard, and move behind them."""
        begin = self.position - self._chunk_start
        if not 0 <= begin <= len(self._chunk) - num_bytes:
            self._chunk = self._source.read_at(self.position, max(num_bytes, _CHUNK_BYTES))
            self._chunk_start, begin = self.position, 0
        data = self._chunk[begin : begin + num_bytes].tobytes()
        self.position += len(data)
        return data

    def since(self, start: int) -> _Bytes:
        """Return a copy of the bytes from `start` to here."""
        begin, end = start - self._chunk_start, self.position - self._chunk_start
        if begin >= 0 and end <= len(self._chunk):
            return self._chunk[begin:end].copy()
        return self._source.read_at(start, self.position - start)


def _read_header(cursor: _Cursor, where: str) -> tuple[str, int] | None:
    """Return name and size of the next member, or None at the end mark, which must be the end of the file."""
    block = cursor.take(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise ShardError(f"{where}: no end mark: the shard was cut")
    if block != END_MARK[:BLOCK_BYTES]:
        return parse_header(block, where)
    if cursor.take(BLOCK_BYTES + 1) != END_MARK[BLOCK_BYTES:]:
        raise ShardError(f"{where}: bytes after the end mark, or half an end mark")
    return None


def _skip_member(cursor: _Cursor, num_bytes: int, where: str) -> tuple[int, int]:
    """Move behind a member, which the shard must still hold, and return where its data lies."""
    offset, padded = cursor.position, pad_size(num_bytes)
    if padded > cursor.bytes_left:
        raise ShardError(f"{where}: a member of {num_bytes} bytes, but the shard ends after {cursor.bytes_left}: cut")
    cursor.position += padded
    return offset, num_bytes


def _parse_first_name(name: str, where: str) -> str:
    key, _, suffix = name.partition(".")
    if suffix != METADATA.suffix or not is_key(key):
        raise ShardError(f"{where}: found {name!r}, expected <key>.{METADATA.suffix}; members have a fixed order")
    return key
