"""Songs of noise are a dataset like any other, and the benchmark of steps trains on them."""

import json
from pathlib import Path

import pytest

from model.bench import main
from model.random_songs import write_random_dataset
from shards.verify import verify


def test_the_dataset_is_whole(tmp_path: Path):
    write_random_dataset(tmp_path, 9, (20, 30))
    report = verify(tmp_path)
    assert not report.problems
    assert report.num_samples == 9


@pytest.mark.slow
def test_steps_are_measured(capfd: pytest.CaptureFixture[str]):
    sizes = ["model.dim=64", "model.num_heads=1", "model.lm_layers=1", "model.dit_layers=1", "data.max_crop_s=8"]
    options = [word for size in sizes for word in ("--set", size)]
    assert main(["step", "--config", "miniature.yaml", "--steps", "1", "--songs", "9", *options]) == 0
    figures = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert figures["step_s_median"] > 0
    assert figures["data_wait_share"] < 0.5
    assert figures["mfu"] is None, "the peak of a CPU is not known"
    assert main(["step", "--config", "fill.yaml"]) == 2
