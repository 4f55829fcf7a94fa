"""The wav2vec 2.0 aligner on a model that is really trained here: six letters, each a tone."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.alignment.by_language import Aligners
from pipeline.alignment.wav2vec2 import Wav2Vec2
from pipeline.model_files.errors import ModelFileError

SAMPLE_RATE_HZ = 16_000
LETTERS = "ABCDEF"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
_FRAME_SAMPLES = 320


def sing(
    words: list[str], random: np.random.Generator, *, pause_s: tuple[float, float] = (0.02, 0.3)
) -> tuple[NDArray[np.float32], list[float], NDArray[np.int64]]:
    """Return 16 kHz mono [L] of words after pauses, the onset of each word in s, and the token of every 20 ms frame."""
    parts, onsets, tokens, clock = [], [], [], 0
    for word in [*words, ""]:
        silence = int(random.uniform(*pause_s) * SAMPLE_RATE_HZ)
        parts.append(np.zeros(silence, dtype=np.float32))
        tokens.append(np.zeros(silence, dtype=np.int64))
        clock += silence
        onsets.append(clock / SAMPLE_RATE_HZ)
        for letter in word:
            size = int(random.uniform(0.08, 0.25) * SAMPLE_RATE_HZ)
            index = LETTERS.index(letter)
            time_s = np.arange(size) / SAMPLE_RATE_HZ
            tone = sum(np.sin(2 * np.pi * 220 * 1.4**index * k * time_s) / k for k in (1, 2, 3))
            fade = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / 160)
            parts.append((0.2 * tone * fade).astype(np.float32))
            tokens.append(np.full(size, len(SPECIAL) + index))
            clock += size
    samples = np.concatenate(parts)
    samples += random.normal(0, 0.005, len(samples)).astype(np.float32)
    return samples, onsets[:-1], np.concatenate(tokens)[_FRAME_SAMPLES // 2 :: _FRAME_SAMPLES]


def random_words(random: np.random.Generator, count: int) -> list[str]:
    return ["".join(random.choice(list(LETTERS), random.integers(1, 4))) for _ in range(count)]


def train(folder: Path, *, steps: int = 100) -> Path:
    """Train on frames of random words and save as Hugging Face does; about 8 s on one core."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    config = Wav2Vec2Config(
        vocab_size=len(SPECIAL) + len(LETTERS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        layerdrop=0.0,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    size = 2 * SAMPLE_RATE_HZ
    for _ in range(steps):
        songs = [sing(random_words(random, 6), random) for _ in range(4)]
        samples = torch.stack([torch.from_numpy(np.resize(song[0], size)) for song in songs])
        logits = model((samples - samples.mean(1, True)) / samples.std(1, keepdim=True)).logits
        frames = [np.resize(song[2], size // _FRAME_SAMPLES) for song in songs]
        labels = torch.from_numpy(np.stack(frames))[:, : logits.shape[1]]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *LETTERS])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = train(tmp_path_factory.mktemp("tiny"))
    torch.set_num_threads(threads)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def aligner(folder: Path) -> Aligners:
    return Aligners(str(folder))


def test_onsets_of_a_song_longer_than_a_window(folder: Path) -> None:
    random = np.random.default_rng(1)
    words = random_words(random, 100)
    samples, onsets, _ = sing(words, random)
    assert len(samples) > 40 * SAMPLE_RATE_HZ
    timed = aligner(folder).for_language("xx").open_song(samples, "xx").align(0.0, len(samples) / SAMPLE_RATE_HZ, words)
    errors = np.abs(np.array([word.start_s for word in timed]) - onsets)
    assert np.median(errors) < 0.02  # a frame
    assert np.mean(errors < 0.05) > 0.9
    assert np.mean([word.score for word in timed]) > 0.5


def test_evidence_of_sung_and_other_words(folder: Path) -> None:
    random = np.random.default_rng(2)
    words = random_words(random, 60)
    samples, _, _ = sing(words, random)
    song = aligner(folder).for_language("xx").open_song(samples, "xx")
    sung, other = song.measure_evidence(words), song.measure_evidence(random_words(random, 60))
    assert sung is not None
    assert other is not None
    assert sung > 2 > abs(other)


def test_windows_equal_the_whole_song_away_from_edges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    samples, _, _ = sing(random_words(random, 30), random)
    model = Wav2Vec2(folder)
    whole = model.listen(samples)
    monkeypatch.setattr("pipeline.alignment.wav2vec2.WINDOW_S", 6.0)
    parts = model.listen(samples)
    assert whole.shape == parts.shape
    np.testing.assert_allclose(np.logaddexp.reduce(parts, axis=1), 0, atol=1e-4)
    # The one attention layer sees its whole window, so the two differ slightly everywhere; a shift would differ by 1.
    assert np.abs(np.exp(whole) - np.exp(parts))[100:-100].mean() < 0.02
    assert np.mean(whole.argmax(1) == parts.argmax(1)) > 0.97


def test_batches_do_not_matter(folder: Path) -> None:
    samples = np.random.default_rng(4).normal(0, 0.1, 50 * SAMPLE_RATE_HZ).astype(np.float32)
    one, four = (Wav2Vec2(folder, batch_size=size).listen(samples) for size in (1, 4))
    np.testing.assert_allclose(one, four, atol=1e-4)


@pytest.mark.parametrize("num_samples", [0, 1, 400, 16_000])
def test_short_and_silent_songs(folder: Path, num_samples: int) -> None:
    song = aligner(folder).for_language("xx").open_song(np.zeros(num_samples, np.float32), "xx")
    words = song.align(0.0, num_samples / SAMPLE_RATE_HZ, ["ABC", "FED"])
    assert len(words) == 2
    assert all(np.isfinite([word.start_s, word.end_s, word.score]).all() for word in words)


# ---- vocabulary


def write_vocabulary(folder: Path, table: object) -> None:
    (folder / "vocab.json").write_text(json.dumps(table))


def spell(folder: Path, letters: str, word: str, language: str) -> str:
    write_vocabulary(folder, {"<pad>": 0, **{letter: k for k, letter in enumerate(letters, 1)}})
    sounds = Wav2Vec2(folder).spell(word, language)
    return "".join(letters[sound[0] - 1] if sound else "?" for sound in sounds)


@pytest.mark.parametrize(
    ("letters", "word", "language", "spelt"),
    [
        ("ABCDE'", "Abc'd,", "en", "ABC'D"),  # cases differ, punctuation is no sound
        ("ABCDE'", "a’b", "en", "A'B"),
        ("ABCDE", "a'b", "en", "AB"),  # no apostrophe in the vocabulary
        ("abceé", "Bébé", "fr", "b\xe9b\xe9"),
        ("ABCE", "Bébé", "fr", "BEBE"),  # without the accent
        ("abc", "baß", "de", "ba?"),
        ("TWENO", "21", "en", "TWENT?ONE"),
        ("二十一", "21", "zh", "二十一"),
        ("国爱", "國愛", "zh", "国爱"),  # traditional, of a model that writes simplified
        ("abc", "12", "es", "??"),
        ("abc", "—", "en", ""),
        ("abc", "ﷺ", "en", "?"),
    ],
)
def test_words_in_the_letters_of_a_model(copy: Path, letters: str, word: str, language: str, spelt: str) -> None:
    assert spell(copy, letters, word, language) == spelt


@pytest.mark.parametrize(
    "table", [{}, [], {"a": 11}, {"a": -1}, {"a": "1"}, {"a": True}, {"a": None, "b": 1}, {"xx": {"a": 99}}]
)
def test_vocabularies_that_do_not_fit(copy: Path, table: object) -> None:
    write_vocabulary(copy, table)
    with pytest.raises(ModelFileError, match="vocab.json"):
        Wav2Vec2(copy)


def test_vocabulary_of_several_languages(copy: Path) -> None:
    write_vocabulary(copy, {"xx": {"<pad>": 0, "a": 5}})
    assert Wav2Vec2(copy).spell("Aa", "xx") == ((5,), (5,))


# ---- files


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def write_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_setting(folder: Path, name: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))


