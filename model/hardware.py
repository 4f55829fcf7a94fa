"""What a device can do at most, and how much memory this process takes."""

import ctypes
import resource

import torch

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
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


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
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def keep_memory() -> None:
    """Let glibc keep freed memory: it gives blocks above 32 MB back at once, and new ones cost a fault per page.

    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
