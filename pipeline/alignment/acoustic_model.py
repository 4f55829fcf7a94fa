"""What a CTC acoustic model is to the aligner, and how one listens to a whole song in overlapping windows."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.ctc import Spelling
from pipeline.gpu import run_in_parts

FRAME_SAMPLES = 320  # 20 ms at 16 kHz: one output of wav2vec 2.0 and of the phoneme recogniser
FRAME_S = 0.02
# The first convolutions of wav2vec 2.0 see 400 samples for a frame: a window needs 80 more than its frames.
OVERHANG_SAMPLES = 80


class AcousticModel(Protocol):
    """A model that gives the probability of every token in every frame, and spells words in its tokens."""

    name: str
    blank: int
    onset_lead_s: float  # see `CtcSong`

    def listen(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log probabilities, float32 [T, V], T = `count_frames`, for 16 kHz mono [L]."""

    def spell(self, word: str, language: str) -> Spelling:
        """Return the sounds of a display word; empty if it has none that the model knows."""


def count_frames(num_samples: int) -> int:
    """Return T: frames that begin within the samples, at least one."""
    return max(-(-num_samples // FRAME_SAMPLES), 1)


def listen_in_windows(
    samples: NDArray[np.float32],
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    window_s: float,
    margin_s: float,
    batch_size: int,
) -> NDArray[np.float32]:
    """Run a model over windows that overlap and keep the inner part of each: memory grows with the window only.

    Args:
        samples: 16 kHz mono [L].
        run: float32 [B, window] to [B, F, V] with a frame per 320 samples.
        window_s: what the model takes at once.
        margin_s: what is dropped at both edges of a window, where the model lacks context.

    Returns:
        float32 [T, V], T = `count_frames(L)`.
    """
    margin = round(margin_s / FRAME_S)
    inner = round(window_s / FRAME_S) - 2 * margin
    num_frames = count_frames(len(samples))
    inner = min(inner, num_frames)  # a short song is one window of its own length
    batches = _batches(_cut_windows(samples, num_frames, inner, margin), batch_size)
    frames = run_in_parts(lambda part: run(np.stack(part)), batches)
    return np.asarray(np.concatenate([window[margin : margin + inner] for window in frames])[:num_frames])


def _cut_windows(
    samples: NDArray[np.float32], num_frames: int, inner: int, margin: int
) -> Iterator[NDArray[np.float32]]:
    size = (inner + 2 * margin) * FRAME_SAMPLES + OVERHANG_SAMPLES
    for first in range(-margin, num_frames - margin, inner):
        begin = first * FRAME_SAMPLES
        window = np.zeros(size, dtype=np.float32)
        part = samples[max(begin, 0) : begin + size]
        offset = max(-begin, 0)
        window[offset : offset + len(part)] = part
        yield window


def _batches(windows: Iterator[NDArray[np.float32]], batch_size: int) -> Iterator[list[NDArray[np.float32]]]:
    batch: list[NDArray[np.float32]] = []
    for window in windows:
        batch.append(window)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
