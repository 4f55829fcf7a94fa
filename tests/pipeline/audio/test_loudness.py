"""The loudness of a song, beside pyloudnorm's."""

import math
import tracemalloc

import numpy as np
import pyloudnorm
import pytest

from pipeline.audio.loudness import measure_loudness


def music(duration_s: float, rate: int, channels: int = 2) -> np.ndarray:
    """Noise whose level changes every few seconds by up to 60 dB, with silence in between."""
    random = np.random.default_rng(0)
    num = math.ceil(duration_s * rate)
    level = np.repeat(10 ** random.uniform(-3, 0, int(duration_s / 3) + 1), 3 * rate)[:num]
    level[num // 3 : num // 2] = 0
    return (level * random.standard_normal((channels, num)) / 4).astype(np.float32)


# pyloudnorm designs its filters for every rate, FFmpeg adapts those of the Recommendation: near 4 kHz they differ.
@pytest.mark.parametrize(
    ("rate", "tolerance_lu"), [(8_000, 0.25), (22_050, 0.1), (44_100, 0.05), (44_101, 0.05), (48_000, 0.05)]
)
@pytest.mark.parametrize("duration_s", [7.3, 60.0, 130.37])
def test_as_pyloudnorm_measures(duration_s, rate, tolerance_lu):
    samples = music(duration_s, rate)
    expected = pyloudnorm.Meter(rate).integrated_loudness(samples.T.astype(np.float64))
    assert measure_loudness(samples, rate) == pytest.approx(expected, abs=tolerance_lu)


@pytest.mark.parametrize("channels", [1, 5])
def test_channels(channels):
    samples = music(65.0, 48_000, channels)
    expected = pyloudnorm.Meter(48_000).integrated_loudness(samples.T.astype(np.float64))
    assert measure_loudness(samples, 48_000) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("samples", [np.zeros((2, 160_000)), music(0.39, 16_000), np.zeros((1, 0))])
def test_silence_and_what_is_too_short_lie_at_the_gate(samples):
    assert measure_loudness(samples.astype(np.float32), 16_000) == -70.0


def test_memory_does_not_grow_with_the_length():
    peaks = []
    for duration_s in (150.0, 600.0):
        samples = music(duration_s, 8_000)
        tracemalloc.start()
        measure_loudness(samples, 8_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
