"""The two losses of the joint model, as sums and counts that add up over songs, micro-batches and ranks.

Shape legend: B songs, K scored positions, D width, V predictable ids.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.recompute import recompute_if

FLOW_WEIGHT = 0.1  # L = L_LM + 0.1 L_flow, arXiv:2506.07634, 4.3
CHUNK_POSITIONS = 2048  # float32 logits of 2048 positions x 16385 ids take 134 MB


@dataclass(frozen=True, slots=True)
class SongOutput:
    """Sums per song. A mean over any set of songs is the sum of their sums over the sum of their counts."""

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
    head: Callable[[Tensor], Tensor], states_KD: Tensor, targets_K: Tensor, chunk_positions: int = CHUNK_POSITIONS
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy_K and whether each prediction is right, is_correct_K.

    The logits of one chunk at a time exist, in the forward and in the backward pass alike, which recomputes them where
    there are several chunks.
    """

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states)
        return cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets

    is_recomputed = len(targets_K) > chunk_positions
    scores = [
        recompute_if(is_recomputed, score, states, targets)
        for states, targets in zip(states_KD.split(chunk_positions), targets_K.split(chunk_positions), strict=True)
    ]
    ce, is_correct = zip(*scores, strict=True)
    return torch.cat(ce), torch.cat(is_correct)
