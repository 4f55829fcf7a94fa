"""Demucs models from files, without a pickle and without a class that a file names freely."""

import inspect
import json
import logging
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.stage_files import MissingFilesError, find_files, read_bag
from pipeline.model_files.tensors import WithoutInitialisation, check_tensors, read_safetensors

logger = logging.getLogger(__name__)

# What a safetensors file of the hub may say it is; another name would be imported and called.
_NO_START = {"emb_smooth": False, "rescale": 0}  # computed on the device "meta" they load a compiler
_CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs")
# Demucs' own models stay far below: 384 channels at most in a setting, 8 levels, 10 layers, 44 s.
_MAX_SIZE, _MAX_REPEATS, _MAX_SEGMENT_S, _MAX_SAMPLE_RATE_HZ = 1 << 16, 64, 600, 192_000
_REPEATS = ("depth", "t_layers", "dconv_depth", "lstm_layers", "resample", "multi_freqs_depth")


def load_separator(path: Path) -> Any:  # demucs has no common type for a model and a bag of models
    """Load a separator from the folder that `Profile.model_path("separator")` returns.

    It holds config.json (arguments of HTDemucs) and model.safetensors, or, as on the hub of demucs 4.1, a yaml that
    lists safetensors files.

    Raises:
        ModelFileError: a file that is missing, damaged or not a Demucs model.
    """
    expected = "expected a folder with config.json and model.safetensors, or with a yaml and its files"
    if not path.is_dir():
        raise ModelFileError(f"{path}: {expected}")
    try:
        first = find_files("separator", path)[0]
    except MissingFilesError as error:
        raise ModelFileError(f"{path}: {error}; {expected}") from error
    if first.name == "config.json":
        tensors = read_safetensors(path / "model.safetensors", "the weights of a separator")
        return _build(_CLASSES[0], [], read_config(first), tensors, path / "model.safetensors")
    return _load_bag(first)


def _load_bag(path: Path) -> Any:
    from demucs.apply import BagOfModels

    bag: dict[str, Any] = read_bag(path)
    names = bag["models"]
    models = [_load_member(path.with_name(f"{name}.safetensors")) for name in names]
    weights, segment = bag.get("weights"), bag.get("segment")
    num_sources = len(models[0].sources)
    if weights is not None and not _is_matrix(weights, len(models), num_sources):
        raise ModelFileError(f"{path}: weights {weights!r}, expected {num_sources} numbers for each of {len(models)}")
    if segment is not None and not (_is_number(segment) and 0 < segment <= _MAX_SEGMENT_S):
        raise ModelFileError(f"{path}: segment {segment!r}, expected seconds above 0 and up to {_MAX_SEGMENT_S}")
    kinds = {(tuple(model.sources), model.samplerate, model.audio_channels) for model in models}
    if len(kinds) > 1:
        raise ModelFileError(f"{path}: models of {len(kinds)} kinds: {sorted(kinds)}, expected the same for all")
    return BagOfModels(models, weights, segment)


def _load_member(path: Path) -> Any:
    """Load a file that says in its metadata which class it is and with which arguments."""
    from safetensors import safe_open

    tensors = read_safetensors(path, "a model of the bag")
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("klass") not in _CLASSES:
        raise ModelFileError(
            f"{path}: a model of class {metadata.get('klass')!r}, expected one of {', '.join(_CLASSES)}"
        )
    if "structure" in metadata:
        # Demucs writes it for weights quantised with diffq; rebuilding them imports what the file names.
        raise ModelFileError(f"{path}: quantised weights (metadata 'structure'), expected plain tensors")
    try:
        args, kwargs = (json.loads(metadata.get(name, "null")) for name in ("args", "kwargs"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"{path}: metadata args or kwargs: {error}; expected JSON") from error
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ModelFileError(f"{path}: metadata args {args!r} and kwargs {kwargs!r}, expected a list and an object")
    # Old models name settings that Demucs has given up; it leaves them out as well, and the weights show if that fits.
    known = inspect.signature(_find_class(metadata["klass"])).parameters
    for name in sorted(kwargs.keys() - known.keys()):
        logger.warning("%s: setting %r of %s is not known to this version and left out", path, name, metadata["klass"])
        del kwargs[name]
    return _build(metadata["klass"], args, kwargs, tensors, path)


def _find_class(klass: str) -> Any:  # demucs is untyped
    from demucs.demucs import Demucs
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    return dict(zip(_CLASSES, (HTDemucs, HDemucs, Demucs), strict=True))[klass]


def _build(klass: str, args: list[Any], kwargs: Mapping[str, Any], tensors: dict[str, Tensor], path: Path) -> Any:
    """Return the model with its weights, in float32; it takes memory only after they were found to fit."""
    factory = _find_class(klass)
    try:
        known = inspect.signature(factory).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise ModelFileError(f"{path}: settings of {klass}: {error}") from error
    settings = {name: _decode_fraction(value, name, path) for name, value in known.items()}
    _check_settings(settings, path)
    try:
        with WithoutInitialisation():
            with torch.device("meta"):
                check_tensors(tensors, factory(**_without_a_start(settings, factory)).state_dict(), path)
            model = factory(**settings)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError, AssertionError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: {klass} cannot be built from its settings: {error!r}") from error
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True)
    return model.eval()


def _without_a_start(settings: dict[str, Any], factory: Any) -> dict[str, Any]:
    """Return settings for the same shapes that leave out what Demucs does to the weights that training starts from."""
    known = inspect.signature(factory).parameters
    return settings | {name: value for name, value in _NO_START.items() if name in known}


def _decode_fraction(value: Any, name: str, path: Path) -> Any:
    """Return JSON as demucs writes it: a segment of 39/5 s is an object."""
    if not (isinstance(value, dict) and value.get("_type") == "fraction"):
        return value
    numerator, denominator = value.get("numerator"), value.get("denominator")
    if type(numerator) is not int or type(denominator) is not int or not denominator:
        raise ModelFileError(f"{path}: {name} is {value!r}, expected whole numbers with a denominator other than 0")
    return Fraction(numerator, denominator)


def _check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse what the weights do not show and what would take all memory or time before they are compared."""
    sources = settings.get("sources")
    if not (isinstance(sources, list) and all(isinstance(source, str) for source in sources)):
        raise ModelFileError(f"{path}: sources {sources!r}, expected a list of names")
    limits = {"samplerate": _MAX_SAMPLE_RATE_HZ, "segment": _MAX_SEGMENT_S}
    for name, value in settings.items():
        if isinstance(value, (int, float, Fraction)):
            limit = limits.get(name, _MAX_REPEATS if name in _REPEATS else _MAX_SIZE)
            lowest = 1 if name == "samplerate" else Fraction(1, 10) if name == "segment" else -limit
            if not lowest <= value <= limit:
                raise ModelFileError(f"{path}: {name} is {value}, expected {lowest} to {limit}")
        elif name in limits:
            raise ModelFileError(f"{path}: {name} is {value!r}, expected a number")


def _is_matrix(value: Any, rows: int, columns: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == rows
        and all(isinstance(row, list) and len(row) == columns and all(map(_is_number, row)) for row in value)
        and all(sum(column) for column in zip(*value, strict=True))
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
