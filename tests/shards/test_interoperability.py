"""Other tools read what we write, with nothing of ours."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
import webdataset

from shards.index import IndexRow
from shards.reader import ShardReader
from shards.schema import ARRAY_FIELDS


def test_webdataset_reads_all_shards(tmp_path: Path, rows: list[IndexRow]) -> None:
    files = sorted(map(str, tmp_path.glob("train/*.tar")))
    found = list(webdataset.WebDataset(files, shardshuffle=False).decode())
    reader = ShardReader(tmp_path)
    assert [sample["__key__"] for sample in found] == [row.key for row in rows[:4]]
    for sample, row in zip(found, rows, strict=False):
        expected = reader.read(row)
        assert sample["json"] == expected.metadata
        for field in ARRAY_FIELDS:
            np.testing.assert_array_equal(sample[field.suffix], getattr(expected, field.name))


def test_datasets_reads_a_folder(tmp_path: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, with a cache of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    files = {split: sorted(map(str, tmp_path.glob(f"{split}/*.tar"))) for split in ("train", "val")}
    found = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(found[split]) for split in found} == {"train": 4, "val": 1}
    reader = ShardReader(tmp_path)
    for sample, row in zip(found["train"], rows, strict=False):
        expected = reader.read(row)
        assert sample["__key__"] == row.key
        assert sample["json"]["song_id"] == row.song_id
        for field in ARRAY_FIELDS:
            np.testing.assert_array_equal(np.array(sample[field.suffix]), getattr(expected, field.name))


def test_duckdb_queries_the_index(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = str(tmp_path / "index.parquet")
    query = "select split, count(*), sum(num_frames) from read_parquet(?) group by split order by split"
    assert duckdb.execute(query, [path]).fetchall() == [("train", 4, 600 + 601 + 602 + 603), ("val", 1, 600)]
    key, offset, num_bytes, shard = duckdb.execute(
        "select key, metadata_offset, metadata_bytes, shard from read_parquet(?) where num_frames = 602", [path]
    ).fetchone()
    data = (tmp_path / shard).read_bytes()[offset : offset + num_bytes]
    assert json.loads(data)["song_id"] == next(row.song_id for row in rows if row.key == key)