def as_pickle(folder: Path) -> None:
    """Turn a model into one as older versions of the libraries saved it."""
    weights = read_weights(folder)
    older = {f"parametrizations.weight.original{k}": f"weight_{name}" for k, name in enumerate("gv")}  # torch before 2
    for new, old in older.items():
        weights = {key.replace(new, old): value for key, value in weights.items()}
    assert any(key.endswith("weight_g") for key in weights)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    write_setting(folder, "gradient_checkpointing", True)


NOISE = np.random.default_rng(5).normal(0, 0.1, SAMPLE_RATE_HZ).astype(np.float32)


def test_it_computes_what_transformers_computes(folder: Path) -> None:
    from transformers import Wav2Vec2ForCTC

    model = Wav2Vec2(folder, name="six tones")
    assert model.name == "six tones"
    original = Wav2Vec2ForCTC.from_pretrained(folder).eval()
    windows = np.stack([NOISE, -NOISE])
    with torch.inference_mode():
        expected = original(torch.from_numpy(windows)).logits.log_softmax(dim=-1)
    np.testing.assert_array_equal(model._run(windows), expected.numpy())
    assert model._model.config._attn_implementation == original.config._attn_implementation


def test_a_pickle_of_tensors_loads(copy: Path) -> None:
    expected = Wav2Vec2(copy).listen(NOISE)
    as_pickle(copy)
    np.testing.assert_array_equal(Wav2Vec2(copy).listen(NOISE), expected)


