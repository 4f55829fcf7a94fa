"""One row of index.parquet: its columns, and what must hold in it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.metadata import is_sha256
from shards.names import parse_shard_name
from shards.sample import is_key
from shards.schema import FIELDS, MAX_MEMBER_BYTES, MAX_NUM_FRAMES, SCHEMA_VERSION, SPLITS, ShardError
from shards.tar import BLOCK_BYTES, END_MARK, pad_size

VERSION_KEY = b"shards_schema_version"
_MAX_START = 2**62  # of a sample; what lies behind is judged by IndexRow, whose numbers have no end


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One sample: what it is and where it lies. Offsets are of a member's data, in bytes from the shard's start."""

    key: str
    song_id: str
    split: str
    shard: str  # path relative to the root of the dataset, such as "train/000000.tar"
    num_frames: int
    language: str
    duration_s: float
    sha256: str  # of the audio file
    metadata_offset: int
    metadata_bytes: int
    semantic_tokens_offset: int
    semantic_tokens_bytes: int
    latents_offset: int
    latents_bytes: int
    latents_std_offset: int
    latents_std_bytes: int
    prompts_offset: int
    prompts_bytes: int
    crc32: int  # of all bytes of the sample in the shard, headers and padding included
    shard_bytes: int  # size of the shard
    shard_sha256: str

    def __post_init__(self) -> None:
        """Refuse a row that no writer makes, so that a reader may trust every row it is given."""
        for name, kind in _COLUMNS:
            if type(getattr(self, name)) is not kind:
                raise self._error(f"{name} is {getattr(self, name)!r}, expected {kind}")
        split, _ = parse_shard_name(self.shard)
        if split != self.split:
            raise self._error(f"split is {self.split!r}, but the shard is {self.shard!r}")
        if not is_key(self.key) or not self.song_id or not self.language:
            raise self._error("key, song_id and language must be names")
        if not 1 <= self.num_frames <= MAX_NUM_FRAMES or not 0 < self.duration_s < float("inf"):
            raise self._error(f"{self.num_frames} frames, {self.duration_s} s: no song")
        if not is_sha256(self.sha256) or not is_sha256(self.shard_sha256) or not 0 <= self.crc32 < 2**32:
            raise self._error("sha256, shard_sha256 or crc32 is not a checksum")
        self._check_offsets()

    @property
    def start(self) -> int:
        """Return the offset of the sample's first byte: the header of its metadata."""
        return self.metadata_offset - BLOCK_BYTES

    @property
    def end(self) -> int:
        """Return the offset after the sample's last byte: the padding of its prompts."""
        return self.prompts_offset + pad_size(self.prompts_bytes)

    @property
    def members(self) -> tuple[tuple[int, int], ...]:
        """Return offset and size of each member's data, in the order of FIELDS."""
        return tuple((getattr(self, f"{field.name}_offset"), getattr(self, f"{field.name}_bytes")) for field in FIELDS)

    def _check_offsets(self) -> None:
        position = self.start
        if position < 0 or position % BLOCK_BYTES:
            raise self._error(f"metadata_offset is {self.metadata_offset}, expected a block of {BLOCK_BYTES} bytes")
        for field, (offset, num_bytes) in zip(FIELDS, self.members, strict=True):
            position += BLOCK_BYTES
            if offset != position or not 1 <= num_bytes <= MAX_MEMBER_BYTES:
                raise self._error(
                    f"{field.name} has {num_bytes} bytes at {offset}, expected 1 to {MAX_MEMBER_BYTES} at {position}"
                )
            position += pad_size(num_bytes)
        if position + len(END_MARK) > self.shard_bytes:
            raise self._error(f"ends at byte {position} of a shard of {self.shard_bytes} bytes")

    def _error(self, problem: str) -> ShardError:
        return ShardError(f"index row {self.key!r}: {problem}; the index is damaged: write it again")


_COLUMNS: tuple[tuple[str, Any], ...] = tuple((column.name, column.type) for column in fields(IndexRow))
_ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
ROW_SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES[kind], nullable=False) for name, kind in _COLUMNS],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode("ascii")},
)


