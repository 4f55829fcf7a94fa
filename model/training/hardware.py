"""Which device a command computes on, what that device can do at most, and how much memory this process takes.

A GPU that is here and cannot be used ends a command with one line: on the CPU it would take weeks, and nobody would
know why.
"""

import ctypes
import logging
import os
import re
import resource
import warnings
from pathlib import Path
from typing import Literal, get_args

import torch

from model.network.config import ConfigError
from model.training.nvidia_driver import Driver, Gpu, read_driver, read_gpus

__all__ = [
    "DTYPES",
    "Device",
    "DeviceError",
    "DeviceRequest",
    "Gpu",
    "Precision",
    "choose_device",
    "choose_dtype",
    "describe_device",
    "explain_unusable_gpu",
    "keep_memory",
    "peak_flops",
    "peak_memory_bytes",
    "peak_resident_bytes",
    "read_gpus",
]

Device = Literal["cuda", "cpu"]
DeviceRequest = Literal["auto", "cuda", "cpu"]
Precision = Literal["bf16", "fp32"]
DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}

# Dense bf16 peak of tensor cores in TFLOP/s, by what the device's name holds; from the makers' data sheets.
PEAK_TFLOPS = {
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "B200": 2250.0,
    "L40S": 362.0,
    "A40": 149.7,
    "A6000": 154.8,
    "4090": 165.2,
    "3090": 71.0,
}
# Oldest driver for programs built for a CUDA of this major version: NVIDIA, CUDA Compatibility, table 1.
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_PROCESS_STATUS = Path("/proc/self/status")
_TO_CPU = "run on the CPU with --device cpu"

logger = logging.getLogger(__name__)


class DeviceError(ConfigError):
    """A device that is asked for, or that is here, and cannot be used."""


def choose_device(requested: str = "auto") -> Device:
    """Return the device to compute on, and say so where it is the CPU although nobody asked for it.

    Args:
        requested: "cpu"; "cuda": a GPU and nothing else; "auto": a GPU where there is one. A GPU that
            CUDA_VISIBLE_DEVICES hides counts as not there.

    Raises:
        DeviceError: a GPU is here that PyTorch cannot use, or "cuda" is asked for and there is none; one line that
            says what was found and what to do.
    """
    if requested not in get_args(DeviceRequest):
        raise DeviceError(f"device {requested!r}: expected one of {', '.join(get_args(DeviceRequest))}")
    if requested == "cpu":
        return "cpu"
    if problem := explain_unusable_gpu():
        raise DeviceError(f"{problem}, or {_TO_CPU}")
    if _ask_torch()[0]:
        return "cuda"
    absence, is_suspicious = _explain_absent_gpu()
    if requested == "cuda":
        raise DeviceError(f"device cuda: {absence}; {_TO_CPU}")
    logger.log(logging.WARNING if is_suspicious else logging.INFO, "running on the CPU: %s", absence)
    return "cpu"


def explain_unusable_gpu() -> str | None:
    """Return in one line why PyTorch cannot use this machine's GPU, and what to do; None: it can, or there is none.

    A GPU that CUDA_VISIBLE_DEVICES hides on purpose ("", "-1" or no number at all) is none.
    """
    if _hides_gpus():
        return None
    is_available, reason = _ask_torch()
    if is_available:
        return _explain_missing_kernels()
    driver = read_driver()
    if not driver.gpus:
        return None
    why, remedy = _explain_refusal(driver, reason)
    return f"{_describe_found(driver)} cannot be used by this PyTorch {torch.__version__}: {why}; {remedy}"


def choose_dtype(requested: Precision | None, device: Device) -> torch.dtype:
    """Return the type that a model's weights and matrix products take when it writes songs.

    Not float16: weights are trained in bfloat16, which has float32's range; in float16 what is above 65504 is lost.

    Args:
        requested: None: bfloat16 on a GPU that computes in it (compute capability 8.0 and up), else float32.
        device: where the model goes.
    """
    if requested is not None:
        return DTYPES[requested]
    if device == "cpu":
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    logger.warning("float32 on %s, which has no bfloat16 arithmetic: twice the memory", torch.cuda.get_device_name())
    return torch.float32


def describe_device(device: torch.device | str) -> str:
    """Return what a device is, for the log and the report of a run."""
    device = torch.device(device)
    if device.type != "cuda":
        return f"the CPU ({torch.get_num_threads()} threads)"
    facts = torch.cuda.get_device_properties(device)
    capability = f"compute capability {facts.major}.{facts.minor}"
    return f"{facts.name} ({facts.total_memory / 2**30:.1f} GiB, {capability}, CUDA {torch.version.cuda})"


