"""Tests of model/training/samples.py: a step's samples are there whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from model.data.batches import MicroBatch
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.settings.settings import ReportConfig
from model.training import samples
from model.training.samples import write_samples

REPORT = ReportConfig(num_samples=2, max_sample_s=0.3, sample_euler_steps=2)


@pytest.fixture
def songs(make_batch: Callable[..., SongBatch]) -> MicroBatch:
    return MicroBatch(batch=make_batch(), seeds=(1, 2, 3), slots=(0, 1, 2), is_repeat=False)


def test_samples_of_a_step_are_replaced_with_their_audio(
    tmp_path: Path, make_model: Callable[..., SongModel], songs: MicroBatch
) -> None:
    first = write_samples(tmp_path, 100, make_model(), songs, REPORT)
    assert [path.name for path in sorted(first.iterdir())] == ["song-0.safetensors", "song-1.safetensors"]
    with safe_open(first / "song-0.safetensors", "pt") as file:
        assert file.get_tensor("latents").shape == (8, 3)
        assert file.metadata() == {"ended": "max_frames"}
    (first / "song-0.flac").touch()
    (tmp_path / "samples/.step_000100.partial").mkdir()  # of a run that was killed
    assert write_samples(tmp_path, 100, make_model(), songs, REPORT) == first
    assert [path.name for path in sorted(first.iterdir())] == ["song-0.safetensors", "song-1.safetensors"]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_000100"]


def test_half_of_the_samples_are_no_step(
    tmp_path: Path, make_model: Callable[..., SongModel], songs: MicroBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = samples.save_file, []

    def save_one(tensors: dict[str, torch.Tensor], path: Path, *metadata: object) -> None:
        if saved:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(tensors, path, *metadata)

    monkeypatch.setattr(samples, "save_file", save_one)
    with pytest.raises(OSError, match="No space left"):
        write_samples(tmp_path, 100, make_model(), songs, REPORT)
    assert saved
    assert not (tmp_path / "samples/step_000100").exists()
