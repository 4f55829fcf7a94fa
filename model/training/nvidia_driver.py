"""What NVIDIA's driver says of the GPUs of this machine, also where PyTorch cannot use them.

NVML is asked, the library behind nvidia-smi: it comes with every driver, so no package has to be installed for it.
Where it does not answer, the kernel's own records below /proc and /dev tell at least names and the driver's version.
"""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NVML_NAME = "libnvidia-ml.so.1"
PROC_FOLDER = Path("/proc/driver/nvidia")  # what the loaded kernel module says; a container sees that of its host
DEVICE_FOLDER = Path("/dev")  # nvidia0, nvidia1, ...: the GPUs that this machine or container may open
_MAX_TEXT_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE of nvml.h, the longest of the texts asked for here
_MAX_RECORD_BYTES = 1 << 16  # files below /proc have a few hundred bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU of this machine, whether or not PyTorch can use it; None and "" stand for what nobody says."""

    index: int
    """In the order of nvidia-smi."""
    name: str
    """Such as "NVIDIA H200"."""
    memory_bytes: int | None
    """All of its memory, free or not."""
    compute_capability: tuple[int, int] | None
    """Such as (9, 0): what kinds of arithmetic it has."""
    driver: str
    """Version of the driver, such as "535.104.05"."""
    driver_cuda: tuple[int, int] | None
    """Newest CUDA that the driver speaks, such as (12, 2)."""
    torch_cuda: str | None
    """CUDA that the installed PyTorch is built for, such as "12.8"; None: it is built without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The driver of this machine."""

    version: str  # "": none is loaded
    gpus: tuple[Gpu, ...]  # those that this machine, or container, may open
    problem: str = ""  # why NVML did not answer, in its own words; "": it did, or there is no driver


class NvmlError(Exception):
    """NVML has no answer; the message is its own."""


def read_gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs of this machine, in the order of nvidia-smi; CUDA_VISIBLE_DEVICES hides none of them."""
    return list(read_driver().gpus)


def read_driver() -> Driver:
    """Return what is known of the driver and its GPUs; never fails."""
    try:
        return _ask_nvml()
    except OSError:  # the library is not here: no driver, or a container without its libraries
        return _ask_kernel("")
    except NvmlError as error:
        return _ask_kernel(str(error))


class _Nvml:
    """The library; each call raises NvmlError where it has no answer."""

    def __init__(self) -> None:
        """Load it."""
        self._library: Any = ctypes.CDLL(NVML_NAME)
        self._library.nvmlErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that writes its answer into its last arguments."""
        function = getattr(self._library, name, None)
        if function is None:
            raise NvmlError(f"{NVML_NAME} has no {name}")
        if code := function(*arguments):
            raise NvmlError((self._library.nvmlErrorString(code) or b"unknown error").decode(errors="replace"))

    def text(self, name: str, *arguments: Any) -> str:
        """Return a text."""
        buffer = ctypes.create_string_buffer(_MAX_TEXT_BYTES)
        self.call(name, *arguments, buffer, ctypes.c_uint(_MAX_TEXT_BYTES))
        return buffer.value.decode(errors="replace")


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _ask_nvml() -> Driver:
    nvml = _Nvml()
    nvml.call("nvmlInit_v2")
    try:
        version = nvml.text("nvmlSystemGetDriverVersion")
        driver_cuda, count = _read_driver_cuda(nvml), ctypes.c_uint()
        nvml.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        gpus = [_read_gpu(nvml, index, version, driver_cuda) for index in range(count.value)]
    finally:
        nvml.call("nvmlShutdown")
    return Driver(version=version, gpus=tuple(gpu for gpu in gpus if gpu is not None))


def _read_driver_cuda(nvml: _Nvml) -> tuple[int, int] | None:
    number = ctypes.c_int()
    try:
        nvml.call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
    except NvmlError:
        return None
    return number.value // 1000, number.value % 1000 // 10  # 12020 is 12.2


def _read_gpu(nvml: _Nvml, index: int, version: str, driver_cuda: tuple[int, int] | None) -> Gpu | None:
    """Return one GPU, or None for one that this container may not open."""
    handle, memory, major, minor = ctypes.c_void_p(), _Memory(), ctypes.c_int(), ctypes.c_int()
    try:
        nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        name = nvml.text("nvmlDeviceGetName", handle)
    except NvmlError:
        return None
    memory_bytes: int | None = None
    try:
        nvml.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        memory_bytes = memory.total
    except NvmlError:  # GPUs that share the machine's memory have none of their own
        memory_bytes = None
    capability: tuple[int, int] | None = None
    try:
        nvml.call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        capability = major.value, minor.value
    except NvmlError:
        capability = None
    return Gpu(
        index=index,
        name=name,
        memory_bytes=memory_bytes,
        compute_capability=capability,
        driver=version,
        driver_cuda=driver_cuda,
        torch_cuda=_torch_cuda(),
    )


def _ask_kernel(problem: str) -> Driver:
    """Return what /proc and /dev say; a GPU counts where it has a device, as a container sees its host's records."""
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", _read_record(PROC_FOLDER / "version"))
    version = found[0] if found else ""
    numbers = [path.name.removeprefix("nvidia") for path in DEVICE_FOLDER.glob("nvidia[0-9]*")]
    names = {number: "NVIDIA GPU" for number in sorted((number for number in numbers if number.isdigit()), key=int)}
    for path in PROC_FOLDER.glob("gpus/*/information"):
        lines = [line.partition(":") for line in _read_record(path).splitlines()]
        record = {key.strip(): value.strip() for key, _, value in lines}
        if (number := record.get("Device Minor", "")) in names and record.get("Model"):
            names[number] = record["Model"]
    gpus = tuple(
        Gpu(
            index=index,
            name=name,
            memory_bytes=None,
            compute_capability=None,
            driver=version,
            driver_cuda=None,
            torch_cuda=_torch_cuda(),
        )
        for index, name in enumerate(names.values())
    )
    return Driver(version=version, gpus=gpus, problem=problem if version or gpus else "")


def _read_record(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_RECORD_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _torch_cuda() -> str | None:
    import torch  # takes a second, and most machines that ask have no GPU

    return torch.version.cuda
