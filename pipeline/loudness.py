"""Integrated loudness of a song of any length: pyloudnorm's filters and gating blocks, a minute of audio at a time."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import Audio

# Recommendation ITU-R BS.1770-4: mean squares of 0.4 s that overlap by three quarters, and two gates.
BLOCK_S, STEP_S = 0.4, 0.1
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
_OFFSET_LU = -0.691  # of the same equations
_BLOCKS_AT_ONCE = 600
_WARM_UP_BLOCKS = 10  # before those that count: the filters' memory of what came earlier is gone after 1 s


def measure_loudness(samples: Audio, sample_rate: int) -> float:
    """Return the loudness of float32 [C, L] in LUFS, C at most 5; the absolute gate for silence and under 0.4 s."""
    loudness = np.concatenate([[-np.inf], *_block_loudness(samples, sample_rate)])
    loudness = loudness[loudness >= ABSOLUTE_GATE_LUFS]
    loudness = loudness[loudness > _mean(loudness) + RELATIVE_GATE_LU]
    return max(_mean(loudness), ABSOLUTE_GATE_LUFS)


def _block_loudness(samples: Audio, sample_rate: int) -> Iterator[NDArray[np.float64]]:
    if samples.shape[1] < BLOCK_S * sample_rate:
        return
    import pyloudnorm  # it brings scipy.signal, which takes seconds to load

    num_blocks = round((samples.shape[1] / sample_rate - BLOCK_S) / STEP_S) + 1
    meter = pyloudnorm.Meter(sample_rate)
    for first in range(0, num_blocks, _BLOCKS_AT_ONCE):
        before = min(first, _WARM_UP_BLOCKS)
        last = min(first + _BLOCKS_AT_ONCE, num_blocks) - 1
        start = round((first - before) * STEP_S * sample_rate)
        stop = math.ceil(round((last * STEP_S + BLOCK_S) * sample_rate, 6))  # the meter takes no block cut short
        meter.integrated_loudness(samples[:, start:stop].T.astype(np.float64))
        yield np.array(meter.blockwise_loudness[before:])


def _mean(loudness: NDArray[np.float64]) -> float:
    """Return the loudness of the mean power of several blocks; -inf of none."""
    power = 10 ** ((loudness - _OFFSET_LU) / 10)
    return float(_OFFSET_LU + 10 * np.log10(power.mean())) if len(power) else -np.inf
