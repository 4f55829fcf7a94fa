"""Losses as sums per song or per place in the song, which add up over micro-batches and ranks, and their means.

Shape legend: B songs, T frames, N blocks of a song, P frames per block, K places; a table has one row for each sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.network.losses import SongOutput

_CE, _FLOW, _CORRECT, _TARGETS, _BLOCKS, _SONGS = range(6)
NUM_ROWS = 6
NUM_PLACES = 8  # equal parts of the longest crop, to which validation losses are told apart


def tabulate(output: SongOutput) -> Tensor:
    """Return the table [NUM_ROWS, B] in float64, detached."""
    rows = [output.ce_sum_B, output.flow_sum_B, output.num_correct_B, output.num_targets_B, output.num_blocks_B]
    table = torch.stack([row.detach().double() for row in rows])
    return torch.cat([table, torch.ones_like(table[:1])])


def song_losses(table: Tensor, flow_weight: float) -> Tensor:
    """Return each song's own loss [B], in float64, of a table as `tabulate` gives it."""
    return table[_CE] / table[_TARGETS] + flow_weight * table[_FLOW] / table[_BLOCKS]


def tabulate_places(output: SongOutput, blocks_per_place: int) -> Tensor:
    """Return the table [NUM_ROWS, NUM_PLACES] in float64, detached; its songs are those that reach the place.

    EOS counts where the next block would have been.
    """
    device = output.ce_BT.device
    frames_per_block = (output.ce_BT.shape[1] - 1) // output.error_BN.shape[1]
    has_target_BT = torch.arange(output.ce_BT.shape[1], device=device) < output.num_targets_B[:, None]
    has_block_BN = torch.arange(output.error_BN.shape[1], device=device) < output.num_blocks_B[:, None]
    frame_place_T = torch.arange(output.ce_BT.shape[1], device=device) // (blocks_per_place * frames_per_block)
    block_place_N = torch.arange(output.error_BN.shape[1], device=device) // blocks_per_place
    first_block_N = torch.arange(output.error_BN.shape[1], device=device) % blocks_per_place == 0

    def add(values_BX: Tensor, place_X: Tensor) -> Tensor:
        table_K = torch.zeros(NUM_PLACES, dtype=torch.float64, device=device)
        return table_K.index_add_(0, place_X.clamp(max=NUM_PLACES - 1), values_BX.detach().double().sum(dim=0))

    return torch.stack(
        [
            add(output.ce_BT, frame_place_T),
            add(output.error_BN, block_place_N),
            add(output.is_correct_BT, frame_place_T),
            add(has_target_BT, frame_place_T),
            add(has_block_BN, block_place_N),
            add(has_block_BN & first_block_N, block_place_N),
        ]
    )


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
class ValidationLosses:
    """Means over the held-out songs: all, those of each language, and each part of the longest crop."""

    total: BatchLosses
    by_language: Mapping[str, BatchLosses]
    by_place: tuple[BatchLosses, ...]  # as many as some song reaches, from the start on

    @classmethod
    def from_sums(
        cls, sums_L: Mapping[str, Sequence[float]], sums_K: Sequence[Sequence[float]], flow_weight: float
    ) -> "ValidationLosses":
        """Divide sums by counts: one row of sums per language, and one per place."""
        total = [sum(values) for values in zip(*sums_L.values(), strict=True)]
        return cls(
            total=BatchLosses.from_sums(total, flow_weight),
            by_language={name: BatchLosses.from_sums(sums, flow_weight) for name, sums in sums_L.items()},
            by_place=tuple(BatchLosses.from_sums(sums, flow_weight) for sums in sums_K if sums[_BLOCKS]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one update did."""

    losses: BatchLosses
    lr: float
    grad_norm: float  # before clipping
    flops: float  # of the model, over all ranks, without recomputing layers
