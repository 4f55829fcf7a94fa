"""index.parquet: one row per sample, with the place of each of its members in a shard."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.atomic_file import open_atomic
from shards.dataset_info import DatasetInfo, read_dataset_info, write_dataset_info
from shards.index_file import INDEX_NAME, ROWS_PER_GROUP, IndexFile
from shards.metadata import is_sha256
from shards.names import parse_shard_name
from shards.sample import is_key
from shards.schema import FIELDS, MAX_MEMBER_BYTES, MAX_NUM_FRAMES, SCHEMA_VERSION, SPLITS, ShardError
from shards.storage import Root
from shards.tar import BLOCK_BYTES, END_MARK, pad_size

__all__ = [
    "INDEX_NAME",
    "DatasetInfo",
    "Index",
    "IndexRow",
    "parse_shard_name",
    "read_dataset_info",
    "read_index",
    "write_dataset_info",
    "write_index",
]

_VERSION_KEY = b"shards_schema_version"


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
        for name, kind in _COLUMN_TYPES:
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


_COLUMN_TYPES: tuple[tuple[str, Any], ...] = tuple((column.name, column.type) for column in fields(IndexRow))
_ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_ARROW_SCHEMA = pa.schema(
    [pa.field(name, _ARROW_TYPES[kind], nullable=False) for name, kind in _COLUMN_TYPES],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode("ascii")},
)


class Index:
    """The rows of a dataset, sorted by split, shard and place in the shard.

    Columns and rows are read when they are asked for, so an index of millions of rows opens at once and takes little
    memory. May be shared by threads, pickled, and forked while threads are reading.
    """

    def __init__(self, file: IndexFile, rows: range) -> None:
        """Take some rows of a file; `read_index` takes all."""
        self._file = file
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._rows)

    def __iter__(self) -> Iterator[IndexRow]:
        """Yield every row; a damaged one raises ShardError when it is reached."""
        for first, table in self._file.groups(self._rows.start, self._rows.stop):
            skipped = max(0, self._rows.start - first)
            rows = table.slice(skipped, self._rows.stop - first - skipped)
            for batch in rows.to_batches(max_chunksize=ROWS_PER_GROUP):  # other tools write groups of a million rows
                for record in batch.to_pylist():
                    yield IndexRow(**record)

    def row(self, number: int) -> IndexRow:
        """Return row `number`, 0 <= number < len(self)."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)} rows")
        return IndexRow(**self._file.record(self._rows[number]))

    def column(self, name: str) -> NDArray[Any]:
        """Return one column as an array, such as num_frames."""
        column = self._file.column(name).slice(self._rows.start, len(self))
        if pa.types.is_primitive(column.type):
            return np.from_dlpack(column)  # to_numpy would import pandas: a quarter of a second
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def codes(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """Return a column of few values, such as shard, as numbers of values, and the values.

        The numbers are int32 [len(self)]; a value may be in the list without being in these rows.
        """
        column = self._file.column(name)
        codes = column.indices.slice(self._rows.start, len(self))
        return np.asarray(np.from_dlpack(codes), np.int32), column.dictionary.to_pylist()

    def check_cells(self) -> None:
        """Raise ShardError unless every cell can be read; what rows say is not judged."""
        for _ in self._file.groups(self._rows.start, self._rows.stop):
            pass

    def find(self, name: str) -> int | None:
        """Return the number of the row whose key or song_id is `name`, or None."""
        for column in ("key", "song_id"):
            number = pc.index(self._file.column(column), name).as_py()
            if number in self._rows:
                return int(number) - self._rows.start
        return None

    def select(self, split: str) -> "Index":
        """Return the rows of one split, which stand together."""
        if split not in SPLITS:
            raise ShardError(f"split {split!r}: expected {' or '.join(SPLITS)}")
        codes, splits = self.codes("split")
        is_chosen = codes == splits.index(split) if split in splits else np.zeros(len(self), bool)
        num_chosen = int(is_chosen.sum())
        first = int(is_chosen.argmax())
        if not is_chosen[first : first + num_chosen].all():
            raise ShardError(f"{INDEX_NAME}: rows are not sorted by split; write the index again")
        first += self._rows.start
        return Index(self._file, range(first, first + num_chosen))


def write_index(root: Path, rows: Iterable[IndexRow]) -> None:
    """Write `root`/index.parquet; the same rows, in any order, give the same bytes.

    Raises:
        ShardError: no rows, or a key or a song that is there twice.
    """
    ordered = sorted(rows, key=lambda row: (row.split, row.shard, row.metadata_offset))
    if not ordered:
        raise ShardError(f"{root / INDEX_NAME}: no samples to write; an index without samples is of no use")
    for name in ("key", "song_id"):
        _refuse_twice(name, [getattr(row, name) for row in ordered])
    values = zip(*(astuple(row) for row in ordered), strict=True)
    columns = zip(_ARROW_SCHEMA, values, strict=True)
    write_index_columns(root, {field.name: pa.array(items, field.type) for field, items in columns})


def write_index_columns(root: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write `root`/index.parquet from the columns of IndexRow; the rows must be sorted, and keys and songs unique."""
    table = pa.Table.from_arrays([columns[name] for name in _ARROW_SCHEMA.names], schema=_ARROW_SCHEMA)
    with open_atomic(root / INDEX_NAME) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROWS_PER_GROUP, write_page_checksum=True)


def read_index(root: Root) -> Index:
    """Return the index of the dataset in the folder or behind the URL `root`.

    What a row says is checked when the row is read.

    Raises:
        ShardError: missing, not Parquet, of another schema version, with other columns, or absurdly long or empty.
    """
    file = IndexFile(root, _ARROW_SCHEMA, _VERSION_KEY)
    return Index(file, range(file.num_rows))


def _refuse_twice(name: str, values: list[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ShardError(f"index: {name} {value!r} is there twice; every song is in a dataset once")
        seen.add(value)
