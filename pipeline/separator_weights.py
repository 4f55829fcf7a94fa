"""Demucs models from files, without a pickle and without a class that a file names freely."""

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.models import ModelFileError, read_config, resolve_model

# What a safetensors file of the hub may say it is; another name would be imported and called.
_CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs")


def load_separator(name: str) -> Any:  # demucs has no common type for a model and a bag of models
    """Load the separator that a name stands for.

    A folder holds config.json (arguments of HTDemucs) and model.safetensors, or, as on the hub of demucs 4.1, a yaml
    that lists safetensors files.

    Raises:
        ModelNotFoundError: see `pipeline.models.resolve_model`.
        ModelFileError: a file that is damaged or not a Demucs model.
    """
    folder = resolve_model(name, "separator")
    if not folder.is_dir():
        raise ModelFileError(
            f"{folder}: expected a folder with config.json and model.safetensors, or a yaml and its files"
        )
    if (folder / "config.json").exists():
        return _load_htdemucs(folder)
    lists = sorted(folder.glob("*.yaml"))
    if len(lists) != 1:
        raise ModelFileError(f"{folder}: {len(lists)} yaml files, expected one that lists the models")
    return _load_bag(lists[0])


def _load_htdemucs(folder: Path) -> Any:
    from demucs.htdemucs import HTDemucs
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model = HTDemucs(**read_config(folder / "config.json"))
        state = load_file(folder / "model.safetensors")
        model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    except (TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise ModelFileError(f"{folder}: not a separator that fits its config.json: {error}") from error
    return model


def _load_bag(path: Path) -> Any:
    from demucs.apply import BagOfModels
    from demucs.hf import load_safetensors_model

    bag = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = bag.get("models") if isinstance(bag, dict) else None
    if not isinstance(names, list) or not all(isinstance(n, str) and n.isalnum() for n in names):
        raise ModelFileError(f"{path}: expected a list 'models' of signatures")
    files = [path.with_name(f"{name}.safetensors") for name in names]
    for file in files:
        _check_class(file)
    return BagOfModels([load_safetensors_model(file) for file in files], bag.get("weights"), bag.get("segment"))


def _check_class(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: cannot be read: {error}") from error
    if metadata.get("klass") not in _CLASSES:
        raise ModelFileError(
            f"{path}: a model of class {metadata.get('klass')!r}, expected one of {', '.join(_CLASSES)}"
        )
    if '"_class"' in json.dumps(metadata.get("structure", "")).replace('\\"', '"'):
        raise ModelFileError(f"{path}: its state names a class to import; only plain weights are loaded")