def peak_flops(device: torch.device) -> float | None:
    """Return the bf16 peak of a GPU in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has had: of the GPU that it computes on, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the most main memory that this process has had.

    Of what Linux counts, the peak of `getrusage` would not do: a process starts with that of the one that started it.
    """
    status = _PROCESS_STATUS.read_text() if _PROCESS_STATUS.exists() else ""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def keep_memory() -> None:
    """Let glibc keep freed memory: it gives blocks above 32 MB back at once, and new ones cost a fault per page.

    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _hides_gpus() -> bool:
    """Tell whether CUDA_VISIBLE_DEVICES leaves no GPU: CUDA stops at the first entry that names none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return False
    first = visible.split(",")[0].strip()
    return not (first.isdigit() or first.startswith(("GPU-", "MIG-")))


def _ask_torch() -> tuple[bool, str]:
    """Return whether PyTorch can use a GPU, and why not in its own words; it says them only once in a process."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    said = [str(entry.message) for entry in caught if "CUDA" in str(entry.message)]
    return is_available, " ".join(said[0].split("(Triggered")[0].split()) if said else ""


def _explain_absent_gpu() -> tuple[str, bool]:
    """Return why there is no GPU, and whether somebody may have expected one."""
    if _hides_gpus():
        visible = os.environ["CUDA_VISIBLE_DEVICES"]
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPUs of this machine, if it has any", False
    version = read_driver().version
    if not version:
        return "no NVIDIA GPU on this machine, or its driver is not loaded", False
    return (
        f"NVIDIA's driver {version} is loaded, but no GPU may be opened from here; in a container, start it with its "
        "GPUs (docker run --gpus all)",
        True,
    )


def _explain_refusal(driver: Driver, reason: str) -> tuple[str, str]:
    """Return why PyTorch cannot use any of the driver's GPUs, and what to do."""
    speaks = driver.gpus[0].driver_cuda
    if torch.version.cuda is None:
        built = "AMD GPUs" if torch.version.hip else "CPUs only"
        newest = f"CUDA {speaks[0]}" if speaks else "CUDA"
        return f"it is built for {built}", f"install a PyTorch that is built for {newest}"
    needed = int(torch.version.cuda.split(".")[0])
    oldest = OLDEST_DRIVER.get(needed, 0)
    release = int(driver.version.split(".")[0] or 0) if driver.version else 0
    if (speaks is not None and speaks[0] < needed) or 0 < release < oldest:
        newer = f"{oldest} or newer" if oldest else f"for CUDA {needed}"
        other = f"CUDA {speaks[0]}" if speaks else "the driver's CUDA"
        return (
            f"it is built for CUDA {torch.version.cuda}, which takes a driver {newer}",
            f"update the driver, install a PyTorch that is built for {other}",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    first = visible.split(",")[0].strip()
    if first.isdigit() and int(first) >= len(driver.gpus):
        return (
            f"CUDA_VISIBLE_DEVICES={visible} names none of the {len(driver.gpus)} GPUs",
            f"name one of 0 to {len(driver.gpus) - 1}, or unset it",
        )
    if driver.problem:
        return f"NVML says: {driver.problem}", "restart the machine if the driver was updated, see what nvidia-smi says"
    return reason or "it gives no reason", "see what nvidia-smi says"


def _explain_missing_kernels() -> str | None:
    """Return the error of a PyTorch without kernels for any of the GPUs that it sees, else None."""
    if torch.version.hip:
        return None
    built = [re.match(r"(sm|compute)_(\d+)(\d)[af]?$", name) for name in torch.cuda.get_arch_list()]
    kernels = [(match[1], (int(match[2]), int(match[3]))) for match in built if match]
    found = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    if not kernels or not found or any(_has_kernels(capability, kernels) for capability in found):
        return None
    versions = ", ".join(f"{major}.{minor}" for kind, (major, minor) in kernels if kind == "sm")
    return (
        f"{torch.cuda.get_device_name(0)} (compute capability {found[0][0]}.{found[0][1]}) cannot be used by this "
        f"PyTorch {torch.__version__}: it has kernels for {versions} only; install one that has them for this GPU"
    )


def _has_kernels(capability: tuple[int, int], kernels: list[tuple[str, tuple[int, int]]]) -> bool:
    """Tell whether a GPU runs any of the kernels: binaries of its generation, or code that a driver translates."""
    return any(
        version <= capability and (kind == "compute" or version[0] == capability[0]) for kind, version in kernels
    )


def _describe_found(driver: Driver) -> str:
    """Return the GPUs and their driver."""
    gpu = driver.gpus[0]
    count = f"{len(driver.gpus)} x " if len(driver.gpus) > 1 else ""
    speaks = f", for CUDA {gpu.driver_cuda[0]}.{gpu.driver_cuda[1]}" if gpu.driver_cuda else ""
    return f"{count}{gpu.name} (driver {gpu.driver or 'of unknown version'}{speaks})"
