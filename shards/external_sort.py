"""Sorts more rows than memory holds: sorted runs in a temporary file, which are merged block by block."""

import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ROWS_IN_MEMORY = 131_072  # that are sorted at once: 45 MB of index rows
ROWS_PER_BLOCK = 1_024  # of a run in memory while runs are merged: 0.35 MB of index rows
MAX_RUNS = 128  # that are merged at once
_WRITE_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")

_Key = tuple[Any, ...]


class _Block(NamedTuple):
    """Sorted rows in the temporary file."""

    start: int
    num_bytes: int


class ExternalSort:
    """Takes rows in any order and gives them back sorted; rows with equal keys stay in the order in which they came.

    Holds ROWS_IN_MEMORY rows and, while runs are merged, a block of each of MAX_RUNS runs. Rows that come in order are
    one run, whatever their number. The temporary file has no name, so a killed process leaves nothing behind.
    """

    def __init__(self, keys: Sequence[str], folder: Path | None = None) -> None:
        """Start without rows.

        Args:
            keys: columns to sort by, the first one first.
            folder: for the temporary file, made where it is missing (default: the system's folder for such files);
                not used for few rows.
        """
        self._keys = list(keys)
        self._folder = folder
        self._file: Any = None
        self._end = 0  # of the temporary file
        self._runs: list[list[_Block]] = []
        self._last: _Key | None = None  # key of the last row of the last run
        self._buffer: list[pa.RecordBatch] = []
        self._num_buffered = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows; all batches have the same columns."""
        self._buffer.append(batch)
        self._num_buffered += len(batch)
        if self._num_buffered >= ROWS_IN_MEMORY:
            self._spill()

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, in batches of any size; no more may be added."""
        if not self._runs:
            if self._num_buffered:
                yield self._sort_buffer()
            return
        if self._num_buffered:
            self._spill()
        yield from self._merge(self._runs)

    def _sort_buffer(self) -> pa.RecordBatch:
        batch = _concatenate(self._buffer)
        self._buffer, self._num_buffered = [], 0
        return _sort(batch, self._keys)

    def _spill(self) -> None:
        """Write the rows in memory as a run, or behind the last run where they continue it."""
        batch = self._sort_buffer()
        continues = self._last is not None and self._last <= _key(batch, self._keys, 0)
        if not continues:
            if len(self._runs) == MAX_RUNS:
                self._runs = [[block for part in self._merge(self._runs) for block in self._write(part)]]
            self._runs.append([])
        self._runs[-1] += self._write(batch)
        self._last = _key(batch, self._keys, len(batch) - 1)

    def _write(self, batch: pa.RecordBatch) -> Iterator[_Block]:
        if self._file is None:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  (closed with this object)
        for first in range(0, len(batch), ROWS_PER_BLOCK):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema, options=_WRITE_OPTIONS) as writer:
                writer.write_batch(batch.slice(first, ROWS_PER_BLOCK))
            data = sink.getvalue()
            self._file.seek(self._end)
            self._file.write(data)
            yield _Block(self._end, data.size)
            self._end += data.size

    def _read(self, block: _Block) -> pa.RecordBatch:
        self._file.flush()
        data = os.pread(self._file.fileno(), block.num_bytes, block.start)
        return pa.ipc.open_stream(data).read_next_batch()

    def _merge(self, runs: Sequence[Sequence[_Block]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of sorted runs in order.

        What is not behind the smallest last key of the blocks in memory cannot be preceded by any row that is not.
        """
        if len(runs) == 1:
            yield from map(self._read, runs[0])
            return
        waiting = [list(reversed(run)) for run in runs]  # blocks, the next one last
        parts: list[pa.RecordBatch] = [self._read(blocks.pop()) for blocks in waiting]
        while parts:
            bound = min(_key(part, self._keys, len(part) - 1) for part in parts)
            ready: list[pa.RecordBatch] = []
            for number, part in enumerate(parts):
                count = bisect_right(range(len(part)), bound, key=partial(_key, part, self._keys))
                ready.append(part.slice(0, count))
                parts[number] = part.slice(count)
                if count == len(part) and waiting[number]:
                    parts[number] = self._read(waiting[number].pop())
            yield _sort(_concatenate(ready), self._keys)
            kept = [number for number, part in enumerate(parts) if len(part)]
            parts, waiting = [parts[number] for number in kept], [waiting[number] for number in kept]


def find_repeats(rows: ExternalSort) -> Iterator[tuple[str, int, int]]:
    """Yield (text, place of its first row, place of a later row) for each later row of a text, sorted by text.

    `rows` has the columns `text` and `place` and is sorted by them.
    """
    text, first = None, 0  # of the last row of the batch before
    for batch in rows.blocks():
        texts, places = batch.column("text"), np.from_dlpack(batch.column("place"))
        is_equal = pc.equal(texts.slice(1), texts.slice(0, len(texts) - 1))
        is_repeat = np.append(texts[0].as_py() == text, np.from_dlpack(is_equal.cast(pa.uint8())).view(np.bool_))
        starts = np.maximum.accumulate(np.where(is_repeat, -1, np.arange(len(texts))))  # -1: in a batch before
        for row in np.flatnonzero(is_repeat).tolist():
            yield texts[row].as_py(), int(places[starts[row]]) if starts[row] >= 0 else first, int(places[row])
        text, first = texts[-1].as_py(), int(places[starts[-1]]) if starts[-1] >= 0 else first


def collect_texts(folder: Path | None = None) -> ExternalSort:
    """Return what `find_repeats` reads, still empty; `add_texts` fills it."""
    return ExternalSort(("text", "place"), folder)


def add_texts(rows: ExternalSort, texts: pa.Array, places: NDArray[np.int64]) -> None:
    """Add texts and where each of them stands."""
    rows.add(pa.record_batch({"text": texts, "place": pa.array(places)}))


def _key(batch: pa.RecordBatch, keys: Sequence[str], row: int) -> _Key:
    return tuple(batch.column(name)[row].as_py() for name in keys)


def _concatenate(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _sort(batch: pa.RecordBatch, keys: Sequence[str]) -> pa.RecordBatch:
    order = pc.sort_indices(batch, sort_keys=[(name, "ascending") for name in keys])  # stable
    is_sorted = (np.from_dlpack(order) == np.arange(len(order), dtype=np.uint64)).all()
    return batch if is_sorted else batch.take(order)
