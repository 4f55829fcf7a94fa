"""Repair: what is sound stays, what is damaged is dropped by name, and the result passes verification."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.index import IndexRow, read_dataset_info, read_index, write_index
from shards.reader import Sample
from shards.repair import repair
from shards.schema import ShardError
from shards.verify import verify
from shards.writer import write_shard


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_sound_dataset_stays_as_it_is(tmp_path: Path, rows: list[IndexRow]) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    done = repair(tmp_path)
    assert (done.lines, done.dropped, done.lost, done.num_samples) == ([], [], [], 5)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_lost_index_is_rebuilt_byte_for_byte(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / "index.parquet"
    before = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(before[:-100])):
        damage()
        (line,) = repair(tmp_path).lines
        assert "made anew" in line
        assert path.read_bytes() == before


def test_lost_dataset_json_is_rebuilt_from_the_samples(tmp_path: Path, rows: list[IndexRow]) -> None:
    before = read_dataset_info(tmp_path)
    (tmp_path / "dataset.json").unlink()
    repair(tmp_path)
    after = read_dataset_info(tmp_path)
    assert (after.latent_mean, after.hours, after.splits) == (before.latent_mean, before.hours, before.splits)
    assert after.models == {"vae": "miniature"}, "what every sample says of the models that made it"
    assert verify(tmp_path).problems == []


@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_damaged_shard_is_dropped_and_what_is_lost_listed(
    tmp_path: Path, rows: list[IndexRow], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / rows[0].shard
    if damage == "cut":
        os.truncate(path, rows[1].start + 700)
    elif damage == "flip":
        flip(path, rows[1].latents_offset + 1000)
    else:
        path.unlink()
    assert main(["repair", str(tmp_path)]) == 1
    line, result = capsys.readouterr().out.splitlines()
    assert line.startswith(f"dropped {rows[0].shard}: ")
    assert json.loads(result) == {
        "ok": False, "num_samples": 3, "dropped": [rows[0].shard], "lost": [rows[0].key, rows[1].key],
    }  # fmt: skip
    assert verify(tmp_path).problems == []
    assert [row.key for row in read_index(tmp_path)] == [row.key for row in rows[2:]]
    assert (tmp_path / f"{rows[0].shard}.damaged").exists() == (damage != "missing")


def test_cut_shard_without_an_index_still_names_what_it_held(tmp_path: Path, rows: list[IndexRow]) -> None:
    (tmp_path / "index.parquet").unlink()
    os.truncate(tmp_path / rows[0].shard, rows[1].start + 700)
    done = repair(tmp_path)
    assert done.lost == [rows[0].key, "and whatever came after"]
    assert verify(tmp_path).problems == []


def test_nothing_left_is_said(tmp_path: Path, rows: list[IndexRow]) -> None:
    for row in rows:
        os.truncate(tmp_path / row.shard, 100)
    with pytest.raises(ShardError, match="no sound shard of the train split is left"):
        repair(tmp_path)


def test_a_song_in_two_shards_is_refused(
    tmp_path: Path, rows: list[IndexRow], make_sample: Callable[..., Sample]
) -> None:
    write_shard(tmp_path / "train" / "000002.tar", [make_sample("train/0", 600)])
    with pytest.raises(ShardError, match="is there twice"):
        repair(tmp_path)
    write_index(tmp_path, rows)  # the old one was not touched before the new one was whole
