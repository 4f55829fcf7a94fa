"""What the backward pass recomputes instead of keeping it: memory for compute, never another result."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# Said at every start, of regions that change their inputs: ours do not.
logging.getLogger("torch._higher_order_ops.wrap").addFilter(
    lambda record: "context_fn is passed to torch.utils.checkpoint" not in record.getMessage()
)
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten._scaled_mm.default)

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
    """Return `run(*arguments)`, recomputed as in `recompute_if`: no product twice, as `run` ends with its only one.

    A compiler would recompute products as well, or, left alone, keep all that products read: it is told what to keep.
    """
    if is_wanted and torch.is_grad_enabled() and torch.compiler.is_compiling():
        return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=_keep_products)
    return recompute_if(is_wanted, run, *arguments)


def _keep_products() -> Any:
    return create_selective_checkpoint_contexts(_choose)


def _choose(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
