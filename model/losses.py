"""The two losses of the joint model, as sums and counts that add up over songs, micro-batches and ranks.

Shape legend: B songs, K scored positions, D width, V predictable ids.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

FLOW_WEIGHT = 0.1  # L = L_LM + 0.1 L_flow, arXiv:2506.07634, 4.3
CHUNK_POSITIONS = 2048  # float32 logits of 2048 positions x 16385 ids take 134 MB

Head = Callable[..., Tensor]
"""States [K, D] and the weights that it computes with -> logits [K, V]."""


class SongOutput(NamedTuple):
    """Sums per song. A mean over any set of songs is the sum of their sums over the sum of their counts.

    A tuple, because ZeRO 3 looks for tensors in what modules return, and sees none inside dataclasses.
    """

    ce_sum_B: Tensor
    """Cross-entropy in nats, summed over a song's targets; float32."""
    num_targets_B: Tensor
    """Targets of a song: its frames and one EOS."""
    num_correct_B: Tensor
    """Targets that got the highest logit."""
    flow_sum_B: Tensor
    """Mean squared velocity error of each block, summed over a song's blocks; float32."""
    num_blocks_B: Tensor
    ce_BT: Tensor
    """Cross-entropy of each target, T + 1 per song; zeros after EOS."""
    is_correct_BT: Tensor
    error_BN: Tensor
    """Mean squared velocity error of each block; zeros after a song's last."""

    @property
    def ce_sum(self) -> Tensor:
        """Cross-entropy summed over the batch."""
        return self.ce_sum_B.sum()

    @property
    def num_targets(self) -> Tensor:
        """Targets of the batch."""
        return self.num_targets_B.sum()

    @property
    def num_correct(self) -> Tensor:
        """Correct predictions of the batch."""
        return self.num_correct_B.sum()

    @property
    def flow_sum(self) -> Tensor:
        """Flow error summed over the batch's blocks."""
        return self.flow_sum_B.sum()

    @property
    def num_blocks(self) -> Tensor:
        """Blocks of the batch."""
        return self.num_blocks_B.sum()

    def loss(
        self,
        *,
        num_targets: Tensor | float | None = None,
        num_blocks: Tensor | float | None = None,
        flow_weight: float = FLOW_WEIGHT,
    ) -> Tensor:
        """Return token mean + `flow_weight` * block mean.

        Args:
            num_targets: targets of the whole global batch, over all ranks and micro-batches; None: of this batch.
            num_blocks: blocks of the whole global batch; None: of this batch.
            flow_weight: weight of the flow error.
        """
        ce = self.ce_sum / (self.num_targets if num_targets is None else num_targets)
        flow = self.flow_sum / (self.num_blocks if num_blocks is None else num_blocks)
        return ce + flow_weight * flow


def score_tokens(
    head: Head, states_KD: Tensor, targets_K: Tensor, weights: Sequence[Tensor], chunk_positions: int = CHUNK_POSITIONS
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy_K in float32 and whether each prediction is right, is_correct_K.

    Only the logits of one chunk are in memory at a time. With several chunks, the backward pass computes them again.
    Gradients of the weights are added up in float32.

    Args:
        head: states and weights to logits_KV; a pure function.
        states_KD: one or more.
        targets_K: int64 ids.
        weights: all tensors that the head computes with.
        chunk_positions: positions of a chunk, 1 or more.
    """
    if len(targets_K) <= chunk_positions:
        return _score(head, states_KD, targets_K, weights)
    scores: tuple[Tensor, Tensor] = _ChunkedScores.apply(head, chunk_positions, states_KD, targets_K, *weights)  # type: ignore[no-untyped-call]
    return scores


def _score(head: Head, states_KD: Tensor, targets_K: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    logits_KV = head(states_KD, *weights)
    return cross_entropy(logits_KV, targets_K, reduction="none"), logits_KV.argmax(dim=-1) == targets_K


class _ChunkedScores(torch.autograd.Function):
    """One node for all chunks: whatever hooks a module has, such as ZeRO 3's, run once for any number of them."""

    @staticmethod
    def forward(
        ctx: Any, head: Head, chunk_positions: int, states_KD: Tensor, targets_K: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.head, ctx.chunk_positions = head, chunk_positions
        ctx.save_for_backward(states_KD, targets_K, *weights)
        chunks = zip(states_KD.split(chunk_positions), targets_K.split(chunk_positions), strict=True)
        ce, is_correct = zip(*(_score(head, states, targets, weights) for states, targets in chunks), strict=True)
        is_correct_K = torch.cat(is_correct)
        ctx.mark_non_differentiable(is_correct_K)
        return torch.cat(ce), is_correct_K

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_K: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states_KD, targets_K, *weights = ctx.saved_tensors
        is_wanted = ctx.needs_input_grad[2], *ctx.needs_input_grad[4:]
        grads_states: list[Tensor] = []
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        parts = (tensor.split(ctx.chunk_positions) for tensor in (states_KD, targets_K, grad_K))
        for states, targets, grad in reversed(list(zip(*parts, strict=True))):
            leaves = [
                leaf.detach().requires_grad_(wanted) for leaf, wanted in zip((states, *weights), is_wanted, strict=True)
            ]
            with torch.enable_grad():
                ce, _ = _score(ctx.head, leaves[0], targets, leaves[1:])
            ce.backward(grad)
            if leaves[0].grad is not None:
                grads_states.append(leaves[0].grad)
            for total, leaf in zip(sums, leaves[1:], strict=True):
                if leaf.grad is not None:
                    total += leaf.grad
        grad_weights = (
            total.to(weight.dtype) if wanted else None
            for total, weight, wanted in zip(sums, weights, is_wanted[1:], strict=True)
        )
        return None, None, torch.cat(grads_states[::-1]) if grads_states else None, None, *grad_weights
