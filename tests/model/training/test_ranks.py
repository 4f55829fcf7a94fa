"""Tests of model/training/ranks.py: which device a rank gets, from what launchers say."""

import pytest
import torch

from model.network.config import ConfigError
from model.training.hardware import DeviceError
from model.training.ranks import FOREIGN_SIZES, choose_rank_device, count_local_ranks

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "DS_ACCELERATOR", *FOREIGN_SIZES)


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs that work, and no launcher."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("model.training.ranks.choose_device", lambda device: "cuda" if device == "auto" else device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def set_all(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_a_rank_takes_the_gpu_of_its_local_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_rank_device() == torch.device("cuda", 0)
    set_all(monkeypatch, RANK=7, WORLD_SIZE=8, LOCAL_RANK=3, LOCAL_WORLD_SIZE=4)
    assert choose_rank_device("cuda") == torch.device("cuda", 3)
    assert choose_rank_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["LOCAL_SIZE", "LOCAL_WORLD_SIZE"])  # of deepspeed, of torchrun
def test_every_rank_of_a_machine_with_fewer_gpus_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """All of them, or the others would wait for the one that cannot start."""
    for local_rank in (0, 7):
        set_all(monkeypatch, WORLD_SIZE=8, LOCAL_RANK=local_rank, **{name: 8})
        assert count_local_ranks() == 8
        with pytest.raises(
            DeviceError, match="8 ranks on this machine, where 4 GPUs are visible: start one rank per GPU"
        ):
            choose_rank_device()
        assert choose_rank_device("cpu") == torch.device("cpu")


def test_a_rank_without_a_launcher_that_counts_knows_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WORLD_SIZE=8, LOCAL_RANK=4)
    assert count_local_ranks() is None
    with pytest.raises(DeviceError, match="5 ranks on this machine, where 4 GPUs are visible"):
        choose_rank_device()


def test_the_switch_of_deepspeed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, DS_ACCELERATOR="cpu")
    assert choose_rank_device() == choose_rank_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="device cuda, but DS_ACCELERATOR is 'cpu'; unset one of the two"):
        choose_rank_device("cuda")
    set_all(monkeypatch, DS_ACCELERATOR="cuda")
    assert choose_rank_device() == torch.device("cuda", 0)
    set_all(monkeypatch, DS_ACCELERATOR="xpu")
    with pytest.raises(DeviceError, match="DS_ACCELERATOR is 'xpu': this trainer runs on cuda or cpu"):
        choose_rank_device("cpu")


@pytest.mark.parametrize("name", FOREIGN_SIZES)
def test_processes_that_know_nothing_of_each_other_do_not_train(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each would be rank 0 of one and write into the same run folder."""
    set_all(monkeypatch, **{name: 8})
    with pytest.raises(ConfigError, match=rf"one of 8 processes that .* started \({name}\), but none knows"):
        choose_rank_device("cpu")
    set_all(monkeypatch, WORLD_SIZE=8)
    assert choose_rank_device("cpu") == torch.device("cpu")
    monkeypatch.delenv("WORLD_SIZE")
    set_all(monkeypatch, **{name: 1})
    assert choose_rank_device("cpu") == torch.device("cpu")
