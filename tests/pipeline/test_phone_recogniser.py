"""The packaged phoneme recogniser: how it spells, and where it places the words of real singing voices."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.aligner import Aligners, SongAligner
from pipeline.audio import SPEECH_SAMPLE_RATE_HZ, resample, to_mono
from pipeline.models import ModelFileError
from pipeline.song import Word

pytest.importorskip("hama", reason="the package hama is not installed: pip install hama==1.3.13")

from pipeline.phone_recogniser import PhoneRecogniser  # noqa: E402  # after the check that its package is there


@pytest.fixture(scope="module")
def model() -> PhoneRecogniser:
    return PhoneRecogniser("miniature")


def first_symbols(model: PhoneRecogniser, word: str, language: str) -> str:
    symbols = {index: symbol for symbol, index in model._ids.items()}
    return " ".join(symbols[sound[0]] for sound in model.spell(word, language))


@pytest.mark.parametrize(
    ("word", "language", "symbols"),
    [
        ("Singing,", "en", "s ɪ ŋ ɪ ŋ"),
        ("21", "en", "t w ɛ n t i w ʌ n"),
        ("爱", "zh", "aɪ"),
        ("中", "zh", "d͡ʒ oʊ ŋ"),
        ("你好", "zh", "n i h aʊ"),
        ("3", "zh", "s æ n"),
        ("baby", "zh", "b eɪ b i"),
        ("schön", "de", "ʃ o n"),
        ("—", "en", ""),
    ],
)
def test_spelling(model: PhoneRecogniser, word: str, language: str, symbols: str) -> None:
    assert first_symbols(model, word, language) == symbols


def test_rows_are_probabilities_and_silence_is_blank(model: PhoneRecogniser) -> None:
    frames = model.listen(np.zeros(2 * SPEECH_SAMPLE_RATE_HZ, np.float32))
    assert len(frames) == 100
    np.testing.assert_allclose(np.logaddexp.reduce(frames, axis=1), 0, atol=1e-4)
    assert np.mean(frames.argmax(axis=1) == model.blank) > 0.95
    assert len(model.listen(np.zeros(0, np.float32))) == 1


def test_a_package_with_other_symbols_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.letter_sounds.SOUNDS", frozenset({"no such sound"}))
    with pytest.raises(ModelFileError, match=r"no symbol 'no such sound', expected those of hama 1\.3\.13"):
        PhoneRecogniser("miniature")


# ---- singing


def load_song(shared: Path, name: str, language: str) -> tuple[SongAligner, list[Word], float]:
    folder = shared / "songs" / "dev" / name
    samples, sample_rate = soundfile.read(folder / "mixture.flac", dtype="float32", always_2d=True)
    speech = to_mono(resample(samples.T, sample_rate, SPEECH_SAMPLE_RATE_HZ))
    words = []
    for row in json.loads((folder / "truth.json").read_text(encoding="utf-8"))["words"]:
        parts = list(row["text"]) if language == "zh" else [row["text"]]
        step_s = (row["end"] - row["start"]) / len(parts)
        words += [
            Word(part, row["start"] + k * step_s, row["start"] + (k + 1) * step_s, 1.0, row["line"])
            for k, part in enumerate(parts)
        ]
    song = Aligners("miniature").for_language(language).open_song(speech, language)
    return song, words, len(speech) / SPEECH_SAMPLE_RATE_HZ


@pytest.mark.parametrize(("name", "language"), [("dev_02_en_kal", "en"), ("dev_05_zh_baker", "zh")])
def test_a_whole_song_is_placed_at_once_and_other_lyrics_are_told_apart(shared: Path, name: str, language: str) -> None:
    song, words, duration_s = load_song(shared, name, language)
    timed = song.align(0.0, duration_s, [word.text for word in words])
    errors = np.abs(np.array([a.start_s - b.start_s for a, b in zip(timed, words, strict=True)]))
    assert errors.mean() < 0.15
    assert np.mean(errors < 0.3) > 0.95
    texts = [word.text for word in words]
    sung = song.measure_evidence(texts)
    shuffled = song.measure_evidence([texts[k] for k in np.random.default_rng(1).permutation(len(texts))])
    assert sung is not None
    assert shuffled is not None
    assert sung > 0.4
    assert shuffled < 0.3
