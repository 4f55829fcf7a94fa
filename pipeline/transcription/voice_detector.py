"""Where a song holds a voice: the voice activity model that comes with WhisperX, and windows cut where it pauses."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.gpu import ieee_float32, run_in_parts

# WhisperX's defaults for the model: probability at which the voice sets in and ends.
VAD_ONSET, VAD_OFFSET = 0.5, 0.363
# The model was trained on windows of this length.
VAD_WINDOW_S = 5.0
# Its windows begin so far apart. WhisperX's 0.5 s take 2.5 times as long, 30 % of a transcription on a CPU, and
# find voice no better (pipeline/README.md).
VAD_STEP_S = 1.25
VAD_BATCH = 32  # windows
VOICE_STEP_S = 0.016875  # of the model's output (270 samples at 16 kHz)
VOICE_FRAME_S = 991 / SPEECH_SAMPLE_RATE_HZ  # that the model sees for one output; its time is the middle

Span = tuple[int, int]  # first and last frame


@dataclass(frozen=True, slots=True)
class VoicedWindow:
    """A window that starts and ends with voice; `voiced_s` is how much of it is voice."""

    start_s: float
    end_s: float
    voiced_s: float


class VoiceDetector:
    """The model, on one device: "cpu" or "cuda"."""

    def __init__(self, device: str = "cpu") -> None:
        """Load the weights."""
        from pipeline.transcription.voice_network import load_voice_network  # brings PyTorch

        self._device = device
        self._network = load_voice_network().to(device)

    def find(self, samples: NDArray[np.float32], max_window_s: float) -> tuple[NDArray[np.float32], list[VoicedWindow]]:
        """Return where 16 kHz mono [L] holds a voice.

        Returns:
            The probability of a voice, in frames of `VOICE_STEP_S`, and windows of at most `max_window_s` with voice.
        """
        probability = self._listen(samples)
        spans = cut_spans(probability, find_spans(probability), int(max_window_s / VOICE_STEP_S))
        return probability, merge_spans(spans, max_window_s)

    def _listen(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of a voice in every frame, from overlapping windows whose middle counts most."""
        num_frames = int(len(samples) / SPEECH_SAMPLE_RATE_HZ / VOICE_STEP_S) + 1
        total, weight = np.zeros(num_frames, np.float32), np.zeros(num_frames, np.float32)
        for k, part in enumerate(self._run(samples)):
            first = round(k * VAD_STEP_S / VOICE_STEP_S)
            counts = np.hamming(len(part)).astype(np.float32)[: num_frames - first]
            total[first : first + len(part)] += counts * part[: num_frames - first]
            weight[first : first + len(part)] += counts
        probability: NDArray[np.float32] = total / np.maximum(weight, 1e-6)
        return probability

    def _run(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield the model's output for every window of a song, [F], the last window filled up with silence."""
        import torch

        size, step = (int(seconds * SPEECH_SAMPLE_RATE_HZ) for seconds in (VAD_WINDOW_S, VAD_STEP_S))
        num_steps = max(-(-(len(samples) - size) // step), 0)
        padded = torch.from_numpy(np.pad(samples, (0, num_steps * step + size - len(samples))))

        def run(windows: list[torch.Tensor]) -> NDArray[np.float32]:
            with torch.inference_mode(), ieee_float32():
                probability: NDArray[np.float32] = self._network(torch.stack(windows).to(self._device)).cpu().numpy()
            return probability

        yield from run_in_parts(run, padded.unfold(0, size, step).split(VAD_BATCH))


def find_spans(probability: NDArray[np.float32]) -> list[Span]:
    """Return where the voice is on: from where it rises over `VAD_ONSET` to where it falls under `VAD_OFFSET`."""
    turns = np.where(probability > VAD_ONSET, 1, np.where(probability < VAD_OFFSET, -1, 0))
    last_turn = np.maximum.accumulate(np.where(turns != 0, np.arange(len(turns)), 0))
    is_on = np.concatenate([[False], turns[last_turn] > 0, [False]])
    edges = np.flatnonzero(is_on[1:] != is_on[:-1])
    # A voice that still sounds at the end of the song ends with its last frame.
    return [(int(first), min(int(end), len(probability) - 1)) for first, end in edges.reshape(-1, 2)]


def cut_spans(probability: NDArray[np.float32], spans: list[Span], max_frames: int) -> list[Span]:
    """Return the spans with those that are too long cut where the voice is weakest in the second half of what fits."""
    short: list[Span] = []
    for first, end in spans:
        while end - first > max_frames:
            half = first + max_frames // 2
            cut = half + int(np.argmin(probability[half : first + max_frames]))
            short.append((first, cut))
            first = cut
        short.append((first, end))
    return short


def merge_spans(spans: list[Span], max_window_s: float) -> list[VoicedWindow]:
    """Join neighbouring spans into windows as long as they may be, as WhisperX does (arXiv:2303.00747, 2.2)."""
    windows: list[VoicedWindow] = []
    for first, end in spans:
        start_s, end_s = (frame * VOICE_STEP_S + VOICE_FRAME_S / 2 for frame in (first, end))
        last = windows[-1] if windows else None
        if last and end_s - last.start_s <= max_window_s:
            windows[-1] = VoicedWindow(last.start_s, end_s, last.voiced_s + end_s - start_s)
        else:
            windows.append(VoicedWindow(start_s, end_s, end_s - start_s))
    return windows
