"""index.parquet as a file: opened and checked, then read by column or by row group, never as a whole."""

import io
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.parquet_pages import read_pages
from shards.per_process import ForkSafeLock, PerProcess
from shards.remote_retry import UnreadableError
from shards.schema import ShardError
from shards.storage import ByteSource, Root, open_storage

INDEX_NAME = "index.parquet"
ROWS_PER_GROUP = 8_192  # rows that are read together to get at one: a few milliseconds, 3 MB
_PART_ROWS = 32 * ROWS_PER_GROUP  # of a column that are read at once: a few megabytes
_GROUPS_KEPT = 64  # at most; more than the shards in the shuffle windows of all languages
_MAX_KEPT_BYTES = 256 * 2**20  # of all of them; the newest is kept whatever it takes
_FEW_VALUES = ["split", "shard", "language", "shard_sha256"]  # columns kept as numbers of values
_MAGIC = b"PAR1"  # the first bytes of the file; no page begins like that
_REMEDY = "write the index again (python -m shards repair)"

# What a reader accepts before it unpacks anything. Far above any index, whose rows have some 250 bytes in all columns.
_MIN_ROW_BYTES = 8  # in the file: what a key of its own and a CRC-32 come down to
_MAX_CELL_BYTES = 4_096  # the longest path that Linux opens
_MAX_MEAN_CELL_BYTES = 1_024  # over the rows of a group
_MAX_GROUP_BYTES = 512 * 2**20  # of a row group in all columns; a file written by other tools may have a million rows
_MAX_GROUPS = 32_768  # of ROWS_PER_GROUP: 268 million songs; also bounds every other list in the footer
_MIN_PAGE_ROWS = 256  # on average; Arrow writes 20000 rows or a megabyte
_MAX_SMALL_PAGES = 16  # beyond that: a dictionary, and what does not fill a page


