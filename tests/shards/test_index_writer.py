"""An index of more rows than are held at once: the same bytes, the same refusals, little memory."""

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import external_sort
from shards.bench_data import write_bench_index
from shards.index import IndexRow, read_index, write_index
from shards.index_row import ROW_SCHEMA, find_damaged
from shards.schema import ShardError
from tests.shards.test_index import HOSTILE_ROWS

_NUM_ROWS = 20_000  # three row groups


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "ROWS_IN_MEMORY", 3_000)
    monkeypatch.setattr(external_sort, "ROWS_PER_BLOCK", 128)
    monkeypatch.setattr(external_sort, "MAX_RUNS", 4)


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> list[IndexRow]:
    folder = tmp_path_factory.mktemp("index")
    write_bench_index(folder, _NUM_ROWS)
    return list(read_index(folder))


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_bytes_are_those_of_all_rows_written_at_once(
    tmp_path: Path, many_rows: list[IndexRow], little_memory: None, order: str
) -> None:
    rows = sorted(many_rows, key=lambda row: (row.split, row.shard, row.metadata_offset))
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=ROW_SCHEMA)
    pq.write_table(table, tmp_path / "once", compression="zstd", row_group_size=8192, write_page_checksum=True)
    if order == "reversed":
        rows.reverse()
    elif order == "shuffled":
        random.Random(0).shuffle(rows)
    write_index(tmp_path, iter(rows))
    assert (tmp_path / "index.parquet").read_bytes() == (tmp_path / "once").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.parquet", "once"]


@pytest.mark.parametrize("name", ["key", "song_id"])
def test_a_song_twice_is_found_far_apart(
    tmp_path: Path, many_rows: list[IndexRow], little_memory: None, name: str
) -> None:
    twice = dataclasses.replace(many_rows[-1], **{name: getattr(many_rows[0], name)})
    with pytest.raises(ShardError, match=f"{name} '{getattr(twice, name)}' is there twice"):
        write_index(tmp_path, [*many_rows[:-1], twice])
    assert not list(tmp_path.iterdir())


def test_column_across_parts_is_that_of_the_rows(
    tmp_path: Path, many_rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.index_file._PART_ROWS", 500)
    write_index(tmp_path, many_rows)
    pq.write_table(pq.read_table(tmp_path / "index.parquet"), tmp_path / "index.parquet", row_group_size=300)
    index = read_index(tmp_path).slice(1_234, 19_876)
    assert list(index) == many_rows[1_234:19_876]
    assert [row for batch in index.batches() for row in batch.column("key").to_pylist()] == index.column("key").tolist()
    for name in ("key", "num_frames", "language"):
        assert index.column(name).tolist() == [getattr(row, name) for row in many_rows[1_234:19_876]]
    codes, values = index.codes("shard")
    assert [values[code] for code in codes.tolist()] == [row.shard for row in many_rows[1_234:19_876]]
    assert index.find(many_rows[1_234].key) == 0
    assert index.find(many_rows[19_875].song_id) == len(index) - 1
    assert index.find(many_rows[1_233].key) is None


def _changed_records(rows: list[IndexRow]) -> Iterator[dict[str, Any]]:
    """Yield rows that Arrow can hold, most of them with a change that no writer makes."""
    for change, _ in HOSTILE_ROWS:
        if all(isinstance(getattr(rows[0], name), type(value)) and value is not True for name, value in change.items()):
            yield dataclasses.asdict(rows[0]) | change
    generator = random.Random(0)
    numbers = [-(2**63), -512, -1, 0, 1, 511, 512, 513, 1024, 2**30, 2**30 + 1, 2**32, 2**62, 2**63 - 1, 2**63 - 512]
    texts = [
        "",
        "a",
        "a" * 81,
        "é",
        "train",
        "val",
        "test",
        "val/0.tar",
        "train/0.tar",
        "train/0.tar\n",
        "0" * 64,
        "G" * 64,
    ]
    for _ in range(4_000):
        record = dataclasses.asdict(generator.choice(rows))
        for name in generator.choices(ROW_SCHEMA.names, k=generator.choice((0, 1, 1, 2))):
            kind = ROW_SCHEMA.field(name).type
            if kind == pa.int64():
                steps = [record[name] + step for step in (-512, -1, 1, 512)]
                record[name] = generator.choice([*numbers, *(value for value in steps if abs(value) < 2**63)])
            elif kind == pa.float64():
                record[name] = generator.choice([0.0, -1.0, 1e-300, float("inf"), float("nan")])
            else:
                record[name] = generator.choice(texts)
        yield record


def test_columns_are_judged_as_rows_are(rows: list[IndexRow]) -> None:
    records = list(_changed_records(rows))
    expected = {}
    for number, record in enumerate(records):
        try:
            IndexRow(**record)
        except ShardError as error:
            expected[number] = str(error)
    assert len(HOSTILE_ROWS) / 2 < len(expected) < len(records) - 500
    batch = pa.RecordBatch.from_pylist(records, schema=ROW_SCHEMA)
    assert {number: str(error) for number, error in find_damaged(batch)} == expected
    names = ("split", "shard", "language", "shard_sha256")
    columns = [batch[name].dictionary_encode() if name in names else batch[name] for name in ROW_SCHEMA.names]
    encoded = pa.RecordBatch.from_arrays(columns, names=ROW_SCHEMA.names)
    assert {number: str(error) for number, error in find_damaged(encoded)} == expected


_CHILD = """
import json, sys
from pathlib import Path
from shards import external_sort
from shards.bench import _peak_kib
from shards.index import read_index, write_index_columns
from shards.index_row import find_damaged, replace_columns
from shards.index_writer import IndexWriter

external_sort.ROWS_IN_MEMORY = 8_192
source, peaks = Path(sys.argv[1]), []
for num_rows in (30_000, 300_000):
    index = read_index(source).slice(0, num_rows)
    writer = IndexWriter(Path(sys.argv[2]))
    for batch in index.batches():
        assert not list(find_damaged(batch))
        writer.add_batch(replace_columns(batch))
    writer.check()
    writer.write()
    peaks.append(_peak_kib() / 1024)
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """The rows beyond the first 30,000 would take 80 MB as columns and 400 MB as objects."""
    write_bench_index(tmp_path / "source", 300_000)
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "source"), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    few, many = json.loads(done.stdout)
    assert many - few < 40
    assert (tmp_path / "copy" / "index.parquet").read_bytes() == (tmp_path / "source" / "index.parquet").read_bytes()
