"""Tests of model/training/nvidia_driver.py, with a stand-in for NVML and for the kernel's files."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.training import nvidia_driver
from model.training.nvidia_driver import Gpu, read_driver, read_gpus

NO_PERMISSION, NOT_SUPPORTED, MISMATCH = 4, 3, 18  # nvmlReturn_t
NVRM = "NVRM version: NVIDIA UNIX {}  {}  Sat Aug 19 01:15:15 UTC 2023\nGCC version: gcc version 12.3.0\n"


def answer(value: bytes | int, code: int = 0) -> Callable[..., int]:
    """Return a function of NVML that writes an answer into its last argument, before the length of a text."""

    def write(*arguments: Any) -> int:
        if isinstance(value, bytes):
            arguments[-2].value = value
        else:
            arguments[-1]._obj.value = value
        return code

    return write


class FakeNvml(SimpleNamespace):
    """Two GPUs as NVML tells of them: the first one has all answers, the second one only a name."""

    def __init__(self, init: int = 0, hidden: int | None = None) -> None:
        def find_handle(index: Any, handle: Any) -> int:
            handle._obj.value = 100 + index.value
            return NO_PERMISSION if index.value == hidden else 0

        def read_name(handle: Any, text: Any, length: Any) -> int:
            text.value = {100: b"NVIDIA A100-SXM4-80GB", 101: b"NVIDIA GB10"}[handle.value]
            return 0

        def read_memory(handle: Any, memory: Any) -> int:
            memory._obj.total = 80 * 2**30
            return 0 if handle.value == 100 else NOT_SUPPORTED

        def read_capability(handle: Any, major: Any, minor: Any) -> int:
            major._obj.value, minor._obj.value = 8, 0
            return 0 if handle.value == 100 else NOT_SUPPORTED

        super().__init__(
            nvmlErrorString=ErrorString(),
            nvmlInit_v2=lambda: init,
            nvmlShutdown=self.shut_down,
            nvmlSystemGetDriverVersion=answer(b"535.104.05"),
            nvmlSystemGetCudaDriverVersion_v2=answer(12020),
            nvmlDeviceGetCount_v2=answer(2),
            nvmlDeviceGetHandleByIndex_v2=find_handle,
            nvmlDeviceGetName=read_name,
            nvmlDeviceGetMemoryInfo=read_memory,
            nvmlDeviceGetCudaComputeCapability=read_capability,
        )
        self.is_closed = False

    def shut_down(self) -> int:
        self.is_closed = True
        return 0


class ErrorString:
    """A function of which ctypes wants to be told what it returns."""

    restype: Any = None

    def __call__(self, code: int) -> bytes:
        assert self.restype is ctypes.c_char_p
        return {MISMATCH: b"Driver/library version mismatch"}.get(code, b"no answer")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without GPU: empty /proc/driver/nvidia and /dev."""
    for name in ("proc", "dev"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(nvidia_driver, "PROC_FOLDER", tmp_path / "proc")
    monkeypatch.setattr(nvidia_driver, "DEVICE_FOLDER", tmp_path / "dev")
    return tmp_path


def load(library: FakeNvml | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_library(name: str) -> FakeNvml:
        if library is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load_library)


def add_gpu(folders: Path, minor: int, name: str, *, may_open: bool = True) -> None:
    """Put a GPU into the kernel's records, as driver 535 writes them."""
    record = folders / "proc" / "gpus" / f"0000:0{minor}:00.0" / "information"
    record.parent.mkdir(parents=True)
    record.write_text(f"Model: \t\t {name}\nIRQ:   \t\t 18\nGPU UUID: \t GPU-0\nDevice Minor: \t {minor}\n")
    if may_open:
        (folders / "dev" / f"nvidia{minor}").touch()


def test_nvml_tells_all_that_a_gpu_says(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    load(library, monkeypatch)
    known = {"driver": "535.104.05", "driver_cuda": (12, 2), "torch_cuda": torch.version.cuda}
    assert read_gpus() == [
        Gpu(index=0, name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * 2**30, compute_capability=(8, 0), **known),
        Gpu(index=1, name="NVIDIA GB10", memory_bytes=None, compute_capability=None, **known),
    ]
    assert library.is_closed


def test_an_older_driver_that_lacks_a_question_tells_the_rest(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    del library.nvmlSystemGetCudaDriverVersion_v2
    load(library, monkeypatch)
    assert [(gpu.driver, gpu.driver_cuda) for gpu in read_gpus()] == [("535.104.05", None)] * 2


def test_a_gpu_that_may_not_be_opened_is_left_out(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(FakeNvml(hidden=0), monkeypatch)
    assert [(gpu.index, gpu.name) for gpu in read_gpus()] == [(1, "NVIDIA GB10")]


def test_a_machine_without_driver_has_no_gpu(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(None, monkeypatch)
    driver = read_driver()
    assert (driver.version, driver.gpus, driver.problem) == ("", (), "")


@pytest.mark.parametrize("module", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_without_nvml_the_kernel_knows_names_and_version(
    folders: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    load(FakeNvml(init=MISMATCH), monkeypatch)
    (folders / "proc" / "version").write_text(NVRM.format(module, "470.82.01"))
    add_gpu(folders, 0, "Tesla V100-SXM2-32GB")
    add_gpu(folders, 1, "Tesla T4", may_open=False)  # the host's, not this container's
    (folders / "dev" / "nvidiactl").touch()
    driver = read_driver()
    assert driver.version == "470.82.01"
    assert [(gpu.name, gpu.driver, gpu.memory_bytes) for gpu in driver.gpus] == [
        ("Tesla V100-SXM2-32GB", "470.82.01", None)
    ]
    assert driver.problem == "Driver/library version mismatch"


def test_a_device_without_any_record_is_still_a_gpu(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(None, monkeypatch)
    for number in (0, 1, 10):
        (folders / "dev" / f"nvidia{number}").touch()
    assert [(gpu.index, gpu.name, gpu.driver) for gpu in read_gpus()] == [(k, "NVIDIA GPU", "") for k in range(3)]


def test_a_driver_without_devices_has_no_gpu(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(None, monkeypatch)
    (folders / "proc" / "version").write_text(NVRM.format("x86_64 Kernel Module", "535.104.05"))
    add_gpu(folders, 0, "NVIDIA H200", may_open=False)
    driver = read_driver()
    assert (driver.version, driver.gpus) == ("535.104.05", ())
