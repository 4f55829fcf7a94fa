"""One kernel for the causal attention of several sequences that lie one after another, where one is installed.

flash-attn's (`pip install -e '.[flash]'`) is taken before PyTorch's own, which exists from 2.11 on. Both run on CUDA in
half precision only; elsewhere each sequence goes through `scaled_dot_product_attention` by itself.

Shape legend: S positions of all sequences, H heads, E channels per head, Q sequences.
"""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor

VarlenKernel = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""Queries, keys, values [S, H, E], where sequences start and end int32 [Q + 1], longest -> mixed values [S, H, E]."""

TORCH_KERNEL = "torch.nn.attention.varlen"


@cache
def find_kernel() -> VarlenKernel | None:
    """Return the kernel of this installation, or None."""
    if find_spec("flash_attn") is not None:
        return partial(_run, import_module("flash_attn").flash_attn_varlen_func, causal=True)
    if find_spec(TORCH_KERNEL) is not None:
        kernel = import_module(TORCH_KERNEL).varlen_attn
        if "window_size" in signature(kernel).parameters:
            return partial(_run, kernel, window_size=(-1, 0))
    return None


def suits_kernel(query_SHE: Tensor) -> bool:
    """Tell whether such kernels take this tensor."""
    return query_SHE.is_cuda and query_SHE.dtype in (torch.bfloat16, torch.float16)


def _run(
    kernel: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, **causal: Any
) -> Tensor:
    mixed: Tensor = kernel(query, key, value, bounds, bounds, longest, longest, **causal)
    return mixed