class IndexFile:
    """An open index.parquet. May be shared by threads, pickled, and forked while threads are reading."""

    def __init__(self, root: Root, schema: pa.Schema, version_key: bytes) -> None:
        """Open the file of the dataset in `root` and check all but its rows.

        Args:
            root: folder or URL of the dataset.
            schema: names and types that the columns must have, and the schema version.
            version_key: where in the schema's metadata the version stands.

        Raises:
            ShardError: missing, not Parquet, of another schema version, with other columns, or absurdly long or empty.
        """
        storage = open_storage(root)
        self._arguments = (root, schema, version_key)
        self._name = storage.describe(INDEX_NAME)
        self._lock = ForkSafeLock()  # one reader of the file at a time
        self._groups: OrderedDict[int, tuple[pa.Table, int]] = OrderedDict()  # rows, and their bytes
        source = storage.open_file(INDEX_NAME)
        if source is None:
            raise ShardError(
                f"{self._name} is missing; name a folder that jobs/extract_tokens.py --out has finished, or run it "
                "again: it writes the index last"
            )
        self._source: ByteSource = source
        with self._naming_damage():
            file = _open(source, _accept)
            found = file.schema_arrow
            self._metadata: pq.FileMetaData = file.metadata
        _check_columns(self._name, found, schema, version_key)
        # Texts are read as numbers of values: one text for many rows then takes its memory once.
        self._texts = [name for name in found.names if schema.field(name).type == pa.string()]
        self._file = PerProcess(self._reopen)
        self.num_rows: int = self._metadata.num_rows
        if self.num_rows > source.num_bytes // _MIN_ROW_BYTES:
            raise ShardError(f"{self._name}: claims {self.num_rows} rows in {source.num_bytes} bytes; {_REMEDY}")
        if not self.num_rows:
            raise ShardError(f"{self._name}: holds no samples; extract the dataset again")
        sizes = [self._metadata.row_group(number).num_rows for number in range(self._metadata.num_row_groups)]
        if min(sizes, default=0) < 0 or sum(sizes) != self.num_rows:
            raise ShardError(f"{self._name}: claims {self.num_rows} rows, its groups hold {sum(sizes)}; {_REMEDY}")
        self._starts = np.cumsum([0, *sizes])  # first row of each group, then the end
        self._max_group_rows = max(sizes)
        self._bytes_left = 0  # that the pages of what is being read may still claim

    def __reduce__(self) -> tuple[type["IndexFile"], tuple[Any, ...]]:
        """An open file stays where it is."""
        return IndexFile, self._arguments

    def record(self, number: int) -> dict[str, Any]:
        """Return row `number` as column name to value."""
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        table = self._group(group)
        offset = number - int(self._starts[group])
        return {name: column[offset].as_py() for name, column in zip(table.column_names, table.columns, strict=True)}

    def groups(self, start: int, stop: int) -> Iterator[tuple[int, pa.Table]]:
        """Yield (number of its first row, rows) of each row group that holds any of rows [start, stop).

        Groups are kept where the rows are so few that their neighbours are likely to be asked for next.
        """
        is_kept = stop - start <= ROWS_PER_GROUP
        for group, first in enumerate(self._starts[:-1].tolist()):
            if first < stop and self._starts[group + 1] > start:
                yield first, self._group(group, is_kept=is_kept)

    def column_parts(self, name: str, start: int, stop: int) -> Iterator[tuple[int, pa.Array]]:
        """Yield (number of its first row, values) of each part of a column that holds any of rows [start, stop).

        A part is some row groups; columns of few values are dictionary arrays, each with a list of its own.
        """
        first = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
        while first < len(self._starts) - 1 and self._starts[first] < stop:
            end = max(first + 1, int(np.searchsorted(self._starts, self._starts[first] + _PART_ROWS)))
            end = min(end, len(self._starts) - 1)
            num_rows = int(self._starts[end] - self._starts[first])
            with self._lock, self._naming_damage():
                self._bytes_left = _MAX_CELL_BYTES * (end - first + 1) + _MAX_MEAN_CELL_BYTES * num_rows
                table = self._file.get().read_row_groups(range(first, end), columns=[name])
                column = self._check(table).column(0)
                values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
                _check_length(len(values), num_rows)
            yield int(self._starts[first]), values
            first = end

    def _group(self, group: int, *, is_kept: bool = True) -> pa.Table:
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
                return self._groups[group][0]
            with self._naming_damage():
                self._bytes_left = _MAX_GROUP_BYTES
                table = self._check(self._file.get().read_row_group(group)).combine_chunks()
                _check_length(len(table), int(self._starts[group + 1] - self._starts[group]))
            if is_kept:
                self._groups[group] = table, table.nbytes
            while len(self._groups) > 1 and (
                len(self._groups) > _GROUPS_KEPT
                or sum(num_bytes for _, num_bytes in self._groups.values()) > _MAX_KEPT_BYTES
            ):
                self._groups.popitem(last=False)
            return table

    def _reopen(self) -> pq.ParquetFile:
        """Open the file for this process, with the footer as it was read first."""
        return _open(self._source, self._check_chunk, metadata=self._metadata, read_dictionary=self._texts)

    def _check_chunk(self, chunk: bytes) -> None:
        """Raise ShardError if the pages of a column in a row group claim more than those of any index hold.

        Arrow reads each chunk at once, so these are the bytes that it goes on to unpack. Where they should be is not
        asked of the footer: Arrow's view of a damaged one can end the process.
        """
        if chunk.startswith(_MAGIC):  # a group without rows names no place; Arrow reads the start, and no page there
            return
        max_pages = _MAX_SMALL_PAGES + self._max_group_rows // _MIN_PAGE_ROWS
        num_bytes = num_values = num_pages = most_values = 0
        for page in read_pages(chunk):
            num_pages += 1
            num_bytes += page.num_bytes
            num_values += 0 if page.is_dictionary else page.num_values
            most_values = max(most_values, num_values, page.num_values)
            if most_values > self._max_group_rows or num_bytes > self._bytes_left or num_pages > max_pages:
                break
        if (
            most_values > self._max_group_rows
            or num_bytes > min(self._bytes_left, _MAX_CELL_BYTES + _MAX_MEAN_CELL_BYTES * num_values)
            or num_pages > max_pages
        ):
            raise ShardError(
                f"a column claims {num_bytes} bytes of {most_values} values in {num_pages} pages; expected up to "
                f"{self._max_group_rows} values of {_MAX_MEAN_CELL_BYTES} bytes on average, in few pages"
            )
        self._bytes_left -= num_bytes

    def _check(self, table: pa.Table) -> pa.Table:
        """Return the rows, each text as it stands, if every cell holds a value of its type.

        Columns of few values stay numbers of values, of one list for all row groups.
        """
        table.validate(full=True)  # texts are UTF-8, numbers of values are in their list
        if any(column.null_count for column in table.itercolumns()):
            raise ShardError("holds empty cells")
        for number, name in enumerate(table.column_names):
            column = table.column(number)
            if pa.types.is_dictionary(column.type):
                chunks = [_unpack(chunk, name) for chunk in column.iterchunks()]
                kind = column.type if name in _FEW_VALUES else pa.string()
                table = table.set_column(number, name, pa.chunked_array(chunks, kind))
        return table.unify_dictionaries()

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except UnreadableError:
            raise
        except ShardError as error:
            raise ShardError(f"{self._name}: {error}; {_REMEDY}") from error
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
            reason = " ".join(str(error).split())
            raise ShardError(f"{self._name} cannot be read as Parquet: {reason}; {_REMEDY}") from error


