"""The weights that fine-tuning starts from, and models whose checkpoints hold only what differs from them.

Such a checkpoint names its base by path and by SHA-256: over name, shape and float32 values of every parameter that it
does not hold itself, in the order of their names. So the base may be moved or kept in another format, but not changed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.network.config import ConfigError
from model.network.lora import ADAPTER_NAMES, add_adapters, merge_adapters
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, RunConfig, config_from_dict
from model.weights.checkpoint import CheckpointError, compare, find_weights
from model.weights.reference_weights import WeightsError, from_reference, read_weights
from model.weights.weights_file import (
    Shapes,
    build_as_claimed,
    load_weights,
    read_header,
    read_tensors,
    refuse_not_finite,
)

CODEBOOK_PARAMETERS = ("semantic_table.weight", "semantic_head.classify.weight", "semantic_head.classify.bias")


def load_model(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, base: Path | None = None
) -> tuple[SongModel, RunConfig]:
    """Return a trained model, ready to sample from, and the configuration of its run; adapters are merged.

    Args:
        path: a run's folder (its newest checkpoint), a checkpoint's folder, or a .safetensors file. Of a folder the
            moving average of the weights, where there is one.
        device: where the model goes.
        dtype: of its weights there, which are converted one by one; the statistics of latents stay float32.
        base: where the weights lie that adapters correct; None: where their run found them.

    Raises:
        CheckpointError: no checkpoint, a damaged one, one of another model than its configuration says, or adapters
            whose base is missing or another one.
    """
    file = find_weights(path)
    shapes, metadata = read_header(file)
    config = read_config(file, metadata)
    finetune = config.finetune

    def build_model() -> SongModel:
        model = SongModel(config.model)
        if finetune.lora_rank:
            add_adapters(model, finetune.lora_rank, finetune.lora_alpha, targets=finetune.lora_targets)
        return model

    try:
        if "base_sha256" in metadata:
            model = _load_adapted(file, shapes, metadata, config, build_model, base)
        else:
            num_layers = config.model.lm_layers + config.model.dit_layers
            model = build_as_claimed(build_model, shapes, num_layers, file)
            # Adapters are merged in float32: rounded first, a small correction would be lost beside its matrix.
            model = model.to_empty(device="cpu") if finetune.lora_rank else model.to(dtype).to_empty(device=device)
            load_weights(file, model)
    except ConfigError as error:  # targets that match nothing
        raise CheckpointError(f"{file} cannot be used: {error}") from error
    merge_adapters(model)
    return model.to(device, dtype).eval(), config


def read_base(config: RunConfig, path: Path) -> dict[str, Tensor]:
    """Return the weights at `path`, from which a run of this configuration starts, by our names in float32.

    Args:
        config: of the run.
        path: a run's folder, a checkpoint's, or a file: of ours, or of reference weights where `finetune.names` says
            so and it has no configuration of ours inside.

    Raises:
        CheckpointError: they are missing, damaged, or of another model.
    """
    if config.finetune.names == "reference" and path.is_file() and not _is_ours(path):
        _refuse_other_phonemes(path, config)
        try:
            return from_reference(read_weights(path), config.model)[0]
        except WeightsError as error:
            place = "" if str(path) in str(error) else f"{path}: "
            raise CheckpointError(f"{place}{error}") from error
    model, found = load_model(path)
    _refuse_other_shape(path, found, config)
    if config.finetune.lora_rank and found.finetune.lora_rank:
        raise CheckpointError(
            f"weights {path} hold adapters, and this run is to add more; merge them into one file first: "
            f"python -m model.convert merge {path} --out FILE"
        )
    return model.state_dict()


def read_config(path: Path, metadata: Mapping[str, str]) -> RunConfig:
    """Return the configuration of a run from the metadata of its weights, or raise CheckpointError."""
    if "config" not in metadata:
        raise CheckpointError(f"{path}: its metadata holds no configuration; expected weights that train.py wrote")
    try:
        return config_from_dict(json.loads(metadata["config"]), f"{path}")
    except (json.JSONDecodeError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def name_own(model: SongModel, finetune: FinetuneConfig) -> set[str]:
    """Return what the checkpoints of a model with adapters hold themselves: adapters, new codebook, and buffers."""
    parameters = [name for name, _ in model.named_parameters()]
    own = {name for name in parameters if name.endswith(ADAPTER_NAMES)}
    if finetune.new_codebook:
        own.update(CODEBOOK_PARAMETERS)
    return own | (model.state_dict().keys() - set(parameters))


def hash_base(tensors: Mapping[str, Tensor], own_names: set[str]) -> str:
    """Return the SHA-256 of all tensors but `own_names`."""
    digest = hashlib.sha256()
    for name in sorted(tensors.keys() - own_names):
        values = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().reshape(-1).view("uint8").data)
    return digest.hexdigest()


def refuse_other_base(found: str, expected: str, base: Path, adapters: Path) -> None:
    """Raise CheckpointError unless two SHA-256 of `hash_base` are the same."""
    if found != expected:
        raise CheckpointError(
            f"weights {base} are not those that {adapters} was trained on: SHA-256 {found[:12]}, expected "
            f"{expected[:12]}; name those (finetune.weights, or --base), such as the very checkpoint of a run that "
            "has gone on"
        )


def _load_adapted(
    file: Path,
    shapes: Shapes,
    metadata: Mapping[str, str],
    config: RunConfig,
    build_model: Callable[[], SongModel],
    base: Path | None,
) -> SongModel:
    """Return the model of a file of adapters, with its base underneath, in float32 on the CPU."""
    place = base or locate_base(metadata.get("base_file", ""), config)
    try:
        tensors = read_base(config, place)
    except CheckpointError as error:
        raise CheckpointError(
            f"{file} holds adapters alone, and their base cannot be used: {error}; where it lies elsewhere: "
            f"python -m model.convert merge {file} --base WEIGHTS --out FILE"
        ) from error
    model: SongModel = build_as_claimed(build_model, shapes, 0, file, lambda model: name_own(model, config.finetune))
    own_names = name_own(model, config.finetune)
    parameters = {name for name, _ in model.named_parameters()}
    below = {name: tensors[name] for name in parameters - own_names}
    refuse_other_base(hash_base(below, own_names), metadata["base_sha256"], place, file)
    refuse_not_finite(read_tensors(file), file)
    model.load_state_dict(below | {name: tensor.float() for name, tensor in read_tensors(file)}, assign=True)
    return model


def locate_base(base_file: str, config: RunConfig) -> Path:
    """Return where the base of adapters lies: the very file that was read, or what the configuration names now."""
    return Path(base_file) if base_file and Path(base_file).is_file() else Path(config.finetune.weights)


def _refuse_other_phonemes(path: Path, config: RunConfig) -> None:
    """Raise CheckpointError where weights under the reference's names were trained on lyrics spelled another way."""
    metadata = read_header(path)[1] if path.suffix == ".safetensors" else {}
    found, expected = metadata.get("phonemes", "reference"), config.model.conditions.phonemes
    if found != expected:
        raise CheckpointError(
            f"weights {path} were trained with the phoneme mode {found!r}, but model.conditions.phonemes is "
            f"{expected!r}; set it to {found}, and extract the songs with --phonemes {found}"
        )


def _is_ours(path: Path) -> bool:
    return path.suffix == ".safetensors" and "config" in read_header(path)[1]


def _refuse_other_shape(path: Path, found: RunConfig, expected: RunConfig) -> None:
    """Raise CheckpointError where a setting gives the weights another meaning than this run does."""
    allowed = {"model.codebook_size"} if expected.finetune.new_codebook else set()
    for key, (there, here) in compare(found, expected).items():
        if key.startswith("model.") and not key.startswith("model.dropout.") and key not in allowed:
            hint = "; finetune.new_codebook learns another codebook" if key == "model.codebook_size" else ""
            raise CheckpointError(
                f"weights {path} are of another model: {key} is {there} there and {here} in this run{hint}"
            )