def batch_rows(rows: Sequence[IndexRow]) -> pa.RecordBatch:
    """Return rows as columns."""
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in ROW_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def replace_columns(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """Return rows with other values in some columns, and all types as in ROW_SCHEMA."""
    values = [columns.get(field.name, batch.column(field.name)).cast(field.type) for field in ROW_SCHEMA]
    return pa.RecordBatch.from_arrays(values, schema=ROW_SCHEMA)


def split_by_shard(batch: pa.RecordBatch) -> Iterator[tuple[str, int, int]]:
    """Yield (shard, first row, end) of each stretch of rows of one shard."""
    names = batch.column("shard").to_pylist()
    start = 0
    for shard, rows in groupby(names):
        end = start + len(list(rows))
        yield shard, start, end
        start = end


def read_row(batch: pa.RecordBatch, number: int) -> IndexRow:
    """Return row `number` of a batch that has the columns of ROW_SCHEMA.

    Raises:
        ShardError: no writer makes such a row.
    """
    return IndexRow(**{name: batch.column(name)[number].as_py() for name in ROW_SCHEMA.names})


def find_damaged(batch: pa.RecordBatch) -> Iterator[tuple[int, ShardError]]:
    """Yield (number in the batch, what is wrong) of each row that IndexRow refuses.

    Columns are judged as a whole, ten times as fast as row by row; a row that does not pass is judged by IndexRow.
    """
    for number in np.flatnonzero(~_are_sound(batch)).tolist():
        try:
            read_row(batch, number)
        except ShardError as error:
            yield number, error


def _are_sound(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Return for each row whether it surely holds what IndexRow demands; the types are those of the schema."""
    numbers = {
        field.name: np.from_dlpack(batch.column(field.name))
        for field in ROW_SCHEMA
        if pa.types.is_primitive(field.type)
    }
    start = numbers["metadata_offset"] - BLOCK_BYTES
    sound = (start >= 0) & (start < _MAX_START) & (start % BLOCK_BYTES == 0)
    position = np.where(sound, start, 0)
    for field in FIELDS:
        num_bytes = np.clip(numbers[f"{field.name}_bytes"], 0, MAX_MEMBER_BYTES + 1)  # no sum runs over
        position = position + BLOCK_BYTES
        sound &= (numbers[f"{field.name}_offset"] == position) & (num_bytes >= 1) & (num_bytes <= MAX_MEMBER_BYTES)
        position = position - (-num_bytes // BLOCK_BYTES) * BLOCK_BYTES  # padded
    sound &= position + len(END_MARK) <= numbers["shard_bytes"]
    sound &= (numbers["num_frames"] >= 1) & (numbers["num_frames"] <= MAX_NUM_FRAMES)
    sound &= (numbers["duration_s"] > 0) & (numbers["duration_s"] < np.inf)
    sound &= (numbers["crc32"] >= 0) & (numbers["crc32"] < 2**32)
    for name, holds in (("key", is_key), ("song_id", bool), ("language", bool), ("sha256", is_sha256)):
        sound &= _judge_values(batch.column(name), holds)
    sound &= _judge_values(batch.column("shard_sha256"), is_sha256)
    for split in SPLITS:
        is_split = _judge_values(batch.column("split"), split.__eq__)
        sound &= ~is_split | _judge_values(batch.column("shard"), partial(_is_shard_of, split))
    return np.asarray(sound & _judge_values(batch.column("split"), SPLITS.__contains__), np.bool_)


def _judge_values(column: pa.Array, holds: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Return for each row whether its text passes; each different text of a dictionary is judged once."""
    if not pa.types.is_dictionary(column.type):
        return np.fromiter(map(holds, column.to_pylist()), np.bool_, len(column))
    judged = np.fromiter(map(holds, column.dictionary.to_pylist()), np.bool_, len(column.dictionary))
    return np.asarray(judged[np.from_dlpack(column.indices)], np.bool_)


def _is_shard_of(split: str, shard: str) -> bool:
    try:
        return parse_shard_name(shard)[0] == split
    except ShardError:
        return False
