"""W&B where it is installed, and a clear word where it is not; peaks of devices."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.network.config import ConfigError
from model.settings.settings import RunConfig
from model.training.boards import WANDB_NAME, Boards
from model.training.hardware import peak_flops, peak_memory_bytes

from ..tiny_dataset import tiny_config


def wandb_config(folder: Path) -> RunConfig:
    config = tiny_config(folder, folder)
    return replace(config, report=replace(config.report, tensorboard=False, wandb_project="songs"))


def test_wandb_gets_the_numbers_and_goes_on_with_its_run_wherever_the_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[str, Any]] = []
    wandb = SimpleNamespace(
        init=lambda **options: calls.append(("init", options)) or wandb,
        log=lambda values, step: calls.append(("log", (values, step))),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for folder in (tmp_path / "run", tmp_path / "elsewhere" / "moved", tmp_path / "run"):
        boards = Boards(folder, wandb_config(tmp_path), first_step=0)
        boards.add(3, {"train/loss": 1.5})
        boards.close()
        if len(calls) == 3:
            folder.rename((tmp_path / "elsewhere").mkdir() or tmp_path / "elsewhere" / "moved")
    assert [name for name, _ in calls] == ["init", "log", "finish"] * 3
    assert calls[1][1] == ({"train/loss": 1.5}, 3)
    assert calls[0][1]["project"] == "songs"
    first, moved, other = (options for name, options in calls if name == "init")
    assert [first[key] for key in ("id", "name", "resume")] == [moved[key] for key in ("id", "name", "resume")]
    assert (first["name"], first["resume"], first["group"]) == ("run", "allow", first["id"])
    assert other["id"] != first["id"], "another run in a folder of the same name"
    (tmp_path / "run" / WANDB_NAME).write_text("{}")
    with pytest.raises(ConfigError, match="expected project, id and name of a W&B run; delete the file"):
        Boards(tmp_path / "run", wandb_config(tmp_path), first_step=0)
    assert calls[0][1]["config"]["trainer"]["flow_weight"] == 0.1


def test_wandb_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match="report.wandb_project is 'songs', but wandb is not installed: `.uv/bin/uv pip install"
    ):
        Boards(tmp_path, wandb_config(tmp_path), first_step=0)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("Tesla T4", None)],
)
def test_peaks_are_found_by_name(name: str, tflops: float | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda", 0)) == (None if tflops is None else tflops * 1e12)
    assert peak_flops(torch.device("cpu")) is None
    assert peak_memory_bytes(torch.device("cpu")) > 2**20
