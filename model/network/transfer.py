"""Copies from the CPU to the device that computes, which nothing waits for."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return `tensor` on `device`, converted to `dtype` first; the copy runs beside the program and the device.

    To a GPU it goes by way of page-locked memory, from which alone CUDA copies without waiting; PyTorch keeps such
    memory, and reuses it when the copy is done. Not for the way back: that must be waited for.
    """
    device = torch.device(device)
    tensor = tensor.to(dtype or tensor.dtype)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
