"""Writes shards: plain WebDataset tar files whose bytes depend on the samples alone."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from isal.isal_zlib import crc32
from numpy.typing import NDArray

from shards.atomic_file import open_atomic
from shards.index import IndexRow
from shards.metadata import encode_metadata
from shards.names import parse_shard_name
from shards.npy import encode_array
from shards.reader import RawSample
from shards.sample import Sample, check_sample
from shards.schema import ARRAY_FIELDS, FIELDS, MAX_KEY_BYTES, METADATA, ShardError
from shards.tar import END_MARK, build_header, pad_size

_HASH_DIGITS = 16  # 64 bits: two of ten million songs share a key with a chance of 3 in a million


def make_key(song_id: str) -> str:
    """Return the key of a song: what is ASCII in its id, for people, and a hash of the whole id, to be unique."""
    if not song_id:
        raise ShardError("a song without an id has no key")
    digest = hashlib.sha256(song_id.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    plain = unicodedata.normalize("NFKD", song_id).encode("ascii", "ignore").decode("ascii")
    readable = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[: MAX_KEY_BYTES - _HASH_DIGITS - 1].rstrip("-")
    return f"{readable or 'song'}-{digest}"


def encode_sample(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> list[tuple[str, bytes]]:
    """Return the members of a sample in their order: (suffix, bytes).

    Args:
        metadata: what `<key>.json` holds.
        arrays: field name to array; byte order and memory layout may be any.
    """
    names = [field.name for field in ARRAY_FIELDS]
    if sorted(arrays) != sorted(names):
        raise ShardError(f"a sample has the arrays {', '.join(names)}; found {', '.join(sorted(arrays)) or 'none'}")
    encoded = encode_metadata(metadata, f"sample of song {metadata.get('song_id')!r}")
    return [
        (METADATA.suffix, encoded),
        *((field.suffix, encode_array(arrays[field.name], field)) for field in ARRAY_FIELDS),
    ]


def write_shard(path: Path, samples: Iterable[Sample]) -> list[IndexRow]:
    """Write one shard and return the index rows of its samples; the same samples give the same bytes.

    Holds one sample at a time. The file appears under its name only when it is complete and on the disk; on an
    error nothing is left behind.

    Args:
        path: `<root>/<split>/<name>.tar`; the last two parts are what the index calls the shard.
        samples: checked one by one before they are written; at least one.

    Raises:
        ShardError: a sample that the format does not allow, a key twice, channels that change, or no sample at all.
    """
    split, shard = parse_shard_name(f"{path.parent.name}/{path.name}")
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    latent_channels: int | None = None
    with open_atomic(path) as file:
        output = _HashingFile(file)
        for sample in samples:
            check_sample(sample, f"{shard}: sample {sample.key!r}")
            if sample.key in keys:
                raise ShardError(f"{shard}: key {sample.key!r} comes twice")
            keys.add(sample.key)
            if latent_channels not in (None, sample.latent_channels):
                raise ShardError(
                    f"{shard}: sample {sample.key!r} has {sample.latent_channels} latent channels, "
                    f"expected {latent_channels} as in the samples before"
                )
            latent_channels = sample.latent_channels
            rows.append(_write_sample(output, sample))
            del sample  # before the next one is made, so that one is in memory at a time
        if not rows:
            raise ShardError(f"{shard}: no samples; a shard holds at least one")
        output.write(END_MARK)
        num_bytes, sha256 = output.num_bytes, output.sha256.hexdigest()
        return [IndexRow(split=split, shard=shard, shard_bytes=num_bytes, shard_sha256=sha256, **row) for row in rows]


class _HashingFile:
    """A binary file that knows how much was written to it, and the hash of that."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()
        self.crc32 = 0  # of the current sample

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.num_bytes += len(data)
        self.sha256.update(data)
        self.crc32 = crc32(data, self.crc32)


def describe_row(sample: Sample, raw: RawSample, shard: str, shard_bytes: int, shard_sha256: str) -> IndexRow:
    """Return the index row of a sample that stands in a shard already."""
    places: dict[str, Any] = {
        name: value
        for field, (offset, num_bytes) in zip(FIELDS, raw.members, strict=True)
        for name, value in ((f"{field.name}_offset", offset), (f"{field.name}_bytes", num_bytes))
    }
    split, shard = parse_shard_name(shard)
    return IndexRow(
        split=split,
        shard=shard,
        shard_bytes=shard_bytes,
        shard_sha256=shard_sha256,
        crc32=crc32(raw.data.data),
        **places,
        **_describe_song(sample),
    )


def _describe_song(sample: Sample) -> dict[str, Any]:
    return {
        "key": sample.key,
        "song_id": sample.metadata["song_id"],
        "num_frames": sample.num_frames,
        "language": sample.metadata["language"],
        "duration_s": float(sample.metadata["duration_s"]),
        "sha256": sample.metadata["provenance"]["sha256"],
    }


def _write_sample(output: _HashingFile, sample: Sample) -> dict[str, Any]:
    """Write the members of `sample` and return the columns of its index row, except those about the whole shard."""
    row = _describe_song(sample)
    output.crc32 = 0
    for field, (suffix, data) in zip(FIELDS, encode_sample(sample.metadata, sample.arrays), strict=True):
        output.write(build_header(f"{sample.key}.{suffix}", len(data)))
        row[f"{field.name}_offset"] = output.num_bytes
        row[f"{field.name}_bytes"] = len(data)
        output.write(data)
        output.write(bytes(pad_size(len(data)) - len(data)))
    row["crc32"] = output.crc32
    return row
