"""Reads shards: one sample by its place, or a shard from end to end."""

import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.dataset_info import DatasetInfo, read_dataset_info
from shards.index import IndexRow, parse_shard_name
from shards.metadata import check_metadata, decode_metadata
from shards.npy import decode_array
from shards.sample import Sample, check_lengths, is_key
from shards.schema import ARRAY_FIELDS, CODEBOOK_SIZE, FIELDS, METADATA, ShardError
from shards.tar import BLOCK_BYTES, END_MARK, build_header, pad_size, parse_header

__all__ = ["Sample", "ShardReader", "find_shard"]

_Bytes = NDArray[np.uint8]


class ShardReader:
    """Reads the shards of one dataset; nothing outside its folder, and nothing but what its index names.

    Holds no open files, so it may be shared by threads, pickled and forked.
    """

    def __init__(self, root: Path) -> None:
        """Remember the folder; dataset.json and shards are opened when they are needed."""
        self.root = root

    @cached_property
    def info(self) -> DatasetInfo:
        """Return dataset.json, read once."""
        return read_dataset_info(self.root)

    def read(self, row: IndexRow) -> Sample:
        """Return the sample that `row` of the index names, checked against the row and its checksum.

        One read of consecutive bytes; the arrays are views on them.

        Raises:
            ShardError: the shard is missing or too short, or the bytes are not those that the index describes.
        """
        where = f"{row.shard}: sample {row.key!r}"
        with self._open(row.shard) as file:
            shard_bytes = os.fstat(file.fileno()).st_size
            if row.end > shard_bytes:
                raise ShardError(f"{where}: ends at byte {row.end}, but the shard has {shard_bytes}: it was cut")
            data = np.empty(row.end - row.start, np.uint8)
            file.seek(row.start)
            _fill(file, data, where)
        if zlib.crc32(data.data) != row.crc32:
            raise ShardError(f"{where}: checksum differs from the index: the shard is damaged or the index is stale")
        members = []
        for field, (offset, num_bytes) in zip(FIELDS, row.members, strict=True):
            begin = offset - row.start
            if data[begin - BLOCK_BYTES : begin].tobytes() != build_header(f"{row.key}.{field.suffix}", num_bytes):
                raise ShardError(f"{where}: byte {offset - BLOCK_BYTES} starts no header of {field.suffix}")
            members.append(data[begin : begin + num_bytes])
        sample = _decode(row.key, members, where, self.info.codebook_size)
        if sample.latent_channels != self.info.latent_channels:
            raise ShardError(
                f"{where}: {sample.latent_channels} latent channels, dataset.json says {self.info.latent_channels}"
            )
        return sample

    def iterate(self, shard: Path | str) -> Iterator[Sample]:
        """Yield the samples of a shard in order; one sample is in memory at a time.

        Needs neither the index nor dataset.json, so it also reads shards of a dataset that is not finished.

        Args:
            shard: path relative to the root, such as "train/000000.tar", or a path inside the root.

        Raises:
            ShardError: at the first sample that is cut, damaged, out of order or there twice.
        """
        seen: set[str] = set()
        with self._open(shard) as file:
            while (first := _read_header(file, str(shard))) is not None:
                key = _parse_first_name(first[0], str(shard))
                where = f"{shard}: sample {key!r}"
                if key in seen:
                    raise ShardError(f"{where}: is there twice")
                seen.add(key)
                members = [_read_member(file, first[1], where)]
                for field in ARRAY_FIELDS:
                    header = _read_header(file, where)
                    if header is None or header[0] != f"{key}.{field.suffix}":
                        found = "the end of the shard" if header is None else repr(header[0])
                        raise ShardError(f"{where}: expected {field.suffix}, found {found}; members have a fixed order")
                    members.append(_read_member(file, header[1], where))
                yield _decode(key, members, where, CODEBOOK_SIZE)

    def _open(self, shard: Path | str) -> BufferedReader:
        return find_shard(self.root, shard).open("rb")


def find_shard(root: Path, shard: Path | str) -> Path:
    """Return where `shard` of the dataset in `root` lies.

    Raises:
        ShardError: it is missing, no plain file, or leads out of the dataset, also through a link.
    """
    resolved_root = root.resolve()
    path = (resolved_root / shard).resolve()
    if not path.is_relative_to(resolved_root):
        raise ShardError(f"shard {str(shard)!r} leads out of the dataset {root}")
    parse_shard_name(path.relative_to(resolved_root).as_posix())
    if not path.is_file():
        raise ShardError(f"{shard}: missing from {root}; copy it there or extract the dataset again")
    return path


def _decode(key: str, members: list[_Bytes], where: str, codebook_size: int) -> Sample:
    metadata = decode_metadata(members[0], where)
    check_metadata(metadata, where)
    arrays: dict[str, Any] = {
        field.name: decode_array(data, field, where) for field, data in zip(ARRAY_FIELDS, members[1:], strict=True)
    }
    sample = Sample(key=key, metadata=metadata, **arrays)
    check_lengths(sample, where, codebook_size=codebook_size)
    return sample


def _fill(file: BufferedReader, data: _Bytes, where: str) -> None:
    """Read exactly as many bytes as `data` has room for."""
    num_bytes = file.readinto(data.data)
    if num_bytes != len(data):
        raise ShardError(f"{where}: ends after {num_bytes} of {len(data)} bytes: the shard was cut")


def _read_header(file: BufferedReader, where: str) -> tuple[str, int] | None:
    """Return name and size of the next member, or None at the end mark, which must be the end of the file."""
    block = file.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise ShardError(f"{where}: no end mark: the shard was cut")
    if block != END_MARK[:BLOCK_BYTES]:
        return parse_header(block, where)
    if file.read(BLOCK_BYTES + 1) != END_MARK[BLOCK_BYTES:]:
        raise ShardError(f"{where}: bytes after the end mark, or half an end mark")
    return None


def _read_member(file: BufferedReader, num_bytes: int, where: str) -> _Bytes:
    """Read the data of a member and its padding; allocates no more than the file can still hold."""
    padded = pad_size(num_bytes)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if padded > left:
        raise ShardError(f"{where}: a member of {num_bytes} bytes, but the shard ends after {left}: it was cut")
    data = np.empty(padded, np.uint8)
    _fill(file, data, where)
    if data[num_bytes:].any():
        raise ShardError(f"{where}: bytes that are not zero after a member")
    return data[:num_bytes]


def _parse_first_name(name: str, where: str) -> str:
    key, _, suffix = name.partition(".")
    if suffix != METADATA.suffix or not is_key(key):
        raise ShardError(f"{where}: found {name!r}, expected <key>.{METADATA.suffix}; members have a fixed order")
    return key
