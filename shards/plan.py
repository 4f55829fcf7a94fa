"""Which song stands at which place of the endless stream that training reads: a pure function of index and seed.

Shards are shuffled, and songs within a window of some shards, so that a reader has few shards open at a time and goes
through each of them once an epoch. Nothing is remembered between two places: the state of a loader is a number.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.index import Index
from shards.schema import ShardError

WINDOW_SHARDS = 16  # shards that are mixed with each other: 8 GB of the default size, about 5000 songs
MIXTURE_SHARDS = 48  # in the windows of all languages together: fewer than a reader keeps open (MAX_OPEN_SHARDS)
MIXTURE_CYCLE = 1_000  # places within which each language has exactly its share


class PlanError(ShardError):
    """Settings that leave no song, or an index that is not sorted."""


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that is a hash of `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class Plan:
    """An endless stream of songs of one index. Without shares, every epoch passes through every song once.

    With shares, every language is a stream of its own, each passing through all its songs before it starts anew, and
    the shares say how these streams alternate.
    """

    def __init__(
        self,
        index: Index,
        *,
        seed: int,
        min_frames: int = 1,
        shares: Mapping[str, float] | None = None,
        window_shards: int | None = None,
    ) -> None:
        """Sort the songs into streams.

        Args:
            index: one split.
            seed: of the order.
            min_frames: shorter songs are left out.
            shares: language to its share of the stream, of any sum; languages that are not named are left out.
            window_shards: songs of so many shards are mixed, of each language; None: 16, fewer with more than three
                languages, so that a reader has all shards open that songs are taken from.

        Raises:
            PlanError: no song is left, a language has no songs or too small a share, or the index is not sorted.
        """
        if window_shards is None:
            window_shards = max(2, min(WINDOW_SHARDS, MIXTURE_SHARDS // len(shares or [None])))
        self.num_frames = index.column("num_frames").astype(np.int32)  # of every row
        is_long = self.num_frames >= min_frames
        self.num_too_short = len(index) - int(is_long.sum())
        starts = _find_shards(index)
        self._min_frames = min_frames
        self._streams: list[_Stream] = []
        if not shares:
            self._streams.append(_Stream(is_long, starts, derive_seed(seed, "all"), window_shards))
        else:
            codes, languages = index.codes("language")
            for language in sorted(shares):
                is_chosen = is_long & (codes == languages.index(language)) if language in languages else is_long[:0]
                if not is_chosen.any():
                    known = ", ".join(sorted(map(str, languages)))
                    raise PlanError(f"language {language!r}: the index has no song of it that is long enough ({known})")
                self._streams.append(_Stream(is_chosen, starts, derive_seed(seed, language), window_shards))
        self.num_songs = sum(stream.num_songs for stream in self._streams)
        if not self.num_songs:
            raise PlanError(f"no song has {min_frames} frames, the fewest for a crop; lower that or extract more songs")
        self._seed = derive_seed(seed, "mixture")
        self._quotas = _share_out([shares[language] for language in sorted(shares)] if shares else [1.0], shares)
        self._cycle = lru_cache(maxsize=2)(self._draw_cycle)

    def song(self, position: int) -> int:
        """Return the row of the song at `position`, counted from 0 without end."""
        if len(self._streams) == 1:
            return self._streams[0].song(position)
        cycle, offset = divmod(position, MIXTURE_CYCLE)
        order = self._cycle(cycle)
        stream = int(order[offset])
        number = cycle * self._quotas[stream] + int((order[:offset] == stream).sum())
        return self._streams[stream].song(number)

    def _draw_cycle(self, cycle: int) -> NDArray[np.int64]:
        """Return which stream each place of a cycle takes its song from."""
        order = np.repeat(np.arange(len(self._quotas)), self._quotas)
        return _generator(self._seed, cycle).permutation(order)


class _Stream:
    """The songs of a mask, epoch after epoch, each time in another order."""

    def __init__(self, is_member: NDArray[np.bool_], starts: NDArray[np.int64], seed: int, window_shards: int) -> None:
        self._is_member = is_member
        self._bounds = np.append(starts, len(is_member))
        before = np.append(0, np.cumsum(is_member, dtype=np.int64))
        self._counts = np.diff(before[self._bounds])  # songs of each shard
        self._seed = seed
        self._window_shards = window_shards
        self.num_songs = int(self._counts.sum())
        self._epoch = lru_cache(maxsize=2)(self._shuffle_shards)
        self._window = lru_cache(maxsize=4)(self._shuffle_window)

    def song(self, number: int) -> int:
        """Return the row of the song at place `number` of the endless stream."""
        epoch, place = divmod(number, self.num_songs)
        _, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        first = int(ends[window - 1]) if window else 0
        return int(self._window(epoch, window)[place - first])

    def _shuffle_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order of the shards that hold any song, and where each window of them ends."""
        order = _generator(self._seed, epoch).permutation(np.flatnonzero(self._counts))
        ends = np.cumsum(self._counts[order])
        lasts = np.append(np.arange(self._window_shards - 1, len(order) - 1, self._window_shards), len(order) - 1)
        return order, ends[lasts]

    def _shuffle_window(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Return the rows of the songs of a window, mixed."""
        order, _ = self._epoch(epoch)
        shards = order[window * self._window_shards : (window + 1) * self._window_shards]
        rows = [
            first + np.flatnonzero(self._is_member[first:end])
            for first, end in zip(self._bounds[shards], self._bounds[shards + 1], strict=True)
        ]
        return _generator(self._seed, epoch, window).permutation(np.concatenate(rows))


def _find_shards(index: Index) -> NDArray[np.int64]:
    """Return the first row of each shard."""
    codes, shards = index.codes("shard")
    starts = np.append(0, np.flatnonzero(codes[1:] != codes[:-1]) + 1)
    if len(np.unique(codes[starts])) != len(starts):
        twice = shards[np.bincount(codes[starts]).argmax()]
        raise PlanError(f"index: the rows of {twice} do not stand together; write the index again")
    return starts


def _share_out(weights: list[float], shares: Mapping[str, float] | None) -> list[int]:
    """Return how many of the places of a cycle each language has: by largest remainder."""
    total = math.fsum(weights)
    if not all(weight > 0 and math.isfinite(weight) for weight in weights) or not math.isfinite(total):
        raise PlanError(f"shares of languages are {dict(shares or {})}, expected positive numbers")
    exact = [MIXTURE_CYCLE * weight / total for weight in weights]
    quotas = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (quotas[k] - exact[k], k))
    for k in by_remainder[: MIXTURE_CYCLE - sum(quotas)]:
        quotas[k] += 1
    if min(quotas) == 0:
        raise PlanError(f"shares of languages are {dict(shares or {})}: the smallest is below 1 in {MIXTURE_CYCLE}")
    return quotas


def _generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(seeds)))
