"""wav2vec 2.0 with a CTC head over letters (arXiv:2006.11477), as Hugging Face stores it: the models of WhisperX."""

import inspect
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.alignment.acoustic_model import FRAME_SAMPLES, listen_in_windows
from pipeline.alignment.ctc import Sound, Spelling
from pipeline.gpu import ieee_float32
from pipeline.lyrics.line_text import simplify
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.stage_files import ALIGNER_WEIGHTS, PREPROCESSOR
from pipeline.model_files.tensors import WithoutInitialisation, check_tensors, read_safetensors, read_torch_file
from pipeline.phonemes.english import strip_accents
from pipeline.phonemes.numbers import expand_chinese, expand_english

WINDOW_S = 20.0
MARGIN_S = 2.0  # two seconds of context on either side
MAX_VOCABULARY = 100_000
_DIGITS = re.compile(r"[0-9]+")
_BUILD_ERRORS = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError, AssertionError)
_MASK = "wav2vec2.masked_spec_embed"  # stands in for masked input in training; some files lack it
# Parts of a Wav2Vec2ForPreTraining that choose and compare its targets; files that were tuned from one may have them.
_PRETRAINING = ("quantizer.", "project_q.", "project_hid.")


class Wav2Vec2:
    """A Wav2Vec2ForCTC and its letters.

    Args:
        path: what `resolve_model` returns for the stage "aligner".
        name: by which it was chosen, for messages; its path where none is given.
        device: "cpu" or "cuda".
        batch_size: windows of 20 s per call.

    Raises:
        ModelFileError: its files are damaged, unsafe or of another model.
    """

    onset_lead_s = 0.0  # as WhisperX; not measured on singing

    def __init__(self, path: Path, *, name: str = "", device: str = "cpu", batch_size: int = 4) -> None:
        """Load the weights."""
        folder = path.parent if path.is_file() else path
        self.name = name or str(path)
        self._device = device
        self._batch_size = batch_size
        config = read_config(folder / "config.json")
        self._vocabulary = _read_vocabulary(folder / "vocab.json", config)
        self.blank: int = config.get("pad_token_id", 0)
        self._normalise = _wants_normalised(folder)
        self._model = _load(folder, config).to(device)

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
        with torch.inference_mode(), ieee_float32():
            logits = self._model(torch.from_numpy(windows).to(self._device)).logits
            log_probs: NDArray[np.float32] = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        return log_probs


def _load(folder: Path, settings: dict[str, Any]) -> Any:  # a transformers.Wav2Vec2ForCTC
    """Load a model in float32 whose weights are all there and all used, in silence.

    `Wav2Vec2ForCTC.from_pretrained` drops weights that it has no place for, draws those that are missing, and writes
    to the log of either: a model of another kind would run, and hear nothing.
    """
    tensors, weights = _read_weights(folder)
    model = _build(settings, tensors, folder / "config.json")
    expected = model.state_dict()
    if _MASK in expected:
        tensors.setdefault(_MASK, torch.zeros(expected[_MASK].shape))
    else:
        tensors.pop(_MASK, None)
    check_tensors(tensors, expected, weights)
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Return the tensors that a Wav2Vec2ForCTC shall take, under their present names, and the file that has them."""
    weights = next((folder / name for name in ALIGNER_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ModelFileError(f"{folder}: no {' or '.join(ALIGNER_WEIGHTS)}, expected the weights of a Wav2Vec2ForCTC")
    read = read_safetensors if weights.suffix == ".safetensors" else read_torch_file
    tensors = {}
    for key, value in read(weights, "the weights of a Wav2Vec2ForCTC").items():
        # Weights saved with older versions of PyTorch spell weight norm otherwise.
        renamed = key.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        renamed = renamed.replace("conv.weight_v", "conv.parametrizations.weight.original1")
        if not renamed.startswith(_PRETRAINING):
            tensors[renamed] = value
    return tensors, weights


def _build(settings: dict[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Any:
    """Return the model that a config.json describes, without memory for its weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
    from transformers.modeling_utils import no_init_weights

    if settings.get("model_type") != "wav2vec2":
        raise ModelFileError(f"{path}: model_type {settings.get('model_type')!r}, expected 'wav2vec2'")
    if settings.get("add_adapter"):
        raise ModelFileError(f"{path}: add_adapter makes frames longer, expected one per {FRAME_SAMPLES} samples")
    known = inspect.signature(Wav2Vec2Config).parameters  # others would choose code, or come from its training
    try:
        config = Wav2Vec2Config(**{name: value for name, value in settings.items() if name in known})
        if config.num_hidden_layers > len(tensors):
            raise ModelFileError(f"{path}: {config.num_hidden_layers} layers, but the file has {len(tensors)} weights")
        if (stride := int(np.prod(config.conv_stride))) != FRAME_SAMPLES:
            raise ModelFileError(f"{path}: a frame per {stride} samples, expected {FRAME_SAMPLES}")
        with WithoutInitialisation(), no_init_weights(), torch.device("meta"):
            model = Wav2Vec2ForCTC(config)
    except _BUILD_ERRORS as error:
        raise ModelFileError(f"{path}: {error!r}; expected the settings of a Wav2Vec2ForCTC") from error
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
    blank = config.get("pad_token_id", 0)
    if type(blank) is not int or not 0 <= blank < size:
        raise ModelFileError(f"{path.parent / 'config.json'}: pad_token_id {blank!r}, expected 0 to {size - 1}")
    wrong = [token for token, index in table.items() if type(index) is not int or not 0 <= index < size]
    if not table or wrong:
        shown = f"{wrong[0]!r}: {table[wrong[0]]!r}" if wrong else "an empty table"
        raise ModelFileError(f"{path}: {shown}, expected tokens with ids from 0 to {size - 1}")
    return {token: index for token, index in table.items() if index != blank}


def _wants_normalised(folder: Path) -> bool:
    """Whether the model was trained on audio of zero mean and unit variance."""
    path = folder / PREPROCESSOR
    return bool(read_config(path).get("do_normalize", True)) if path.is_file() else True
