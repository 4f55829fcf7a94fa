"""Checkpoints written beside the run: complete in the end, and loud when they cannot be."""

import errno
import threading
from pathlib import Path

import pytest
import torch

from model.weights import checkpoint
from model.weights.checkpoint import CheckpointError, TrainState, find_newest, verify
from model.weights.saver import CheckpointSaver

from ..tiny_dataset import tiny_config


def state(step: int) -> TrainState:
    return TrainState(
        global_step=step, seed=0, dataset_fingerprint="x", first_loss=1.0, first_val_loss=None, last_val_loss=None,
        losses=(1.0,),
    )  # fmt: skip


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate, real = threading.Event(), checkpoint.save_file

    def save_slowly(*arguments: object) -> None:
        gate.wait(timeout=30)
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", save_slowly)
    saver = CheckpointSaver(tmp_path, tiny_config(tmp_path, tmp_path, checkpoint__keep=2))
    saver.save(state(1), [("model", {"a": torch.ones(3)})])  # returns although nothing is written yet
    saver.check()
    assert find_newest(tmp_path) is None
    gate.set()
    for step in (2, 3):
        saver.save(state(step), [("model", {"a": torch.full((3,), step)})])
    saver.wait()
    saver.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_000002", "step_000003"], "the last 2 stay"
    verify(tmp_path / "step_000003")


def test_a_full_disk_is_told_and_leaves_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saver = CheckpointSaver(tmp_path, tiny_config(tmp_path, tmp_path))
    saver.save(state(1), [("model", {"a": torch.ones(3)})])
    saver.wait()

    def fill_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    saver.save(state(2), [("model", {"a": torch.ones(3)})])
    with pytest.raises(CheckpointError, match=r"step_000002 cannot be written: No space left.*older checkpoints are"):
        saver.wait()
    saver.close()
    newest = find_newest(tmp_path)
    assert newest is not None
    assert newest.name == "step_000001"
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"], "nothing half-written is left"
