"""Which rank computes which songs of a step, in which micro-batch, so that ranks finish together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The slots of one micro-batch. `is_repeat`: it only keeps a rank in step with the others and counts nothing."""

    slots: tuple[int, ...]
    is_repeat: bool


def share_slots(work: Sequence[float], micro_batch_size: int, world_size: int) -> list[list[Share]]:
    """Return the micro-batches of every rank: the same number on each, and of nearly equal work.

    Songs are dealt from the longest to the shortest: a round of one micro-batch per rank at a time, each song to the
    rank that has least to do so far (LPT, Graham 1969). Micro-batches that run at the same time so hold songs of like
    length, and no micro-batch ever holds more than `micro_batch_size` songs, so never more than that many of the
    longest crops: the budget of tokens that a GPU's memory is chosen for.

    Args:
        work: of each slot, in any unit.
        micro_batch_size: songs of a micro-batch, at most.
        world_size: number of ranks.
    """
    by_length = sorted(range(len(work)), key=lambda slot: (-work[slot], slot))
    totals = [0.0] * world_size
    ranks: list[list[Share]] = [[] for _ in range(world_size)]
    round_size = world_size * micro_batch_size
    for first in range(0, len(work), round_size):
        dealt: list[list[int]] = [[] for _ in range(world_size)]
        for slot in by_length[first : first + round_size]:
            rank = min(
                (rank for rank in range(world_size) if len(dealt[rank]) < micro_batch_size),
                key=lambda rank: (totals[rank], rank),
            )
            dealt[rank].append(slot)
            totals[rank] += work[slot]
        for rank, slots in enumerate(dealt):
            filler = by_length[-1 - rank % len(work)]  # a short one: it is computed for nothing
            ranks[rank].append(Share(slots=tuple(slots or [filler]), is_repeat=not slots))
    assert all(len(shares) == math.ceil(len(work) / round_size) for shares in ranks)
    return ranks
