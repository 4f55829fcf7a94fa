"""What the backward pass recomputes instead of keeping it: memory for compute, never another result."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint

Recompute = Literal[False, "cheap", "selective", True]
"""False keeps all activations. "cheap" recomputes norms and SwiGLU, which is a few additions per number, but no matrix
product and no attention. "selective" recomputes the feed-forward networks, which hold two thirds of all activations,
but never attention. True keeps only the borders of layers."""


def recompute_if(is_wanted: bool, run: Callable[..., Any], *arguments: Any) -> Any:
    """Return `run(*arguments)`; if wanted, and if there will be a backward pass, keep nothing of what is inside.

    The backward pass runs it again as far as it must: not the last product, of which it needs the inputs alone.
    Nothing inside may draw random numbers.
    """
    if is_wanted and torch.is_grad_enabled():
        return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)
    return run(*arguments)


def recompute_cheaply(is_wanted: bool, run: Callable[..., Any], *arguments: Any) -> Any:
    """Return `run(*arguments)`, recomputed as in `recompute_if`, except where a compiler decides what to keep.

    It then keeps products, and computes again what it can fuse into the backward pass.
    """
    return recompute_if(is_wanted and not torch.compiler.is_compiling(), run, *arguments)
