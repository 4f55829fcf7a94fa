"""Mean and standard deviation of each latent channel, summed song by song."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.schema import ShardError

MIN_STD = 1e-4  # what is written for a channel that hardly changes: training divides by it


class LatentStatistics:
    """Sums over frames, in float64; parts merged in the same order give the same numbers to the last bit."""

    def __init__(self, latent_channels: int) -> None:
        """Start with no frames."""
        self.num_frames = 0
        self._sum = np.zeros(latent_channels)
        self._sum_of_squares = np.zeros(latent_channels)

    def add(self, latents: NDArray[np.float16]) -> None:
        """Count the frames of one song; `latents` is [T, C]."""
        values = latents.astype(np.float64)
        self.num_frames += len(values)
        self._sum += values.sum(axis=0)
        self._sum_of_squares += (values * values).sum(axis=0)

    def merge(self, other: "LatentStatistics") -> None:
        """Count the frames that `other` has counted."""
        self.num_frames += other.num_frames
        self._sum += other._sum
        self._sum_of_squares += other._sum_of_squares

    @property
    def num_channels(self) -> int:
        """Return C."""
        return len(self._sum)

    def mean(self) -> tuple[float, ...]:
        """Return the mean of each channel."""
        return tuple((self._sum / self._count()).tolist())

    def std(self, floor: float = 0.0) -> tuple[float, ...]:
        """Return the standard deviation of each channel, at least `floor`."""
        variance = self._sum_of_squares / self._count() - (self._sum / self._count()) ** 2
        return tuple(np.maximum(np.sqrt(np.maximum(variance, 0.0)), floor).tolist())

    def to_json(self) -> dict[str, Any]:
        """Return the sums as JSON values, exactly."""
        return {
            "num_frames": self.num_frames,
            "sum": self._sum.tolist(),
            "sum_of_squares": self._sum_of_squares.tolist(),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "LatentStatistics":
        """Return the statistics that `to_json` gave."""
        sums, squares, num_frames = (record.get(name) for name in ("sum", "sum_of_squares", "num_frames"))
        if not (isinstance(sums, list) and isinstance(squares, list) and len(sums) == len(squares)):
            raise ShardError("latent statistics: expected sum and sum_of_squares, one number for each channel")
        if not (type(num_frames) is int and all(type(x) is float and math.isfinite(x) for x in sums + squares)):
            raise ShardError("latent statistics: expected an integer num_frames and finite sums")
        statistics = cls(len(sums))
        statistics.num_frames = num_frames
        statistics._sum[:] = sums
        statistics._sum_of_squares[:] = squares
        return statistics

    @classmethod
    def from_moments(cls, num_frames: int, mean: Sequence[float], std: Sequence[float]) -> "LatentStatistics":
        """Return the statistics of `num_frames` frames with this mean and deviation."""
        statistics = cls(len(mean))
        statistics.num_frames = num_frames
        statistics._sum[:] = num_frames * np.asarray(mean)
        statistics._sum_of_squares[:] = num_frames * (np.square(std) + np.square(mean))
        return statistics

    def _count(self) -> int:
        if not self.num_frames:
            raise ShardError("latent statistics: no frames counted, so there is no mean")
        return self.num_frames
