"""index.parquet: one row per sample, with the place of each of its members in a shard."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.dataset_info import DatasetInfo, read_dataset_info, write_dataset_info
from shards.index_file import INDEX_NAME, ROWS_PER_GROUP, IndexFile
from shards.index_row import ROW_SCHEMA, VERSION_KEY, IndexRow
from shards.index_writer import write_index, write_index_columns
from shards.names import parse_shard_name
from shards.schema import SPLITS, ShardError
from shards.storage import Root

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
    "write_index_columns",
]


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
        for batch in self.batches():
            for record in batch.to_pylist():
                yield IndexRow(**record)

    def row(self, number: int) -> IndexRow:
        """Return row `number`, 0 <= number < len(self)."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)} rows")
        return IndexRow(**self._file.record(self._rows[number]))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as columns, at most ROWS_PER_GROUP at a time; what they say is not judged.

        The columns are those of ROW_SCHEMA; those of few values may be dictionary arrays.
        """
        for first, table in self._file.groups(self._rows.start, self._rows.stop):
            skipped = max(0, self._rows.start - first)
            rows = table.slice(skipped, self._rows.stop - first - skipped)
            yield from rows.to_batches(max_chunksize=ROWS_PER_GROUP)  # other tools write groups of a million rows

    def column(self, name: str) -> NDArray[Any]:
        """Return one column as an array, such as num_frames."""
        kind = ROW_SCHEMA.field(name).type
        values = np.empty(len(self), np.object_ if kind == pa.string() else kind.to_pandas_dtype())
        for rows, part in self._parts(name):
            values[rows] = np.from_dlpack(part) if pa.types.is_primitive(part.type) else part.to_pylist()
        return values

    def codes(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """Return a column of few values, such as shard, as numbers of values, and the values.

        The numbers are int32 [len(self)]; a value may be in the list without being in these rows.
        """
        codes = np.empty(len(self), np.int32)
        values: dict[str, int] = {}
        for rows, part in self._parts(name):
            numbers = [values.setdefault(value, len(values)) for value in part.dictionary.to_pylist()]
            codes[rows] = np.array(numbers, np.int32)[np.from_dlpack(part.indices)]
        return codes, list(values)

    def _parts(self, name: str) -> Iterator[tuple[slice, pa.Array]]:
        """Yield which rows of this index each part of a column has, and its values for them."""
        start, stop = self._rows.start, self._rows.stop
        for first, part in self._file.column_parts(name, start, stop):
            skipped = max(0, start - first)
            values = part.slice(skipped, stop - first - skipped)
            place = first + skipped - start
            yield slice(place, place + len(values)), values

    def check_cells(self) -> None:
        """Raise ShardError unless every cell can be read; what rows say is not judged."""
        for _ in self._file.groups(self._rows.start, self._rows.stop):
            pass

    def find(self, name: str) -> int | None:
        """Return the number of the row whose key or song_id is `name`, or None."""
        for column in ("key", "song_id"):
            for rows, part in self._parts(column):
                number = int(pc.index(part, name).as_py())
                if number >= 0:
                    return int(rows.start) + number
        return None

    def slice(self, start: int, stop: int) -> "Index":
        """Return rows [start, stop), 0 <= start <= stop <= len(self)."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of an index of {len(self)} rows")
        return Index(self._file, self._rows[start:stop])

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
        return self.slice(first, first + num_chosen)


def read_index(root: Root) -> Index:
    """Return the index of the dataset in the folder or behind the URL `root`.

    What a row says is checked when the row is read.

    Raises:
        ShardError: missing, not Parquet, of another schema version, with other columns, or absurdly long or empty.
    """
    file = IndexFile(root, ROW_SCHEMA, VERSION_KEY)
    return Index(file, range(file.num_rows))
