"""wav2vec 2.0 with a CTC head over letters (arXiv:2006.11477), as Hugging Face stores it: the models of WhisperX."""

import pickle
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.acoustic_model import FRAME_SAMPLES, listen_in_windows
from pipeline.ctc_aligner import Sound, Spelling
from pipeline.lyrics_text import simplify
from pipeline.models import ModelFileError, read_config, resolve_model
from pipeline.phonemes_english import strip_accents
from pipeline.phonemes_numbers import expand_chinese, expand_english

WINDOW_S = 20.0
MARGIN_S = 2.0  # two seconds of context on either side
MAX_VOCABULARY = 100_000
_DIGITS = re.compile(r"[0-9]+")
# What transformers and torch raise on files that are damaged, of another model, or pickles that would run something.
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Training only: the vector that masks the input.
_UNUSED_WEIGHTS = frozenset({"wav2vec2.masked_spec_embed"})


class Wav2Vec2:
    """A Wav2Vec2ForCTC and its letters.

    Args:
        name: any name that `resolve_model` knows for the stage "aligner".
        device: "cpu" or "cuda".
        batch_size: windows of 20 s per call.

    Raises:
        ModelNotFoundError: the model cannot be had.
        ModelFileError: its files are damaged, unsafe or of another model.
    """

    onset_lead_s = 0.0  # as WhisperX; not measured on singing

    def __init__(self, name: str, *, device: str = "cpu", batch_size: int = 4) -> None:
        """Load the weights."""
        path = resolve_model(name, "aligner")
        folder = path.parent if path.is_file() else path
        self.name = name
        self._device = device
        self._batch_size = batch_size
        config = read_config(folder / "config.json")
        self._vocabulary = _read_vocabulary(folder / "vocab.json", config)
        self.blank = int(config.get("pad_token_id", 0))
        self._normalise = _wants_normalised(folder)
        self._model = _load(folder).to(device).eval()

    def listen(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log probabilities, float32 [T, V], a frame per 20 ms of 16 kHz mono [L]."""
        if self._normalise and len(samples):  # over the whole song, so that quiet windows stay quiet
            samples = (samples - samples.mean(dtype=np.float64)) / np.sqrt(samples.var(dtype=np.float64) + 1e-7)
        return listen_in_windows(
            samples.astype(np.float32),
            self._run,
            window_s=WINDOW_S,
            margin_s=MARGIN_S,
            batch_size=self._batch_size,
        )

    def spell(self, word: str, language: str) -> Spelling:
        """Return the letters of a word as token ids; a letter or digit that the model lacks is a wildcard."""
        text = unicodedata.normalize("NFC", word.replace("’", "'"))
        if language == "zh":
            text = _DIGITS.sub(lambda match: expand_chinese(match[0]), text)
        elif language == "en":
            text = expand_english(text)
        return tuple(self._find(char) for char in text if char.isalnum() or char == "'" and "'" in self._vocabulary)

    def _find(self, char: str) -> Sound:
        plain = strip_accents(char.lower())[:1]
        for form in (char, char.lower(), char.upper(), simplify(char), plain, plain.upper()):
            if form in self._vocabulary:
                return (self._vocabulary[form],)
        return ()

    def _run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self._model(torch.from_numpy(windows).to(self._device)).logits
            log_probs: NDArray[np.float32] = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        return log_probs


def _load(folder: Path) -> Any:  # a transformers.Wav2Vec2ForCTC
    """Load safetensors, else a pickle of tensors only (`weights_only=True`: nothing in it can run)."""
    from safetensors import SafetensorError
    from transformers import Wav2Vec2ForCTC

    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ModelFileError(f"{folder}: no {' or '.join(_WEIGHTS)}, expected the weights of a Wav2Vec2ForCTC")
    try:
        model, report = Wav2Vec2ForCTC.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=weights.suffix == ".safetensors",
            weights_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (*_LOAD_ERRORS, SafetensorError) as error:
        raise ModelFileError(f"{weights}: {error}; expected the weights of a Wav2Vec2ForCTC") from error
    missing = set(report["missing_keys"]) - _UNUSED_WEIGHTS
    if missing or report["mismatched_keys"]:
        names = sorted(missing | {key[0] for key in report["mismatched_keys"]})
        raise ModelFileError(f"{weights}: {len(names)} weights missing or of another shape, such as {names[0]}")
    stride = int(np.prod(model.config.conv_stride))
    if stride != FRAME_SAMPLES:
        raise ModelFileError(f"{folder}: a frame per {stride} samples, expected {FRAME_SAMPLES}")
    return model


def _read_vocabulary(path: Path, config: dict[str, Any]) -> dict[str, int]:
    """Read token ids; of models for several languages (a table per language) the first.

    Raises:
        ModelFileError: not a table of tokens to ids within the model's head.
    """
    table: Any = read_config(path)
    size = config.get("vocab_size", 0)
    if table and all(isinstance(entry, dict) for entry in table.values()):
        table = next(iter(table.values()))
    if not isinstance(size, int) or not 0 < size <= MAX_VOCABULARY:
        raise ModelFileError(f"{path.parent / 'config.json'}: vocab_size {size!r}, expected 1 to {MAX_VOCABULARY}")
    wrong = [token for token, index in table.items() if type(index) is not int or not 0 <= index < size]
    if not table or wrong:
        shown = f"{wrong[0]!r}: {table[wrong[0]]!r}" if wrong else "an empty table"
        raise ModelFileError(f"{path}: {shown}, expected tokens with ids from 0 to {size - 1}")
    return {token: index for token, index in table.items() if index != config.get("pad_token_id", 0)}


def _wants_normalised(folder: Path) -> bool:
    """Whether the model was trained on audio of zero mean and unit variance."""
    path = folder / "preprocessor_config.json"
    return bool(read_config(path).get("do_normalize", True)) if path.is_file() else True
