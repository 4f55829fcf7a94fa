"""What the backward pass recomputes instead of keeping it: memory for compute, never another result."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint

Recompute = Literal[False, "selective", True]
"""False keeps all activations. "selective" recomputes the feed-forward networks, which hold two thirds of them, but
never attention. True keeps only the borders of layers."""


def recompute_if(is_wanted: bool, run: Callable[..., Any], *arguments: Any) -> Any:
    """Return `run(*arguments)`; if wanted, and if there will be a backward pass, keep nothing of what is inside."""
    if is_wanted and torch.is_grad_enabled():
        return checkpoint(run, *arguments, use_reentrant=False)
    return run(*arguments)
