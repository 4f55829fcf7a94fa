"""Tests of model/training/hardware.py: a GPU is used, or a line says why not; machines are stand-ins."""

import logging
import warnings
from types import SimpleNamespace

import pytest
import torch

from model.network.config import ConfigError
from model.training import hardware
from model.training.hardware import DeviceError, choose_device, choose_dtype, describe_device, explain_unusable_gpu
from model.training.nvidia_driver import Driver, Gpu

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:109.)"
)


def driver(version: str, cuda: tuple[int, int] | None = None, count: int = 1, problem: str = "") -> Driver:
    gpus = tuple(
        Gpu(
            index=index,
            name="NVIDIA A100-SXM4-80GB",
            memory_bytes=80 * 2**30 if cuda else None,
            compute_capability=(8, 0) if cuda else None,
            driver=version,
            driver_cuda=cuda,
            torch_cuda="12.8",
        )
        for index in range(count)
    )
    return Driver(version=version, gpus=gpus, problem=problem)


NO_GPU = driver("", count=0)


class Machine:
    """What PyTorch and the driver say of a machine; a test changes what it needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch, "__version__", "2.8.0+test")
        monkeypatch.setattr(torch.version, "hip", None)
        self.set(NO_GPU, is_usable=False)

    def set(self, found: Driver, *, is_usable: bool, cuda: str | None = "12.8", warning: str = "") -> None:
        def is_available() -> bool:
            if warning:
                warnings.warn(warning, stacklevel=1)
            return is_usable

        self._patch.setattr(hardware, "read_driver", lambda: found)
        self._patch.setattr(torch.version, "cuda", cuda)
        self._patch.setattr(torch.cuda, "is_available", is_available)
        self._patch.setattr(torch.cuda, "device_count", lambda: len(found.gpus) if is_usable else 0)
        self._patch.setattr(torch.cuda, "get_device_name", lambda *_: found.gpus[0].name)
        self.set_kernels((8, 0), ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"])

    def set_kernels(self, capability: tuple[int, int], built: list[str]) -> None:
        self._patch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        self._patch.setattr(torch.cuda, "get_arch_list", lambda: built)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def refuse(requested: str) -> str:
    """Return the line that `choose_device` ends with."""
    with pytest.raises(DeviceError) as caught:
        choose_device(requested)
    assert isinstance(caught.value, ConfigError), "commands end with ConfigErrors in one line"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_machine_without_gpu_takes_the_cpu_and_says_so(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    assert caplog.messages == ["running on the CPU: no NVIDIA GPU on this machine, or its driver is not loaded"]
    assert refuse("cuda").startswith("device cuda: no NVIDIA GPU on this machine")
    assert refuse("gpu") == "device 'gpu': expected one of auto, cuda, cpu"


def test_a_gpu_that_works_is_taken(machine: Machine) -> None:
    machine.set(driver("570.86.10", (12, 8)), is_usable=True)
    assert explain_unusable_gpu() is None
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("requested", ["auto", "cuda"])
@pytest.mark.parametrize("known", [(11, 4), None])
def test_a_driver_that_is_too_old_ends_the_command(
    machine: Machine, requested: str, known: tuple[int, int] | None, recwarn: pytest.WarningsRecorder
) -> None:
    machine.set(driver("470.82.01", known), is_usable=False, warning=TOO_OLD)
    assert choose_device("cpu") == "cpu"
    speaks, instead = (", for CUDA 11.4", "CUDA 11") if known else ("", "the driver's CUDA")
    assert refuse(requested) == (
        f"NVIDIA A100-SXM4-80GB (driver 470.82.01{speaks}) cannot be used by this PyTorch 2.8.0+test: it is built for "
        "CUDA 12.8, which takes a driver 525 or newer; update the driver, install a PyTorch that is built for "
        f"{instead}, or run on the CPU with --device cpu"
    )
    assert not recwarn.list, "one line says it all"


def test_a_newer_minor_version_of_cuda_needs_no_newer_driver(machine: Machine) -> None:
    machine.set(driver("535.104.05", (12, 2)), is_usable=False)
    assert "which takes a driver" not in refuse("auto")


@pytest.mark.parametrize(
    ("hip", "built", "remedy"),
    [
        (None, "it is built for CPUs only", "built for CUDA 12,"),
        ("6.4", "it is built for AMD GPUs", "built for CUDA 12,"),
    ],
)
def test_a_pytorch_for_other_devices_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, hip: str | None, built: str, remedy: str
) -> None:
    machine.set(driver("535.104.05", (12, 2), count=8), is_usable=False, cuda=None)
    monkeypatch.setattr(torch.version, "hip", hip)
    said = refuse("auto")
    assert said.startswith("8 x NVIDIA A100-SXM4-80GB (driver 535.104.05, for CUDA 12.2) cannot be used")
    assert built in said
    assert remedy in said


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_who_hides_the_gpus_gets_the_cpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hidden: str
) -> None:
    machine.set(driver("470.82.01", (11, 4)), is_usable=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    caplog.set_level(logging.INFO)
    assert explain_unusable_gpu() is None
    assert choose_device("auto") == "cpu"
    assert f"CUDA_VISIBLE_DEVICES={hidden!r} hides the GPUs" in caplog.text
    assert f"device cuda: CUDA_VISIBLE_DEVICES={hidden!r} hides the GPUs" in refuse("cuda")


def test_a_visible_device_that_does_not_exist_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.set(driver("570.86.10", (12, 8), count=4), is_usable=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert "CUDA_VISIBLE_DEVICES=4,5 names none of the 4 GPUs; name one of 0 to 3, or unset it" in refuse("auto")


def test_other_reasons_are_told_in_the_words_of_the_driver_or_of_pytorch(machine: Machine) -> None:
    mismatch = driver("570.86.10", problem="Driver/library version mismatch")
    machine.set(mismatch, is_usable=False)
    assert "NVML says: Driver/library version mismatch; restart the machine if the driver was updated" in refuse("auto")
    unknown = "CUDA initialization: CUDA unknown error\n - this may be due to an incorrectly set up environment (Trigge"
    machine.set(driver("570.86.10", (12, 8)), is_usable=False, warning=unknown.replace("Trigge", "Triggered at x:1)"))
    said = refuse("auto")
    assert "CUDA unknown error - this may be due to an incorrectly set up environment; see what nvidia-smi" in said
    assert "Triggered" not in said


def test_a_container_without_its_gpus_warns(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.set(driver("570.86.10", count=0), is_usable=False)
    assert choose_device("auto") == "cpu"
    assert "NVIDIA's driver 570.86.10 is loaded, but no GPU may be opened from here" in caplog.text
    assert "docker run --gpus all" in refuse("cuda")


@pytest.mark.parametrize(
    ("capability", "built", "is_fine"),
    [
        ((8, 9), ["sm_80", "sm_90"], True),  # runs kernels of an older GPU of its generation
        ((7, 0), ["sm_75", "sm_80"], False),  # older than all
        ((12, 0), ["sm_80", "sm_90a"], False),  # newer than all, and no code that its driver could translate
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["sm_120"], True),
        ((7, 0), [], True),  # nobody knows
    ],
)
def test_a_gpu_that_pytorch_has_no_kernels_for_is_named(
    machine: Machine, capability: tuple[int, int], built: list[str], is_fine: bool
) -> None:
    machine.set(driver("570.86.10", (12, 8)), is_usable=True)
    machine.set_kernels(capability, built)
    if is_fine:
        assert choose_device("auto") == "cuda"
        return
    said = refuse("auto")
    assert f"(compute capability {capability[0]}.{capability[1]}) cannot be used by this PyTorch" in said
    assert "it has kernels for 7.5, 8.0 only" in said or "it has kernels for 8.0, 9.0 only" in said


def test_bf16_where_a_gpu_computes_in_it_and_what_is_asked_for_anywhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.set(driver("570.86.10", (12, 8)), is_usable=True)
    for has_bf16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, has=has_bf16: has)
        assert choose_dtype(None, "cuda") is expected
    assert caplog.messages == ["float32 on NVIDIA A100-SXM4-80GB, which has no bfloat16 arithmetic: twice the memory"]
    assert choose_dtype(None, "cpu") is torch.float32
    assert choose_dtype("bf16", "cpu") is choose_dtype("bf16", "cuda") is torch.bfloat16
    assert choose_dtype("fp32", "cuda") is torch.float32


def test_a_device_is_described(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="NVIDIA H200", total_memory=150_754_820_096, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    assert describe_device("cuda") == "NVIDIA H200 (140.4 GiB, compute capability 9.0, CUDA 12.8)"
    assert describe_device("cpu") == f"the CPU ({torch.get_num_threads()} threads)"
