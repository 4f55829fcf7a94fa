"""Where a song holds a voice: the voice activity model that comes with WhisperX."""

import logging
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ

# WhisperX's defaults for the model: probability at which the voice sets in and ends.
VAD_ONSET, VAD_OFFSET = 0.5, 0.363
# Its windows of 5 s begin so far apart. WhisperX's 0.5 s take 2.5 times as long, 30 % of a transcription on a CPU, and
# find voice no better (pipeline/README.md).
VAD_STEP_S = 1.25
VOICE_STEP_S = 0.016875  # of the model's output (270 samples at 16 kHz)


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
        with warnings.catch_warnings():  # of packages that miss a system FFmpeg, which nothing here needs
            warnings.simplefilter("ignore")
            # Not whisperx.asr: it brings half of transformers, seconds that every worker would wait for.
            import torch
            from whisperx.vads import Pyannote

            for talkative in ("whisperx", "lightning.pytorch", "pytorch_lightning"):
                logging.getLogger(talkative).setLevel(logging.ERROR)
            self._vad = Pyannote(torch.device(device), vad_onset=VAD_ONSET)
            self._vad.vad_pipeline._segmentation.step = VAD_STEP_S  # WhisperX hands no such setting down

    def find(self, samples: NDArray[np.float32], max_window_s: float) -> tuple[NDArray[np.float32], list[VoicedWindow]]:
        """Return where 16 kHz mono [L] holds a voice.

        Returns:
            The probability of a voice, in frames of `VOICE_STEP_S`, and windows of at most `max_window_s` with voice.
        """
        import torch

        scores = self._vad({"waveform": torch.from_numpy(samples)[None], "sample_rate": SPEECH_SAMPLE_RATE_HZ})
        chunks = self._vad.merge_chunks(scores, max_window_s, onset=VAD_ONSET, offset=VAD_OFFSET)
        assert abs(scores.sliding_window.step - VOICE_STEP_S) < 1e-6
        return scores.data[:, 0].astype(np.float32), [
            VoicedWindow(chunk["start"], chunk["end"], float(sum(end - start for start, end in chunk["segments"])))
            for chunk in chunks
        ]
