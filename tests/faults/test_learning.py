"""A full disk and no memory under a run of training: it ends as if there had been enough of both."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.cluster import JobError
from model.training.ranks import Ranks
from model.training.training_run import TrainingRun
from model.weights.checkpoint import CheckpointError
from tests.model.tiny_dataset import build_song, tiny_config, write_tiny_dataset

from .conftest import Disk, starve

pytestmark = pytest.mark.usefixtures("one_thread")


def train(root: Path, folder: Path, ranks: Ranks, steps: int) -> dict[str, torch.Tensor]:
    TrainingRun(tiny_config(root, folder), lambda: ranks, max_steps=steps).run()
    return load_file(folder / f"step_{steps:06d}" / "model.safetensors")


def test_training_on_a_full_disk(tmp_path, disk: Disk, ranks: Ranks):
    root = write_tiny_dataset(tmp_path / "data", [build_song(number) for number in range(6)])
    whole = train(root, tmp_path / "whole", ranks, 8)
    disk.remount("size=100m")
    train(root, disk.path / "run", ranks, 4)
    first = {path.name: path.read_bytes() for path in (disk.path / "run" / "step_000004").iterdir()}
    used = sum(path.stat().st_size for path in disk.path.rglob("*") if path.is_file())
    disk.remount(f"size={used // 1024 + 200}k")
    with pytest.raises(CheckpointError, match="cannot be written: .*No space left.*older checkpoints are untouched"):
        train(root, disk.path / "run", ranks, 8)
    assert {path.name: path.read_bytes() for path in (disk.path / "run" / "step_000004").iterdir()} == first
    disk.remount("size=100m")
    resumed = train(root, disk.path / "run", ranks, 8)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize("extra_kb", [0, 512])
def test_training_without_memory(tmp_path, ranks: Ranks, extra_kb: int):
    root = write_tiny_dataset(tmp_path / "data", [build_song(number) for number in range(6)])
    whole = train(root, tmp_path / "whole", ranks, 8)
    train(root, tmp_path / "run", ranks, 4)
    first = {path.name: path.read_bytes() for path in (tmp_path / "run" / "step_000004").iterdir()}

    def go_on() -> None:
        try:
            train(root, tmp_path / "run", ranks, 8)
        except CheckpointError as error:  # one line, as model/train.py ends with it
            raise JobError(str(error)) from error

    starve(extra_kb << 10, go_on, tmp_path / "log")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "step_000004").iterdir()} == first
    resumed = train(root, tmp_path / "run", ranks, 8)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
