"""Losses as sums per song, which add up over micro-batches and ranks, and their means over a global batch.

Shape legend: B songs; the table has one row for each sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.losses import SongOutput

_CE, _FLOW, _CORRECT, _TARGETS, _BLOCKS, _SONGS = range(6)
NUM_ROWS = 6


def tabulate(output: SongOutput) -> Tensor:
    """Return the table [NUM_ROWS, B] in float64, detached."""
    rows = [output.ce_sum_B, output.flow_sum_B, output.num_correct_B, output.num_targets_B, output.num_blocks_B]
    table = torch.stack([row.detach().double() for row in rows])
    return torch.cat([table, torch.ones_like(table[:1])])


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLosses:
    """Means over a global batch, the same on every rank."""

    loss: float
    ce: float  # nats per token
    flow: float  # squared velocity error per block and channel
    accuracy: float  # share of tokens whose logit is the highest
    num_songs: int
    num_tokens: int

    @classmethod
    def from_sums(cls, sums: Sequence[float], flow_weight: float) -> "BatchLosses":
        """Divide sums by their counts."""
        ce, flow = sums[_CE] / sums[_TARGETS], sums[_FLOW] / sums[_BLOCKS]
        return cls(
            loss=ce + flow_weight * flow,
            ce=ce,
            flow=flow,
            accuracy=sums[_CORRECT] / sums[_TARGETS],
            num_songs=round(sums[_SONGS]),
            num_tokens=round(sums[_TARGETS]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one update did."""

    losses: BatchLosses
    lr: float
    grad_norm: float  # before clipping
