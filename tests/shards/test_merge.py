"""Merging: the same songs from one folder, and what must not be joined."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.index import IndexRow, read_dataset_info, read_index, write_dataset_info, write_index
from shards.merge import merge
from shards.reader import Sample, ShardReader
from shards.schema import ShardError
from shards.verify import verify
from shards.writer import write_shard

from .conftest import build_sample, describe_dataset


def write_other(root: Path, names: list[str], split: str = "train") -> Path:
    songs = [build_sample(name, 620) for name in names]
    rows = write_shard(root / split / "000000.tar", songs)
    if split != "train":
        extra = build_sample("extra", 620)
        rows += write_shard(root / "train" / "000000.tar", [extra])
        songs = [extra]
    write_dataset_info(root, describe_dataset(rows, songs))
    write_index(root, rows)
    return root


def test_merged_dataset_is_sound_and_holds_every_song(tmp_path: Path, rows: list[IndexRow]) -> None:
    other = write_other(tmp_path / "other", ["new 1", "new 2"])
    out = tmp_path / "out"
    assert main(["merge", str(out), str(tmp_path), str(other)]) == 0
    assert verify(out).problems == []  # latent_mean and latent_std included
    reader = ShardReader(out)
    found = {row.song_id: reader.read(row) for row in read_index(out)}
    assert list(found) == ["train/0", "train/1", "train/2", "train/3", "new 1", "new 2", "val/0"]
    assert [row.shard for row in read_index(out)][3:5] == ["train/000001.tar", "train/000002.tar"]
    assert found["new 2"].latents.tobytes() == build_sample("new 2", 620).latents.tobytes()


def test_merge_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path, rows: list[IndexRow]) -> None:
    other = write_other(tmp_path / "other", ["new"])
    merge(tmp_path / "whole", [tmp_path, other])
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for name in ("index.parquet", "dataset.json", "train/000002.tar"):
        (tmp_path / "half" / name).unlink()
    merge(tmp_path / "half", [tmp_path, other])
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (tmp_path / "half" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


def test_finished_dataset_is_not_written_over(tmp_path: Path, rows: list[IndexRow]) -> None:
    other = write_other(tmp_path / "other", ["new"])
    with pytest.raises(ShardError, match="holds a dataset already"):
        merge(other, [tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"vae_latents": {"model": "full"}}}, "models is .*extract one of them again"),
        ({"codebook_size": 1024}, "codebook_size is 1024"),
    ],
)
def test_other_models_are_refused(
    tmp_path: Path, rows: list[IndexRow], change: dict[str, object], message: str
) -> None:
    other = write_other(tmp_path / "other", ["new"])
    write_dataset_info(other, dataclasses.replace(read_dataset_info(other), **change))
    with pytest.raises(ShardError, match=message):
        merge(tmp_path / "out", [tmp_path, other])


def test_a_song_in_both_is_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    with pytest.raises(ShardError, match=r"song 'train/0' is in .* and in .*; drop it"):
        merge(tmp_path / "out", [tmp_path, write_other(tmp_path / "other", ["train/0"])])


def test_a_recording_in_train_and_val_is_refused(
    tmp_path: Path, rows: list[IndexRow], make_sample: Callable[..., Sample]
) -> None:
    copy = make_sample("a copy", 620)
    copy.metadata["provenance"]["sha256"] = rows[0].sha256
    other = write_other(tmp_path / "other", ["new"], split="val")
    kept = [row for row in read_index(other) if row.split == "train"]
    write_index(other, kept + write_shard(other / "val" / "000000.tar", [copy]))
    with pytest.raises(ShardError, match="'a copy' is in val of .* the same recording in train of"):
        merge(tmp_path / "out", [tmp_path, other])


def test_damaged_shard_is_not_copied(tmp_path: Path, rows: list[IndexRow], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / rows[0].shard
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    assert main(["merge", str(tmp_path / "out"), str(tmp_path)]) == 1
    assert (
        "train/000000.tar: sha256 is not that of the index"
        in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    )
    assert not (tmp_path / "out" / "index.parquet").exists()
