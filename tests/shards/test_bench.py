"""The benchmark on a very small dataset: its figures are there, and the made-up dataset is a real one."""

import json
from pathlib import Path

import pytest

from shards.bench import TARGETS, main
from shards.bench_data import write_bench_dataset
from shards.index import read_index
from shards.verify import verify


def test_made_up_dataset_is_sound(tmp_path: Path) -> None:
    write_bench_dataset(tmp_path, 3)
    report = verify(tmp_path)
    assert [problem for problem in report.problems if "latent_" not in problem] == []
    assert report.num_samples == 3


def test_made_up_songs_have_the_lengths_asked_for(tmp_path: Path) -> None:
    write_bench_dataset(tmp_path, 3, seconds=(40, 61), phonemes_per_line=14)
    assert [row.num_frames for row in read_index(tmp_path)] == [1000, 1250, 1525]
    assert not [problem for problem in verify(tmp_path).problems if "latent_" not in problem]


def test_last_line_has_every_ratio_with_its_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--songs", "4", "--rounds", "1", "--index-rows", "1000", "--scratch", str(tmp_path)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if result["ok"] else 1)
    for name in TARGETS:
        low, high = result[f"{name}_spread"]
        assert 0 < low <= result[name] <= high
    assert result["webdataset_samples_per_s"] > 0
    assert not list(tmp_path.iterdir()), "what was made up is deleted"


def test_dataset_that_cannot_be_read_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dir", str(tmp_path), "--index-rows", "0"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"shards.bench: {tmp_path}/index.parquet is missing; name a folder")
    assert errors.count("\n") == 1
