"""One kernel for the causal attention of several sequences that lie one after another, where one is installed.

Tried in this order, each on the GPUs that it is written for: flash-attn 3 (Hopper), flash-attn 4 (Hopper and
Blackwell), flash-attn 2 (`make flash`), and PyTorch's own, which exists from 2.10 on. All take half precision
only; elsewhere each sequence goes through `scaled_dot_product_attention` by itself. A kernel counts as
installed when its function has been imported: a package of the name may lack it, or need a library that is not here.

Shape legend: S positions of all sequences, H heads, E channels per head, Q sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

VarlenKernel = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""Queries, keys, values [S, H, E], where sequences start and end int32 [Q + 1], longest -> mixed values [S, H, E]."""

TORCH_MODULE = "torch.nn.attention.varlen"
HALF = (torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)  # of a GPU; FlashAttention-2, which the last two are, needs Ampere or newer
HOPPER, BLACKWELL = 9, (10, 11)  # major compute capabilities; consumer cards of Blackwell, 12, are another design
ONE_BY_ONE = "attention: each song by itself (scaled_dot_product_attention)"


class KernelError(Exception):
    """A kernel that is not installed, or cannot be imported; the message says which of the two."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Which kernel was found, and what stood before it in the order."""

    name: str  # "" where there is none
    kernel: VarlenKernel | None
    passed_over: tuple[str, ...]  # name and reason of each that cannot be had


@cache
def choose_kernel(capability: tuple[int, int]) -> KernelChoice:
    """Return the first kernel of this installation that can be imported, of those for a GPU of this capability."""
    passed_over: list[str] = []
    for package, load in _list_packages(capability[0]):
        try:
            name, kernel = load()
        except KernelError as error:
            passed_over.append(f"{package} {error}")
        else:
            return KernelChoice(name, kernel, tuple(passed_over))
    return KernelChoice("", None, tuple(passed_over))


def find_kernel(device: torch.device) -> VarlenKernel | None:
    """Return the kernel that `choose_kernel` finds for this GPU."""
    return choose_kernel(torch.cuda.get_device_capability(device)).kernel


def suits_kernel(query_SHE: Tensor) -> bool:
    """Tell whether such kernels take this tensor."""
    return query_SHE.is_cuda and query_SHE.dtype in HALF and _has_kernels(query_SHE.device)


def describe_attention(device: torch.device | str, dtype: torch.dtype) -> str:
    """Return one line for the log: how the LM attends on this device in this type, and why not otherwise."""
    device = torch.device(device)
    if device.type != "cuda":
        return ONE_BY_ONE
    if dtype not in HALF:
        return f"{ONE_BY_ONE}; kernels for all songs at once take bf16, not {str(dtype).removeprefix('torch.')}"
    if not _has_kernels(device):
        needed = ".".join(map(str, MIN_CAPABILITY))
        return f"{ONE_BY_ONE}; kernels for all songs at once take GPUs of compute capability {needed} and up"
    choice = choose_kernel(torch.cuda.get_device_capability(device))
    chosen = f"attention: all songs at once ({choice.name})" if choice.kernel else ONE_BY_ONE
    return "; ".join([chosen, *choice.passed_over])


def _has_kernels(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY


def _list_packages(major: int) -> list[tuple[str, Callable[[], tuple[str, VarlenKernel]]]]:
    """Return the packages that have kernels for a major compute capability, the fastest first, and their loaders."""
    packages: list[tuple[str, Callable[[], tuple[str, VarlenKernel]]]] = []
    if major == HOPPER:
        packages.append(("flash-attn-3", _load_flash_attn_3))
    if major == HOPPER or major in BLACKWELL:
        packages.append(("flash-attn-4", _load_flash_attn_4))
    return [*packages, ("flash-attn", _load_flash_attn_2), ("PyTorch's varlen_attn", _load_torch)]


def _load_flash_attn_3() -> tuple[str, VarlenKernel]:
    module = _import("flash_attn_interface", "is not installed")
    function = getattr(module, "flash_attn_varlen_func", None)
    if function is None:
        raise KernelError("has no flash_attn_varlen_func in its flash_attn_interface")
    return _name("flash-attn", module, "flash-attn-3"), partial(_run_flash_attn, function)


def _load_flash_attn_4() -> tuple[str, VarlenKernel]:
    module = _import("flash_attn.cute", "is not installed")
    function = getattr(module, "flash_attn_varlen_func", None)
    if function is None or "max_seqlen_q" not in signature(function).parameters:
        raise KernelError(
            "has a flash_attn.cute of before its release, such as flash-attn 2 carries; install flash-attn-4"
        )
    return _name("flash-attn", module, "flash-attn-4"), partial(_run_flash_attn, function)


def _load_flash_attn_2() -> tuple[str, VarlenKernel]:
    module = _import("flash_attn", "is not installed")
    function = getattr(module, "flash_attn_varlen_func", None)
    if function is None:
        raise KernelError(
            "has no flash_attn_varlen_func here; the package flash-attn-4 brings flash_attn.cute alone, another library"
        )
    return _name("flash-attn", module, "flash-attn"), partial(_run_flash_attn, function)


def _name(name: str, module: ModuleType, distribution: str) -> str:
    """Return a kernel's name with its version: what the module says, else what was installed, else the package's."""
    if found := getattr(module, "__version__", ""):
        return f"{name} {found}"
    try:
        return f"{name} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def _load_torch() -> tuple[str, VarlenKernel]:
    module = _import(TORCH_MODULE, f"is not in PyTorch {torch.__version__}, but from 2.10 on")
    function: Callable[..., Any] = module.varlen_attn
    known, name = signature(function).parameters, f"varlen_attn of PyTorch {torch.__version__}"
    if "window_size" in known:  # from 2.11 on
        return name, partial(_run_torch, function, window_size=(-1, 0))
    if "is_causal" in known:
        return name, partial(_run_torch, function, is_causal=True)
    raise KernelError(f"of PyTorch {torch.__version__} has neither window_size nor is_causal, so it cannot be causal")


def _import(name: str, absence: str) -> ModuleType:
    """Import a module.

    Raises:
        KernelError: `absence` where there is none of that name, else what went wrong as it was imported, such as a
            library that is missing or of another version.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        is_absent = error.name is not None and f"{name}.".startswith(f"{error.name}.")  # it, or what it lies in
        raise KernelError(absence if is_absent else f"cannot be imported: {error}") from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KernelError(f"cannot be imported: {reason}") from error


def _run_flash_attn(
    function: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int
) -> Tensor:
    """Call a kernel of flash-attn; 4, and 3 in its first versions, return the logarithms of sums besides."""
    found = function(
        query, key, value, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=longest, max_seqlen_k=longest,
        causal=True,
    )  # fmt: skip
    mixed: Tensor = found[0] if isinstance(found, tuple) else found
    return mixed


def _run_torch(
    function: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, **causal: Any
) -> Tensor:
    mixed: Tensor = function(query, key, value, bounds, bounds, longest, longest, **causal)
    return mixed
