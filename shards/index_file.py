"""index.parquet as a file: opened and checked, then read by column or by row group, never as a whole."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.schema import ShardError
from shards.storage import Root, open_storage

INDEX_NAME = "index.parquet"
ROWS_PER_GROUP = 8_192  # rows that are read together to get at one: a few milliseconds, 3 MB
_GROUPS_KEPT = 32  # more than the shards of a shuffle window
_FEW_VALUES = ["split", "shard", "language", "shard_sha256"]  # columns kept as numbers of values


class IndexFile:
    """An open index.parquet."""

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
        self._lock = threading.Lock()  # one reader of the file at a time
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        source = storage.open_file(INDEX_NAME)
        if source is None:
            raise ShardError(
                f"{self._name} is missing; name a folder that jobs/extract_tokens.py --out has finished, or run it "
                "again: it writes the index last"
            )
        with self._naming_damage():
            num_bytes = source.seek(0, 2)
            self._file = pq.ParquetFile(source, read_dictionary=_FEW_VALUES, page_checksum_verification=True)
            metadata = self._file.metadata
            _check_columns(self._name, self._file.schema_arrow, schema, version_key)
        self.num_rows: int = metadata.num_rows
        if self.num_rows > num_bytes:  # no row takes less than a byte
            raise ShardError(f"{self._name}: claims {self.num_rows} rows, more than it has bytes")
        if not self.num_rows:
            raise ShardError(f"{self._name}: holds no samples; extract the dataset again")
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])  # first row of each group, then the end
        if min(sizes) < 0 or self._starts[-1] != self.num_rows:
            raise ShardError(f"{self._name}: claims {self.num_rows} rows in groups of {sum(sizes)}; it is damaged")

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
        """Yield (number of its first row, rows) of each row group that holds any of rows [start, stop)."""
        for group, first in enumerate(self._starts[:-1].tolist()):
            if first < stop and self._starts[group + 1] > start:
                yield first, self._group(group)

    def column(self, name: str) -> pa.Array:
        """Return a whole column; those of few values as a dictionary array."""
        with self._lock, self._naming_damage():
            table = self._file.read(columns=[name])
        column = self._check(table).column(0)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def _group(self, group: int) -> pa.Table:
        with self._lock:
            table = self._groups.get(group)
            if table is None:
                with self._naming_damage():
                    table = self._file.read_row_group(group)
                table = self._groups[group] = self._check(table)
                if len(self._groups) > _GROUPS_KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
        return table

    def _check(self, table: pa.Table) -> pa.Table:
        """Return the rows, joined, if every cell holds a value of its type."""
        with self._naming_damage():
            table.validate(full=True)  # texts are UTF-8, numbers of values are in their list
        if any(column.null_count for column in table.itercolumns()):
            raise ShardError(f"{self._name}: holds empty cells; write the index again")
        return table.unify_dictionaries().combine_chunks()

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except ShardError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
            reason = " ".join(str(error).split())
            raise ShardError(f"{self._name} cannot be read as Parquet: {reason}; write the index again") from error


def _check_columns(name: str, found: pa.Schema, schema: pa.Schema, version_key: bytes) -> None:
    version = (found.metadata or {}).get(version_key, b"none")
    expected_version = schema.metadata[version_key]
    if version != expected_version:
        raise ShardError(
            f"{name}: schema version {version.decode('ascii', 'replace')!r}, this reader knows "
            f"{expected_version.decode()}; update the checkout or extract the dataset again"
        )
    for column in sorted({column for column in found.names if found.names.count(column) > 1}):
        raise ShardError(f"{name}: column {column} is there {found.names.count(column)} times; write the index again")
    types = {field.name: field.type for field in found}
    for column in sorted({*found.names, *schema.names}):
        kind = types.get(column)
        if kind is not None and pa.types.is_dictionary(kind) and column in _FEW_VALUES:
            kind = kind.value_type
        expected = schema.field(column).type if column in schema.names else None
        if kind != expected:
            raise ShardError(f"{name}: column {column} is {kind}, expected {expected}")
