"""index.parquet: one row per sample, with the place of each of its members in a shard."""

import re
from collections.abc import Iterable, Iterator
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
from shards.metadata import is_sha256
from shards.sample import is_key
from shards.schema import FIELDS, MAX_MEMBER_BYTES, MAX_NUM_FRAMES, SCHEMA_VERSION, SPLITS, ShardError
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

INDEX_NAME = "index.parquet"
_VERSION_KEY = b"shards_schema_version"
_ROWS_PER_GROUP = 65_536  # rows that a query reads or skips together
_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,199}}\.tar")


def parse_shard_name(shard: str) -> tuple[str, str]:
    """Return the split of `shard` and `shard` itself, if it is a name that stays inside the dataset.

    Raises:
        ShardError: not `<split>/<name>.tar` with a plain name.
    """
    match = _SHARD_NAME.fullmatch(shard)
    if match is None:
        raise ShardError(f"shard {shard!r}: expected {' or '.join(SPLITS)}, a slash, a plain name, .tar")
    return match.group(1), shard


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
        for column in fields(self):
            if type(getattr(self, column.name)) is not column.type:
                raise self._error(f"{column.name} is {getattr(self, column.name)!r}, expected {column.type}")
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


_ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_COLUMNS = tuple(column.name for column in fields(IndexRow))
_ARROW_SCHEMA = pa.schema(
    [pa.field(column.name, _ARROW_TYPES[column.type], nullable=False) for column in fields(IndexRow)],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode("ascii")},
)


class Index:
    """The rows of a dataset, sorted by split, shard and place in the shard; kept as columns, so millions fit."""

    def __init__(self, table: pa.Table) -> None:
        """Take a table with the columns of IndexRow; `read_index` makes one."""
        self.table = table

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[IndexRow]:
        """Yield every row; a damaged one raises ShardError when it is reached."""
        for batch in self.table.to_batches(max_chunksize=_ROWS_PER_GROUP):
            for record in batch.to_pylist():
                yield IndexRow(**record)

    def row(self, number: int) -> IndexRow:
        """Return row `number`, 0 <= number < len(self)."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)} rows")
        return IndexRow(**self.table.slice(number, 1).to_pylist()[0])

    def column(self, name: str) -> NDArray[Any]:
        """Return one column as an array, such as num_frames."""
        return np.asarray(self.table.column(name).to_numpy())

    def find(self, name: str) -> int | None:
        """Return the number of the row whose key or song_id is `name`, or None."""
        for column in ("key", "song_id"):
            number = pc.index(self.table.column(column), name).as_py()
            if number >= 0:
                return int(number)
        return None

    def select(self, split: str) -> "Index":
        """Return the rows of one split."""
        if split not in SPLITS:
            raise ShardError(f"split {split!r}: expected {' or '.join(SPLITS)}")
        return Index(self.table.filter(pc.equal(self.table.column("split"), split)))


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
    columns = zip(*(astuple(row) for row in ordered), strict=True)
    arrays = [pa.array(values, column.type) for values, column in zip(columns, _ARROW_SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=_ARROW_SCHEMA)
    with open_atomic(root / INDEX_NAME) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=_ROWS_PER_GROUP)


def read_index(root: Path | str) -> Index:
    """Return the index of the dataset in `root`.

    Raises:
        ShardError: missing, not Parquet, of another schema version, with other columns, or absurdly long or empty.
    """
    path = Path(root) / INDEX_NAME
    if not path.is_file():
        raise ShardError(
            f"{path} is missing; name a folder that jobs/extract_tokens.py --out has finished, or run it again: "
            "it writes the index last"
        )
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            if file.metadata.num_rows > path.stat().st_size:  # no row takes less than a byte
                raise ShardError(f"{path}: claims {file.metadata.num_rows} rows, more than it has bytes")
            table = file.read()
        table.validate(full=True)
    except ShardError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        raise ShardError(f"{path} cannot be read as Parquet: {error}; write the index again") from error
    if not table.num_rows:
        raise ShardError(f"{path}: holds no samples; extract the dataset again")
    if any(column.null_count for column in table.itercolumns()):
        raise ShardError(f"{path}: holds empty cells; write the index again")
    return Index(table.combine_chunks())


def _refuse_twice(name: str, values: list[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ShardError(f"index: {name} {value!r} is there twice; every song is in a dataset once")
        seen.add(value)


def _check_columns(path: Path, schema: pa.Schema) -> None:
    found_version = (schema.metadata or {}).get(_VERSION_KEY, b"none")
    if found_version != _ARROW_SCHEMA.metadata[_VERSION_KEY]:
        raise ShardError(
            f"{path}: schema version {found_version.decode('ascii', 'replace')!r}, this reader knows {SCHEMA_VERSION}; "
            "update the checkout or extract the dataset again"
        )
    expected = dict(zip(_COLUMNS, _ARROW_SCHEMA.types, strict=True))
    found = dict(zip(schema.names, schema.types, strict=True))
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ShardError(f"{path}: column {name} is {found.get(name)}, expected {expected.get(name)}")