def test_safetensors_win_over_a_pickle(copy: Path) -> None:
    expected = Wav2Vec2(copy).listen(NOISE)
    (copy / "pytorch_model.bin").write_bytes(b"damaged")
    np.testing.assert_array_equal(Wav2Vec2(copy).listen(NOISE), expected)


def test_half_precision_is_computed_in_float32(copy: Path) -> None:
    expected = Wav2Vec2(copy).listen(NOISE)
    write_weights(copy, {key: value.half() for key, value in read_weights(copy).items()})
    found = Wav2Vec2(copy).listen(NOISE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=0.01)  # weights of 11 bits; measured: 1e-3


def test_nothing_is_written_while_a_model_loads_and_listens(copy: Path) -> None:
    """Not even of an old file that lacks the mask of the training: transformers asks to train such a model."""
    weights = read_weights(copy)
    weights.pop("wav2vec2.masked_spec_embed", None)
    write_weights(copy, weights)
    as_pickle(copy)
    write_setting(copy, "mask_time_prob", 0.05)
    code = f"""
import numpy
from pipeline.alignment.by_language import Aligners
Aligners({str(copy)!r}).for_language("en").open_song(numpy.zeros(16_000, numpy.float32), "en")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("key", ["quantizer.codevectors", "project_q.weight", "project_hid.bias"])
def test_what_pretraining_left_in_a_file_is_no_fault(copy: Path, key: str) -> None:
    expected = Wav2Vec2(copy).listen(NOISE)
    write_weights(copy, read_weights(copy) | {key: torch.zeros(3), "wav2vec2.masked_spec_embed": torch.zeros(32)})
    np.testing.assert_array_equal(Wav2Vec2(copy).listen(NOISE), expected)


def test_layers_that_the_class_has_no_place_for_are_refused(copy: Path) -> None:
    """As those of a Vietnamese model, which computes something else between its encoder and its head."""
    write_weights(copy, read_weights(copy) | {"feature_transform.linear1.weight": torch.zeros(32, 32)})
    with pytest.raises(ModelFileError, match=r"model\.safetensors .* feature_transform\.linear1\.weight is unexpected"):
        Wav2Vec2(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(copy: Path, value: float) -> None:
    weights = read_weights(copy)
    weights["lm_head.bias"][3] = value
    write_weights(copy, weights)
    with pytest.raises(ModelFileError, match="lm_head.bias holds values that are not finite"):
        Wav2Vec2(copy)


class Touch:
    """A pickle that runs something when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_pickle_that_would_run_something_does_not(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"x": Touch(tmp_path / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin"):
        Wav2Vec2(copy)
    assert not (tmp_path / "ran").exists()
    with (copy / "pytorch_model.bin").open("wb") as stream:
        pickle.dump(Touch(tmp_path / "ran"), stream)
    with pytest.raises(ModelFileError):
        Wav2Vec2(copy)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_its_head_is_refused(copy: Path) -> None:
    weights = read_weights(copy)
    del weights["lm_head.weight"]
    write_weights(copy, weights)
    with pytest.raises(ModelFileError, match=r"model\.safetensors does not fit its config: lm_head\.weight is missing"):
        Wav2Vec2(copy)


def test_damaged_weights(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        Wav2Vec2(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"no model\.safetensors or pytorch_model\.bin"):
        Wav2Vec2(copy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv_stride", [5, 2, 2, 2, 2, 2, 1], "a frame per 160 samples, expected 320"),
        ("add_adapter", True, "add_adapter makes frames longer"),
        ("model_type", "hubert", "model_type 'hubert', expected 'wav2vec2'"),
        ("hidden_act", "no such function", "expected the settings of a Wav2Vec2ForCTC"),
        ("num_hidden_layers", 10**9, "1000000000 layers, but the file has"),
        ("num_hidden_layers", "1", "expected the settings of a Wav2Vec2ForCTC"),
        ("num_attention_heads", 0, "expected the settings of a Wav2Vec2ForCTC"),
        ("hidden_size", 64, r"model\.safetensors does not fit its config"),
        ("pad_token_id", None, "pad_token_id None, expected 0 to 10"),
    ],
)
def test_settings_that_do_not_fit_are_refused(copy: Path, name: str, value: object, message: str) -> None:
    write_setting(copy, name, value)
    with pytest.raises(ModelFileError, match=message):
        Wav2Vec2(copy)
