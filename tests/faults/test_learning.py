"""Full disks under what learns: a codebook and a run of training end as if the disk had never been full."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits

from model.checkpoint import CheckpointError
from model.ranks import Ranks
from model.training_run import TrainingRun
from tests.jobs import crash_codebook
from tests.model.tiny_dataset import build_song, tiny_config, write_tiny_dataset

from .conftest import Disk


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over other numbers of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def test_a_codebook_on_a_full_disk(tmp_path, disk: Disk, monkeypatch):
    random = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "raw" / f"{number}.wav", 0.1 * random.standard_normal(3 * 24_000), 24_000)
    crash_codebook.run(tmp_path / "raw", tmp_path / "whole", patch=monkeypatch.setattr)
    disk.remount("size=40k")
    for _ in range(2):
        with pytest.raises(OSError, match="space"):
            crash_codebook.run(tmp_path / "raw", disk.path / "out", patch=monkeypatch.setattr)
        assert not (disk.path / "out" / "model.safetensors").exists()
    disk.remount("size=100m")
    crash_codebook.run(tmp_path / "raw", disk.path / "out", order=1, patch=monkeypatch.setattr)
    for name in ("model.safetensors", "config.json"):
        assert (disk.path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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