def _check_length(found: int, expected: int) -> None:
    if found != expected:
        raise ShardError(f"holds {found} values where the footer has {expected}")


def _unpack(chunk: pa.DictionaryArray, name: str) -> pa.Array:
    """Return texts of a row group: columns of few values as they are, others with a text for each row."""
    lengths = pc.binary_length(chunk.dictionary)
    longest = pc.max(lengths).as_py() or 0
    if longest > _MAX_CELL_BYTES:
        raise ShardError(f"column {name} holds a text of {longest} bytes, expected at most {_MAX_CELL_BYTES}")
    if name in _FEW_VALUES:
        return chunk
    num_bytes = pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if num_bytes > _MAX_CELL_BYTES + _MAX_MEAN_CELL_BYTES * len(chunk):
        raise ShardError(
            f"column {name} holds {num_bytes} bytes in {len(chunk)} rows, expected at most {_MAX_MEAN_CELL_BYTES} a row"
        )
    return chunk.cast(pa.string())


class _File(io.RawIOBase):
    """A source as Arrow wants it, with a place of its own; each piece is checked before Arrow gets it."""

    def __init__(self, source: ByteSource, check: Callable[[bytes], None]) -> None:
        self._source = source
        self._check = check
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.num_bytes}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        data = self._source.read_at(self._place, size if size >= 0 else self._source.num_bytes).tobytes()
        self._place += len(data)
        self._check(data)
        return data


def _open(source: ByteSource, check: Callable[[bytes], None], **options: Any) -> pq.ParquetFile:
    """Open a file; without read-ahead or buffers, so that what is read is the footer or a column in a row group."""
    return pq.ParquetFile(
        _File(source, check), page_checksum_verification=True, thrift_container_size_limit=_MAX_GROUPS,
        pre_buffer=False, buffer_size=0, **options,
    )  # fmt: skip


def _accept(_: bytes) -> None:
    """Take the footer as it is."""


def _check_columns(name: str, found: pa.Schema, schema: pa.Schema, version_key: bytes) -> None:
    version = (found.metadata or {}).get(version_key, b"none")
    expected_version = schema.metadata[version_key]
    if version != expected_version:
        raise ShardError(
            f"{name}: schema version {version.decode('ascii', 'replace')!r}, this reader knows "
            f"{expected_version.decode()}; update the checkout or extract the dataset again"
        )
    for column, count in Counter(found.names).items():
        if count > 1:
            raise ShardError(f"{name}: column {column!r:.80} is there {count} times; {_REMEDY}")
    types = {field.name: field.type for field in found}
    for column in sorted({*found.names, *schema.names}):
        kind = types.get(column)
        if kind is not None and pa.types.is_dictionary(kind) and column in _FEW_VALUES:
            kind = kind.value_type
        if column not in schema.names:
            raise ShardError(f"{name}: column {column!r:.80} is unknown to this reader; {_REMEDY}")
        if kind is None:
            raise ShardError(f"{name}: column {column} is missing; {_REMEDY}")
        if kind != schema.field(column).type:
            raise ShardError(f"{name}: column {column} is {kind}, expected {schema.field(column).type}; {_REMEDY}")
