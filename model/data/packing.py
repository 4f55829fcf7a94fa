"""Which rank computes which songs of a step, in which micro-batch, so that ranks finish together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_EXCHANGES = 200  # tried to bring every micro-batch under the budget, before one more per rank is taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The slots of one micro-batch. `is_repeat`: it only keeps a rank in step with the others and counts nothing."""

    slots: tuple[int, ...]
    is_repeat: bool


def share_slots(work: Sequence[float], micro_batch_size: int, world_size: int) -> list[list[Share]]:
    """Return the micro-batches of every rank: the same number on each, and of nearly equal work.

    Songs are dealt from the longest to the shortest: a round of one micro-batch per rank at a time, each song to the
    rank that has least to do so far (LPT, Graham 1969). Micro-batches that run at the same time so hold songs of like
    length, and no micro-batch ever holds more than `micro_batch_size` songs.

    Args:
        work: of each slot, in any unit.
        micro_batch_size: songs of a micro-batch, at most.
        world_size: number of ranks.
    """
    by_length = _sort_longest_first(work)
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
            ranks[rank].append(_share(slots, by_length, rank))
    assert all(len(shares) == math.ceil(len(work) / round_size) for shares in ranks)
    return ranks


def share_by_tokens(
    work: Sequence[float], tokens: Sequence[int], budget: int, world_size: int, micro_batch_size: int = 0
) -> list[list[Share]]:
    """Return the micro-batches of every rank: as few as hold at most `budget` tokens each, the same number on each.

    Args:
        work: of each slot, in any unit; ranks get nearly equal sums.
        tokens: of each slot, none above `budget`.
        budget: tokens of a micro-batch, at most.
        world_size: number of ranks.
        micro_batch_size: songs of a micro-batch, at most; 0: any number.
    """
    assert max(tokens) <= budget, f"a song of {max(tokens)} tokens does not fit into {budget}"
    max_songs = micro_batch_size or len(tokens)
    fewest = max(math.ceil(sum(tokens) / budget), math.ceil(len(tokens) / max_songs))
    of_longest = min(max_songs, budget // max(tokens))  # that many songs fit, whatever their length
    packed, num_bins = None, math.ceil(fewest / world_size) * world_size
    while packed is None:
        packed = _pack(tokens, num_bins, budget, max_songs) or _pack(tokens, num_bins, budget, of_longest)
        num_bins += world_size
    sums = [sum(work[slot] for slot in slots) for slots in packed]
    by_length, by_work = _sort_longest_first(work), _sort_longest_first(sums)
    totals = [0.0] * world_size
    ranks: list[list[Share]] = [[] for _ in range(world_size)]
    for first in range(0, len(packed), world_size):  # what runs at the same time is of similar length
        order = sorted(range(world_size), key=lambda rank: (totals[rank], rank))
        for rank, number in zip(order, by_work[first : first + world_size], strict=True):
            ranks[rank].append(_share(packed[number], by_length, rank))
            totals[rank] += sums[number]
    return ranks


def _pack(tokens: Sequence[int], num_bins: int, budget: int, max_songs: int) -> list[list[int]] | None:
    """Return the slots of each of `num_bins` micro-batches, some maybe empty, or None where no way is found.

    From the longest song to the shortest, each to the emptiest micro-batch; then those above the budget exchange a
    song, or give one away, as long as that makes the fullest smaller.
    """
    if len(tokens) > num_bins * max_songs:
        return None
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [0] * num_bins
    for slot in _sort_longest_first(tokens):
        free = [number for number in range(num_bins) if len(bins[number]) < max_songs]
        emptiest = min(free, key=lambda number: (loads[number], number))
        bins[emptiest].append(slot)
        loads[emptiest] += tokens[slot]
    for _ in range(MAX_EXCHANGES):
        fullest = max(range(num_bins), key=lambda number: (loads[number], -number))
        if loads[fullest] <= budget:
            return bins
        found = _find_exchange(tokens, bins, loads, fullest, max_songs)
        if found is None:
            return None
        other, given, taken = found
        bins[fullest].remove(given)
        bins[other].append(given)
        if taken is not None:
            bins[other].remove(taken)
            bins[fullest].append(taken)
        moved = tokens[given] - (0 if taken is None else tokens[taken])
        loads[fullest] -= moved
        loads[other] += moved
    return None


def _find_exchange(
    tokens: Sequence[int], bins: Sequence[Sequence[int]], loads: Sequence[int], fullest: int, max_songs: int
) -> tuple[int, int, int | None] | None:
    """Return the other micro-batch, the slot it is given and the slot it gives (None: none) that level both most."""
    best, found = loads[fullest], None
    for other, slots in enumerate(bins):
        if other == fullest:
            continue
        takeable = [None, *slots] if len(slots) < max_songs else [*slots]
        for given in bins[fullest]:
            for taken in takeable:
                moved = tokens[given] - (0 if taken is None else tokens[taken])
                fuller = max(loads[fullest] - moved, loads[other] + moved)
                if fuller < best:
                    best, found = fuller, (other, given, taken)
    return found


def _sort_longest_first(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda number: (-values[number], number))


def _share(slots: Sequence[int], by_length: Sequence[int], rank: int) -> Share:
    """Return the share; one without songs gets a short song, which is computed for nothing."""
    filler = by_length[-1 - rank % len(by_length)]
    return Share(slots=tuple(slots or [filler]), is_repeat=not slots)
