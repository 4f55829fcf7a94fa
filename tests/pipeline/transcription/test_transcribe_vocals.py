from pathlib import Path

import numpy as np
import pytest

from pipeline.song import Drop, Song, Transcript
from pipeline.transcription import transcribe_vocals
from pipeline.transcription.transcribe_vocals import TranscribeVocals, explain_drop, is_singing
from pipeline.transcription.whisper import LanguageError


def song_with(**fields) -> Song:
    metrics = fields.pop("metrics", {})
    return Song(song_id="a", path=Path("a"), audio="a", metrics=metrics, transcript=Transcript([], "en", 0.0), **fields)


def choose(song: Song, probabilities: dict[str, float], language: str = "auto") -> str:
    stage = TranscribeVocals(TranscribeVocals.Config(model_path=Path("unused"), language=language))
    stage._choose_language(song, probabilities)
    return song.language


@pytest.mark.parametrize(
    ("named", "written", "probabilities", "language"),
    [
        ("", "", {"es": 0.9, "en": 0.05}, "es"),
        ("", "en", {"es": 0.9, "en": 0.05}, "es"),  # lyrics of another song
        ("", "en", {"en": 0.4, "cy": 0.45}, "en"),  # the singing does not tell, the lyrics do
        ("yue", "zh", {"zh": 0.7, "yue": 0.25}, "yue"),  # a neighbour that the manifest names
        ("fr", "", {"es": 0.9, "fr": 0.02}, "es"),
        ("", "", {"cy": 0.3, "en": 0.28}, "cy"),
        ("", "", {}, "en"),  # a model of one language
        ("", "zh", {}, "zh"),
    ],
)
def test_the_singing_decides_and_names_are_hints(named, written, probabilities, language):
    assert choose(song_with(language=named, text_language=written), probabilities) == language


def test_the_command_line_overrules_everything():
    song = song_with(language="es", text_language="es")
    assert choose(song, {"es": 0.9}, language="pt") == "pt"
    assert song.sung_language == "es"


class Fails:
    """Hears a voice, and cannot transcribe it."""

    voice_probability, windows, encoded = np.zeros(1, np.float32), (), None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def identify_language(self) -> dict[str, float]:
        return {"cy": 0.9}

    def transcribe(self, language: str) -> None:
        raise self.error


def process(monkeypatch, error: Exception) -> Song | Drop:
    monkeypatch.setattr(transcribe_vocals, "Listening", lambda *_: Fails(error))
    stage = TranscribeVocals(TranscribeVocals.Config(model_path=Path("unused")))
    stage._whisper = stage._detector = None  # type: ignore[assignment]
    return stage.process(song_with(speech=np.zeros(16_000, np.float32), voice=np.zeros(16_000, np.float32)))


def test_a_language_that_the_recogniser_does_not_know_drops_a_song(monkeypatch):
    result = process(monkeypatch, LanguageError("language is 'cy'"))
    assert isinstance(result, Drop)
    assert (result.reason, result.detail) == ("language", "language is 'cy'")


@pytest.mark.parametrize("error", [RuntimeError("CUDA failed with error out of memory"), ValueError("shape")])
def test_other_faults_are_no_verdict_on_a_song(monkeypatch, error):
    with pytest.raises(type(error), match=str(error)):
        process(monkeypatch, error)


@pytest.mark.parametrize(
    ("metrics", "singing"),
    [
        ({"sung_language_probability": 0.28, "no_speech": 0.73}, False),  # dev_00_inst
        ({"sung_language_probability": 0.70, "no_speech": 0.32}, True),
        ({"sung_language_probability": 0.70, "no_speech": 0.70}, True),
        ({"sung_language_probability": 0.30, "no_speech": 0.30}, True),
        ({"no_speech": 1.0}, False),
    ],
)
def test_singing_needs_one_of_two_signs(metrics, singing):
    assert is_singing(song_with(metrics=metrics)) is singing


MUSIC = {"sung_language_probability": 0.28, "no_speech": 0.73}
SPANISH = {"sung_language_probability": 0.9, "no_speech": 0.2}


@pytest.mark.parametrize(
    ("metrics", "written", "sung", "before", "after"),
    [
        (MUSIC, "en", "en", "lyrics_mismatch", "instrumental"),
        (MUSIC, "", "en", "no_lyrics", "instrumental"),
        (SPANISH, "en", "es", "lyrics_mismatch", "language"),
        (SPANISH, "es", "es", "lyrics_mismatch", "lyrics_mismatch"),
        (SPANISH, "", "es", "lyrics_mismatch", "lyrics_mismatch"),
        (SPANISH, "en", "es", "low_coverage", "low_coverage"),
        (SPANISH, "en", "es", "language", "language"),
        (MUSIC, "en", "en", "too_short", "too_short"),
    ],
)
def test_a_mismatch_is_explained_by_the_song_itself(metrics, written, sung, before, after):
    song = song_with(metrics=metrics, text_language=written, sung_language=sung)
    assert explain_drop(song, Drop(before, "evidence 0.01")).reason == after
