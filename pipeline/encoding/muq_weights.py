"""MuQ (arXiv:2501.01108) from files: settings and weights are compared before any of them takes memory.

`config.json` has MuQ's own settings and, under `w2v2_config`, those of its Conformer. Names such as `conv_dim` stand in
both and mean different things, so each has rules of its own.
"""

import math
import random
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import WithoutInitialisation, check_tensors, read_safetensors
from pipeline.quiet_libraries import without_weight_norm_warning
from shards.schema import FRAME_RATE_HZ, SEMANTIC_HOP_LENGTH

# What all of MuQ's code takes for granted: mels every 240 samples, four of them a frame, in 128 bands.
_FIXED = {
    "features": ["melspec_2048"],
    "hop_length": SEMANTIC_HOP_LENGTH // 4,
    "label_rate": FRAME_RATE_HZ,
    "n_mels": 128,
}
# Where the weights show a size that config.json states.
_SIZE_KEYS = {
    "encoder_dim": "model.cls_token",
    "conv_dim": "model.conv.conv.0.conv1.weight",
    "codebook_size": "model.linear.weight",
}
_MAX_REPEATS = 64  # of parts that are built one by one: MuQ has 8 at most
_REPEATS = ("num_codebooks", "rvq_n_codebooks", "rvq_multi_layer_num")
# Settings that load other files or code, or that only MuQ's training uses.
_UNUSED = {"rvq_ckpt_path": None, "resume_checkpoint": None, "is_flash": False}

# All that transformers' Wav2Vec2ConformerEncoder reads of `w2v2_config`; MuQ sets its depth and width itself.
_ENCODER_SIZES = (
    *("intermediate_size", "conv_depthwise_kernel_size", "num_attention_heads"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
)
_ENCODER_SHARES = (
    *("activation_dropout", "attention_dropout", "conformer_conv_dropout", "hidden_dropout"),
    *("layerdrop", "layer_norm_eps"),
)
_ENCODER_ACTIVATIONS = ("feat_extract_activation", "hidden_act")
_POSITIONS = {"relative": "max_source_positions", "rotary": "rotary_embedding_base"}  # and what each of them needs
_MAX_POSITIONS = 1 << 16  # of relative position embeddings: MuQ has 5000 where it has any
# Of older versions of transformers, beside those that the installed one knows; the encoder reads none of them.
_FORMER_SETTINGS = frozenset(
    ("do_stable_layer_norm", "feat_extract_dropout", "gradient_checkpointing", "hidden_dropout_prob", "torch_dtype")
)
_BUILD_ERRORS = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError, AssertionError)


def load_muq(folder: Path, layer: int) -> Any:  # muq.MuQ; the package is untyped
    """Load MuQ (`config.json` and `model.safetensors`, as on the hub) in float32, cut off after `layer`.

    Layers beyond it take no memory: the weights are copied from the mapped file, only those that stay.

    Raises:
        ModelFileError: damaged files, unknown settings, or weights that do not fit them.
    """
    settings = read_config(folder / "config.json")
    weights = folder / "model.safetensors"
    tensors = _unify_names(read_safetensors(weights, "MuQ's weights"), weights)
    model = _build(_check_settings(settings, tensors, folder / "config.json"), folder)
    check_tensors(tensors, model.state_dict(), weights)
    conformer = model.model.conformer
    if not 0 <= layer <= len(conformer.layers):
        raise ModelFileError(f"{folder}: no hidden state {layer}, MuQ has 0 to {len(conformer.layers)}")
    if layer < len(conformer.layers):
        # Later layers cost time only; the norm after the last one belongs to the last hidden state alone.
        conformer.layers = conformer.layers[:layer]
        conformer.layer_norm = nn.Identity()
    model.model.linear = nn.Identity()  # scores of MuQ's own targets, which only its training uses
    model.load_state_dict({key: tensors[key] for key in model.state_dict()}, strict=True)
    return model.eval().requires_grad_(False)


def _unify_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give weight norm its present names: older versions of PyTorch spell it otherwise."""
    renamed = {}
    for key, value in tensors.items():
        new = key.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        renamed[new.replace("conv.weight_v", "conv.parametrizations.weight.original1")] = value
    if len(renamed) != len(tensors):
        raise ModelFileError(f"{path}: {len(tensors) - len(renamed)} tensors twice, under two spellings")
    return renamed


def _check_settings(settings: dict[str, Any], tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return what MuQ is built from; a wrong number must not take all memory or time before it is compared."""
    from muq import MuQConfig

    known: dict[str, Any] = vars(MuQConfig())
    if unknown := sorted(settings.keys() - known.keys()):
        raise ModelFileError(f"{path}: settings {reprlib.repr(unknown)} that MuQ does not know")
    merged = known | settings
    if merged["use_encodec_target"]:
        raise ModelFileError(f"{path}: use_encodec_target needs a model that is downloaded on loading")
    for name, value in _FIXED.items():
        if merged[name] != value:
            raise ModelFileError(f"{path}: {name} {reprlib.repr(merged[name])}, expected {value}")
    _check_sizes(merged, tensors, path)
    statistics = _object(merged["stat"], "stat", path)
    _check_number(statistics.get("melspec_2048_mean"), "stat.melspec_2048_mean", -1000, 1000, path)
    _check_number(statistics.get("melspec_2048_std"), "stat.melspec_2048_std", 1e-3, 1000, path)
    encoder = _check_encoder(_object(merged["w2v2_config"], "w2v2_config", path), _longest_axis(tensors), path)
    width, heads = merged["encoder_dim"], encoder["num_attention_heads"]
    if width % (2 * heads):
        raise ModelFileError(f"{path}: {heads} attention heads for a width of {width}, expected an even width for each")
    return merged | _UNUSED | {"w2v2_config": encoder}


