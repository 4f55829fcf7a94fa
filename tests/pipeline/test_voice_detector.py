"""The voice activity model that comes with WhisperX, on a bundled song."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ, decode_audio, resample, to_mono
from pipeline.voice_detector import VOICE_STEP_S, VoiceDetector

SONG = Path(__file__).resolve().parents[2] / "jobs" / "demo_songs" / "04_wrong_song" / "mixture.opus"


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    return VoiceDetector()


def test_windows_of_a_song_hold_its_voice(detector):
    audio = decode_audio(SONG)
    samples = to_mono(resample(audio.samples, audio.sample_rate, SPEECH_SAMPLE_RATE_HZ))
    duration_s = len(samples) / SPEECH_SAMPLE_RATE_HZ
    probability, windows = detector.find(samples, 10.0)
    assert probability.dtype == np.float32
    assert len(probability) * VOICE_STEP_S == pytest.approx(duration_s, abs=5.0)  # the model's last window may reach on
    assert 0 <= probability.min() < 0.1 < 0.9 < probability.max() <= 1
    assert windows
    for before, after in zip(windows[:-1], windows[1:], strict=True):
        assert before.end_s <= after.start_s
    for window in windows:
        assert 0 < window.voiced_s <= window.end_s - window.start_s + 1e-6 <= 10.0 + 1e-5
        inside = probability[int(window.start_s / VOICE_STEP_S) : int(window.end_s / VOICE_STEP_S)]
        assert inside.mean() > 0.5


def test_silence_holds_none(detector):
    assert detector.find(np.zeros(10 * SPEECH_SAMPLE_RATE_HZ, np.float32), 30.0)[1] == []
