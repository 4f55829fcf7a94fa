"""Writes index.parquet: rows in any order and of any number, in bounded memory."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.atomic_file import open_atomic
from shards.dataset_info import Totals
from shards.external_sort import ExternalSort, add_texts, collect_texts, find_repeats
from shards.index_file import INDEX_NAME, ROWS_PER_GROUP
from shards.index_row import ROW_SCHEMA, IndexRow, batch_rows
from shards.schema import ShardError

_UNIQUE = ("key", "song_id")


class IndexWriter:
    """Collects the rows of a dataset, and writes them sorted by split, shard and place in the shard.

    Rows beyond the first hundred thousand wait in temporary files without a name, in the folder of the dataset.
    """

    def __init__(self, root: Path) -> None:
        """Start without rows; `root` is the folder of the dataset."""
        self.totals = Totals()
        self._root = root
        self._rows = ExternalSort(("shard", "metadata_offset"), root)  # the name of a shard begins with the split
        self._texts = {name: collect_texts(root) for name in _UNIQUE}

    def add(self, rows: Iterable[IndexRow]) -> None:
        """Take rows."""
        remaining = iter(rows)
        while batch := list(islice(remaining, ROWS_PER_GROUP)):
            self.add_batch(batch_rows(batch))

    def add_batch(self, rows: pa.RecordBatch) -> None:
        """Take rows as columns of ROW_SCHEMA, which hold what IndexRow demands."""
        places = self.totals.num_samples + np.arange(len(rows))
        for name, texts in self._texts.items():
            add_texts(texts, rows.column(name), places)
        self.totals.add_batch(rows)
        self._rows.add(rows)

    def check(self) -> None:
        """Raise ShardError if there are no rows, or a key or a song twice. No more rows may be added."""
        if not self.totals.num_samples:
            path = self._root / INDEX_NAME
            raise ShardError(f"{path}: no samples to write; an index without samples is of no use")
        for name, texts in self._texts.items():
            for value, _, _ in find_repeats(texts):
                raise ShardError(f"index: {name} {value!r} is there twice; every song is in a dataset once")

    def write(self) -> None:
        """Write the file after `check`; the same rows, in any order, give the same bytes."""
        _write_groups(self._root, _regroup(self._rows.blocks()))


def write_index(root: Path, rows: Iterable[IndexRow]) -> None:
    """Write `root`/index.parquet; the same rows, in any order, give the same bytes. `rows` may be a generator.

    Raises:
        ShardError: no rows, or a key or a song that is there twice.
    """
    writer = IndexWriter(root)
    writer.add(rows)
    writer.check()
    writer.write()


def write_index_columns(root: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write `root`/index.parquet from the columns of IndexRow; the rows must be sorted, and keys and songs unique."""
    table = pa.Table.from_arrays([columns[name] for name in ROW_SCHEMA.names], schema=ROW_SCHEMA)
    _write_groups(root, (table.slice(first, ROWS_PER_GROUP) for first in range(0, len(table), ROWS_PER_GROUP)))


def _regroup(blocks: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of `blocks` in groups of ROWS_PER_GROUP, whatever the blocks are."""
    waiting: list[pa.RecordBatch] = []
    num_waiting = 0
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        if num_waiting >= ROWS_PER_GROUP:
            table = pa.Table.from_batches(waiting)
            num_whole = num_waiting // ROWS_PER_GROUP * ROWS_PER_GROUP
            for first in range(0, num_whole, ROWS_PER_GROUP):
                yield table.slice(first, ROWS_PER_GROUP).combine_chunks()
            waiting, num_waiting = table.slice(num_whole).to_batches(), num_waiting - num_whole
    if num_waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _write_groups(root: Path, groups: Iterable[pa.Table]) -> None:
    with (
        open_atomic(root / INDEX_NAME) as file,
        pq.ParquetWriter(file, ROW_SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        for group in groups:
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)
