"""The packaged phoneme recogniser: how it spells, and where it places the words of real singing voices."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pipeline.alignment.by_language import Aligners, SongAligner
from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ, decode_audio, resample, to_mono
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.names import resolve_model
from pipeline.song import Word

pytest.importorskip("hama", reason="the package hama is not installed: make setup")

from pipeline.alignment.hama.network import load_phone_conformer  # noqa: E402
from pipeline.alignment.hama.recogniser import PhoneRecogniser  # noqa: E402  # after the check that its package is there


@pytest.fixture(scope="module")
def model() -> PhoneRecogniser:
    return PhoneRecogniser(resolve_model("miniature", "aligner"))


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


def test_the_network_is_that_of_the_package_s_own_engine() -> None:
    from hama.asr import ASRModel

    path = resolve_model("miniature", "aligner")
    song = decode_audio(Path(__file__).resolve().parents[4] / "jobs" / "demo_songs" / "01_clean" / "mixture.opus")
    samples = to_mono(resample(song.samples, song.sample_rate, SPEECH_SAMPLE_RATE_HZ))[12 * 16_000 : 15 * 16_000]
    lengths = np.array([len(samples)], dtype=np.int64)
    session = ASRModel(model_path=path).session
    expected = session.run(["log_probs"], {"waveform": samples[None], "waveform_lengths": lengths})[0][0]
    with torch.inference_mode():
        found = load_phone_conformer(path)(torch.from_numpy(np.stack([samples, -samples]))).exp().numpy()
    assert found.shape == (2, *expected.shape)
    # 2e-3 measured: the engine rounds its exponentials.
    np.testing.assert_allclose(found[0], np.exp(expected), atol=5e-3)
    assert len(set(expected.argmax(axis=1))) > 5  # sounds, not only blanks


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"PK" + data[2:], "begins with"),
        (lambda data: data[:3_000], "its table of tensors cannot be read"),
        (lambda data: data[:1_000_000], "bytes of"),
        (lambda data: data.replace(b"blocks.3.conv.norm.bias", b"blocks.3.conv.norm.bios"), "conv.norm.bias"),
        (lambda data: data.replace(b"onnx::MatMul_829", b"onnx::Reshap_829"), "onnx::Reshap_829 is unexpected"),
    ],
)
def test_a_spoilt_file_of_weights_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "spoilt.hama"
    path.write_bytes(spoil(resolve_model("miniature", "aligner").read_bytes()))
    with pytest.raises(ModelFileError, match=message):
        load_phone_conformer(path)


def test_a_package_with_other_symbols_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.alignment.hama.letter_sounds.SOUNDS", frozenset({"no such sound"}))
    with pytest.raises(ModelFileError, match=r"no symbol 'no such sound', expected those of hama 1\.7\.0"):
        PhoneRecogniser(resolve_model("miniature", "aligner"))


@pytest.mark.parametrize(
    "vocabulary", ["", "{}", '{"decoder": ["a", "b"]}', '{"decoder": 3}'], ids=["cut", "none", "short", "number"]
)
def test_a_vocabulary_that_does_not_fit_the_weights_is_refused(tmp_path: Path, vocabulary: str) -> None:
    path = tmp_path / "asr_waveform.hama"
    path.write_bytes(resolve_model("miniature", "aligner").read_bytes())
    with pytest.raises(ModelFileError, match=r"g2p_vocab\.json"):
        PhoneRecogniser(path)
    path.with_name("g2p_vocab.json").write_text(vocabulary)
    with pytest.raises(ModelFileError, match=r"g2p_vocab\.json"):
        PhoneRecogniser(path)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.hama.*expected the recogniser of hama 1\.7\.0"):
        load_phone_conformer(tmp_path / "none.hama")


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