def _check_sizes(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, key in _SIZE_KEYS.items():
        found = tuple(tensors[key].shape)[:1] if key in tensors else ()
        if type(settings[name]) is not int or (settings[name],) != found:
            raise ModelFileError(f"{path}: {name} {reprlib.repr(settings[name])}, {key} has {found}")
    depth = len({key.split(".")[3] for key in tensors if key.startswith("model.conformer.layers.")})
    declared = settings["encoder_depth"]
    if type(declared) is not int or declared != depth:
        raise ModelFileError(f"{path}: encoder_depth {reprlib.repr(declared)}, the weights have {depth} layers")
    _check_number(settings["codebook_dim"], "codebook_dim", 0, _longest_axis(tensors), path, kind=int)
    for name in _REPEATS:
        _check_number(settings[name], name, 0, _MAX_REPEATS, path, kind=int)
    if settings["recon_loss_ratio"] is not None:
        _check_number(settings["recon_loss_ratio"], "recon_loss_ratio", 0, 1000, path)


def _check_encoder(encoder: Mapping[str, Any], longest: int, path: Path) -> dict[str, Any]:
    """Return the settings that the Conformer reads; others that it may have are left out."""
    from transformers import Wav2Vec2ConformerConfig

    kind = encoder.get("position_embeddings_type")
    if not (isinstance(kind, str) and kind in _POSITIONS):
        found, expected = reprlib.repr(kind), " or ".join(_POSITIONS)
        raise ModelFileError(f"{path}: w2v2_config.position_embeddings_type {found}, expected {expected}")
    read = {*_ENCODER_SIZES, *_ENCODER_SHARES, *_ENCODER_ACTIVATIONS, "position_embeddings_type", _POSITIONS[kind]}
    if missing := sorted(read - encoder.keys()):
        raise ModelFileError(f"{path}: w2v2_config lacks {', '.join(missing)}")
    known = read | _FORMER_SETTINGS | Wav2Vec2ConformerConfig().to_dict().keys()
    if unknown := sorted(encoder.keys() - known):
        raise ModelFileError(f"{path}: w2v2_config has settings {reprlib.repr(unknown)} that a Conformer does not know")
    limits = {name: (int, 1, longest) for name in _ENCODER_SIZES} | {name: (float, 0, 1) for name in _ENCODER_SHARES}
    limits["max_source_positions"], limits["rotary_embedding_base"] = (int, 1, _MAX_POSITIONS), (float, 1, 10**9)
    for name in sorted(read & limits.keys()):
        number, low, high = limits[name]
        _check_number(encoder[name], f"w2v2_config.{name}", low, high, path, kind=number)
    for name in _ENCODER_ACTIVATIONS:
        if not isinstance(encoder[name], str):
            found = reprlib.repr(encoder[name])
            raise ModelFileError(f"{path}: w2v2_config.{name} {found}, expected the name of a function")
    return {name: encoder[name] for name in sorted(read)}


def _check_number(value: Any, name: str, low: float, high: float, path: Path, *, kind: type = float) -> None:
    """Refuse what is no number of a range; the largest sizes are those that the weights show somewhere."""
    is_number = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
    if not (is_number and low <= value <= high):
        what = "a whole number" if kind is int else "a number"
        raise ModelFileError(f"{path}: {name} {reprlib.repr(value)}, expected {what} from {low} to {high}")


def _object(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: {name} {reprlib.repr(value)}, expected an object")
    return value


def _longest_axis(tensors: Mapping[str, Tensor]) -> int:
    return max((axis for tensor in tensors.values() for axis in tensor.shape), default=0)


def _build(settings: dict[str, Any], folder: Path) -> Any:
    """Return MuQ without weights: memory is reserved for them, and taken when they are copied into it."""
    from muq import MuQ, MuQConfig

    with _own_random_state(), WithoutInitialisation(), without_weight_norm_warning():
        try:
            return MuQ(MuQConfig(**settings))
        except _BUILD_ERRORS as error:
            raise ModelFileError(f"{folder}: MuQ cannot be built from config.json: {error!r}") from error


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Keep the caller's random numbers: MuQ's constructor seeds the global generators."""
    python_state = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python_state)
