"""Listening to a song in windows equals listening to it at once, away from the edges of the song."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.alignment.acoustic_model import FRAME_SAMPLES, OVERHANG_SAMPLES, count_frames, listen_in_windows


def smooth_level(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand in for a model that sees 0.2 s around a frame: the mean level of 11 frames, and its number of frames."""
    size = (windows.shape[1] - OVERHANG_SAMPLES) // FRAME_SAMPLES * FRAME_SAMPLES
    level = np.abs(windows[:, :size]).reshape(len(windows), -1, FRAME_SAMPLES).mean(axis=2)
    padded = np.pad(level, ((0, 0), (5, 5)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 11, axis=1).mean(axis=2)
    return frames[:, :, None].astype(np.float32)


@pytest.mark.parametrize("num_samples", [0, 1, 319, 320, 321, 16_000, 100_000, 123_456])
def test_windows_equal_the_whole(num_samples: int) -> None:
    samples = np.random.default_rng(0).normal(0, 1, num_samples).astype(np.float32)
    num_frames = count_frames(num_samples)
    whole = np.zeros((1, num_frames * FRAME_SAMPLES + OVERHANG_SAMPLES), dtype=np.float32)
    whole[0, :num_samples] = samples
    sizes = set()

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.add(windows.shape[1])
        assert len(windows) <= 3
        return smooth_level(windows)

    frames = listen_in_windows(samples, run, window_s=1.0, margin_s=0.2, batch_size=3)
    assert frames.shape == (num_frames, 1)
    np.testing.assert_allclose(frames, smooth_level(whole)[0], atol=1e-6)
    assert max(sizes) <= 16_000 + OVERHANG_SAMPLES  # never more than a window at once


def test_a_gpu_without_memory_for_a_batch_gives_the_same_frames() -> None:
    samples = np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32)
    sizes = []

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(windows))
        if len(windows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return smooth_level(windows)

    def listen(run: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.float32]:
        return listen_in_windows(samples, run, window_s=1.0, margin_s=0.2, batch_size=5)

    np.testing.assert_array_equal(listen(run), listen(smooth_level))
    assert sizes[:4] == [5, 2, 2, 1]  # and two at a time from then on
    assert max(sizes[1:]) == 2
