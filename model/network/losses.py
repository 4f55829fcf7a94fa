"""The two losses of the joint model, as sums and counts that add up over songs, micro-batches and ranks.

Shape legend: B songs, K scored positions, D width, V predictable ids.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax, softmax

FLOW_WEIGHT = 0.1  # L = L_LM + 0.1 L_flow, arXiv:2506.07634, 4.3
CHUNK_POSITIONS = 2048  # float32 logits of 2048 positions x 16385 ids take 134 MB


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


@dataclass(frozen=True, slots=True)
class LossKernels:
    """The two passes over logits; plain ones read and write them more often than compiled ones."""

    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Logits [K, V] and targets [K] -> cross-entropy_K in float32, is_correct_K."""
    differentiate: Callable[[Tensor, Tensor], Tensor]
    """Logits and targets -> derivative of each position's cross-entropy by its logits [K, V], in the logits' type."""


def score_tokens(
    states_KD: Tensor,
    targets_K: Tensor,
    classify_VD: Tensor,
    bias_V: Tensor,
    chunk_positions: int = CHUNK_POSITIONS,
    kernels: LossKernels | None = None,
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy_K in float32 and whether each prediction is right, is_correct_K.

    Only the logits of one chunk are in memory at a time. Of a single chunk, their gradient is computed together with
    the loss and kept in their place; of several chunks, the backward pass computes the logits again. Gradients of the
    weights are added up in float32.

    Args:
        states_KD: one or more.
        targets_K: int64 ids.
        classify_VD: weights of the logits.
        bias_V: their biases.
        chunk_positions: positions of a chunk, 1 or more.
        kernels: passes over the logits; None: the plain ones.
    """
    scores: tuple[Tensor, Tensor] = _ChunkedScores.apply(  # type: ignore[no-untyped-call]
        kernels or PLAIN, chunk_positions, states_KD, targets_K, classify_VD, bias_V
    )
    return scores


def _score(logits_KV: Tensor, targets_K: Tensor) -> tuple[Tensor, Tensor]:
    log_shares_KV = log_softmax(logits_KV, dim=-1, dtype=torch.float32)
    ce_K = -log_shares_KV.gather(1, targets_K[:, None]).squeeze(1)
    return ce_K, logits_KV.argmax(dim=-1) == targets_K


def _differentiate(logits_KV: Tensor, targets_K: Tensor) -> Tensor:
    shares_KV = softmax(logits_KV, dim=-1, dtype=torch.float32)
    if torch.compiler.is_compiling():  # in the same pass; written out, it would be three more
        is_target_KV = torch.arange(logits_KV.shape[1], device=logits_KV.device) == targets_K[:, None]
        shares_KV = torch.where(is_target_KV, shares_KV - 1, shares_KV)
    else:
        rows_K = torch.arange(len(targets_K), device=targets_K.device)
        shares_KV[rows_K, targets_K] -= 1
    return shares_KV.to(logits_KV.dtype)


PLAIN = LossKernels(_score, _differentiate)


def compile_kernels() -> LossKernels:
    """Return kernels that are compiled at first use: one pass over the logits each. They hold no weights."""
    return LossKernels(torch.compile(_score, dynamic=True), torch.compile(_differentiate, dynamic=True))


class _ChunkedScores(torch.autograd.Function):
    """One node for all chunks: whatever hooks a module has, such as ZeRO 3's, run once for any number of them."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: LossKernels,
        chunk_positions: int,
        states_KD: Tensor,
        targets_K: Tensor,
        classify_VD: Tensor,
        bias_V: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.kernels, ctx.chunk_positions = kernels, chunk_positions
        slopes_KV = None
        is_single = len(targets_K) <= chunk_positions and any(ctx.needs_input_grad)
        scores = []
        for states, targets in zip(states_KD.split(chunk_positions), targets_K.split(chunk_positions), strict=True):
            logits = torch.addmm(bias_V, states, classify_VD.t())
            ctx.dtype = logits.dtype  # autocast's, where it is on; it is off in the backward pass
            scores.append(kernels.score(logits, targets))
            slopes_KV = kernels.differentiate(logits, targets) if is_single else None
        ctx.save_for_backward(states_KD, targets_K, classify_VD, bias_V, slopes_KV)
        ce, is_correct = (torch.cat(parts) for parts in zip(*scores, strict=True))
        ctx.mark_non_differentiable(is_correct)
        return ce, is_correct

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_K: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states_KD, targets_K, *weights, slopes_KV = ctx.saved_tensors
        classify_VD, bias_V = (weight.to(ctx.dtype) for weight in weights)
        needs_states, _, needs_classify, needs_bias = ctx.needs_input_grad[2:]
        # Sums are of gradients in parts of the largest, which is exact where all are the same, as in training.
        largest = grad_K.abs().amax().clamp(min=torch.finfo(grad_K.dtype).tiny)
        grads_states: list[Tensor] = []
        sum_VD, sum_V = (
            torch.zeros_like(weight, dtype=torch.float32) if wanted else None
            for weight, wanted in zip(weights, (needs_classify, needs_bias), strict=True)
        )
        chunks = (tensor.split(ctx.chunk_positions) for tensor in (states_KD, targets_K, grad_K))
        for states, targets, grad in zip(*chunks, strict=True):
            slopes = slopes_KV
            if slopes is None:
                logits = torch.addmm(bias_V, states.to(ctx.dtype), classify_VD.t())
                slopes = ctx.kernels.differentiate(logits, targets)
            parts = (grad / largest)[:, None]
            if needs_states:
                grads_states.append((grad[:, None] * (slopes @ classify_VD)).to(states.dtype))
            if sum_VD is not None:
                sum_VD += slopes.t() @ (parts * states).to(ctx.dtype)
            if sum_V is not None:
                sum_V += (slopes.t() @ parts.to(ctx.dtype)).squeeze(1)
        return (
            None,
            None,
            torch.cat(grads_states) if needs_states else None,
            None,
            None if sum_VD is None else sum_VD.mul_(largest).to(weights[0].dtype),
            None if sum_V is None else sum_V.mul_(largest).to(weights[1].dtype),
        )
