"""A Whisper's folder opened: files of one model, features as it was trained on, and the numbers a device is fast in."""

import logging
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.stage_files import PREPROCESSOR

logger = logging.getLogger(__name__)

CPU_TYPE = "int8"
# The first that a GPU is fast in. Below compute capability 7.0 that is not float16; int8, as on a CPU, lets large
# models fit into its memory, and is there from 6.1 on.
GPU_TYPES = ("float16", "int8_float32", "float32")
HOP_SAMPLES, SPECTRUM_SAMPLES = 160, 400  # of every Whisper's features, at 16 kHz
_NUM_NO_LANGUAGES = 5  # tokens from the start of a transcript up to "no speech" that are no languages
_DECODER_LAYER = re.compile(r"decoder/layer_(\d+)/")
# What the packages have been seen to raise on damaged files.
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
# CTranslate2's words for a fault of the machine, which says nothing against the files.
_MACHINE_FAULTS = ("CUDA failed", "cuBLAS failed", "cuDNN failed", "is not found or cannot be loaded")


def open_whisper(path: Path, device: str, threads: int) -> Any:  # a faster_whisper.WhisperModel
    """Load a Whisper and check that its files are of one model.

    The packages take 80 mel bands where the file with their number is missing, other words where a vocabulary is cut,
    and crash over a head that is not there, as distilled models have been converted with.

    Raises:
        ModelFileError: says which file, what was found and what was expected.
    """
    from faster_whisper import WhisperModel

    tokenizer, config = path / "tokenizer.json", path / "config.json"
    if not isinstance(read_config(tokenizer).get("model"), dict):
        raise ModelFileError(f"{tokenizer}: has no object 'model', expected a tokenizer")
    if (path / PREPROCESSOR).is_file():
        read_config(path / PREPROCESSOR)
    heads = read_config(config).get("alignment_heads")
    compute_type = choose_compute_type(device)
    try:
        model = WhisperModel(
            str(path), device=device, compute_type=compute_type, cpu_threads=threads, local_files_only=True
        )
    except _LOAD_ERRORS as error:
        if any(fault in str(error) for fault in _MACHINE_FAULTS):
            raise
        raise ModelFileError(f"{path}: {error}; expected a Whisper as CTranslate2 stores it") from error
    _check_features(path / PREPROCESSOR, model)
    _check_vocabulary(path, model)
    _check_heads(heads, config)
    return model


def choose_compute_type(device: str) -> str:
    """Return the type of numbers that CTranslate2 shall compute with on a device ("cpu" or "cuda")."""
    if device == "cpu":
        return CPU_TYPE
    import ctranslate2
    import torch  # noqa: F401  # brings libcublas.so.12, which CTranslate2 finds only where it is loaded already

    supported = ctranslate2.get_supported_compute_types(device)
    chosen = next(kind for kind in GPU_TYPES if kind in supported)
    if chosen != GPU_TYPES[0]:
        logger.warning("this GPU is not fast in %s: Whisper computes in %s, and takes longer", GPU_TYPES[0], chosen)
    return chosen


def _check_features(path: Path, model: Any) -> None:
    """Raise ModelFileError unless the features are as the model takes them: large-v3 has 128 mel bands, others 80."""
    extractor = model.feature_extractor
    found = {
        "feature_size": len(extractor.mel_filters),
        "sampling_rate": extractor.sampling_rate,
        "hop_length": extractor.hop_length,
        "n_fft": extractor.n_fft,
    }
    sizes = model.model.n_mels, SPEECH_SAMPLE_RATE_HZ, HOP_SAMPLES, SPECTRUM_SAMPLES
    for name, expected in zip(found, sizes, strict=True):
        if found[name] != expected:
            missing = "" if path.is_file() else "the file is missing, which means "
            raise ModelFileError(f"{path}: {missing}{name} {found[name]}, expected {expected}; fetch the whole model")


def _check_vocabulary(path: Path, model: Any) -> None:
    """Raise ModelFileError unless vocabulary and tokenizer have as many languages: otherwise they mean other words."""
    find = model.hf_tokenizer.token_to_id
    start, no_speech = find("<|startoftranscript|>"), find("<|nospeech|>") or find("<|nocaptions|>")
    if None in (start, no_speech) or no_speech - start - _NUM_NO_LANGUAGES != model.model.num_languages:
        raise ModelFileError(
            f"{path}: tokenizer.json and the vocabulary differ in their special tokens, expected files of one model"
        )


def _check_heads(heads: Any, config: Path) -> None:
    """Raise ModelFileError unless the decoder has the heads that a config.json names as saying where words are."""
    num_layers, num_heads = _count_heads(config.with_name("model.bin"))
    pairs = heads if isinstance(heads, list) else []
    are_pairs = bool(pairs) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if not are_pairs or any(a not in range(num_layers) or b not in range(num_heads) for a, b in pairs):
        raise ModelFileError(
            f"{config}: alignment_heads {str(heads)[:60]}, expected pairs of a layer below {num_layers} and a head "
            f"below {num_heads}; convert the model again, or name heads of its last layers"
        )


def _count_heads(path: Path) -> tuple[int, int]:
    """Return how many layers the decoder of a model.bin has, and heads in each.

    Its head names the version (4 bytes; that of every Whisper is 5 or more), the kind of model, its revision (4) and
    the number of its variables (4). Each of them has a name, a shape, a type (1), a size in bytes (4) and its content.
    All numbers are little-endian.
    """
    layers: set[str] = set()
    num_heads = 0
    with path.open("rb") as stream:
        stream.seek(4)
        _read_name(stream)
        _, num_variables = struct.unpack("<II", stream.read(8))
        for _ in range(num_variables):
            name = _read_name(stream)
            (rank,) = struct.unpack("<B", stream.read(1))
            _, num_bytes = struct.unpack("<BI", stream.read(4 * rank + 5)[4 * rank :])
            if name == "decoder/num_heads":
                num_heads = int.from_bytes(stream.read(num_bytes), "little")
            else:
                stream.seek(num_bytes, 1)
            layers.update(_DECODER_LAYER.findall(name))
    return len(layers), num_heads


def _read_name(stream: BinaryIO) -> str:
    (size,) = struct.unpack("<H", stream.read(2))
    return stream.read(size).decode().rstrip("\0")
