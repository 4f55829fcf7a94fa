"""Fine-tuning: start from weights that exist, with another codebook if need be, and train only part of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from model.network.config import ConfigError
from model.network.lora import ADAPTER_NAMES, add_adapters
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, RunConfig
from model.weights.base_weights import (
    CODEBOOK_PARAMETERS,
    hash_base,
    locate_base,
    name_own,
    read_base,
    refuse_other_base,
)
from model.weights.checkpoint import ADAPTERS_NAME, WEIGHTS_NAME, CheckpointError, TrainState, find_weights
from model.weights.weights_file import load_weights


@dataclass(frozen=True, slots=True)
class Start:
    """What checkpoints of a run hold, and the base that the rest of its weights is."""

    own_names: frozenset[str] | None = None  # None: checkpoints hold all weights
    base_file: str = ""
    base_sha256: str = ""


def begin(model: SongModel, config: RunConfig) -> Start:
    """Make `model` what a new run starts from: given weights or those that it has, with adapters where asked for.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another model.
        ConfigError: see `choose_trained`.
    """
    finetune = config.finetune
    if finetune.weights:
        start_from(model, config, Path(finetune.weights))
    choose_trained(model, finetune)
    if not finetune.lora_rank or not finetune.weights:
        return Start()
    path = Path(finetune.weights)
    own_names = name_own(model, finetune)
    sha256 = hash_base(dict(model.named_parameters()), own_names)
    base_file = path if finetune.names == "reference" and path.is_file() else find_weights(path)
    return Start(frozenset(own_names), str(base_file), sha256)


def go_on(model: SongModel, config: RunConfig, found: Path, state: TrainState) -> Start:
    """Make `model` what the checkpoint `found` holds, with its base underneath where it holds adapters alone.

    Raises:
        CheckpointError: the checkpoint is damaged, or its base missing or another one.
        ConfigError: see `choose_trained`.
    """
    finetune = config.finetune
    if not state.base_sha256:
        choose_trained(model, finetune)
        load_weights(found / WEIGHTS_NAME, model)
        return Start()
    base = locate_base(state.base_file, config)
    start_from(model, config, base)
    choose_trained(model, finetune)
    own_names = name_own(model, finetune)
    refuse_other_base(hash_base(dict(model.named_parameters()), own_names), state.base_sha256, base, found)
    load_weights(found / ADAPTERS_NAME, model, own_names)
    return Start(frozenset(own_names), state.base_file, state.base_sha256)


def start_from(model: SongModel, config: RunConfig, path: Path) -> None:
    """Copy the weights at `path` into `model`; with a new codebook, all but those of its tokens.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another model.
    """
    _copy(read_base(config, path), model, path, skip=CODEBOOK_PARAMETERS if config.finetune.new_codebook else ())


def choose_trained(model: SongModel, finetune: FinetuneConfig) -> None:
    """Add adapters where LoRA is asked for, and freeze what shall not train.

    With LoRA the adapters train and, with a new codebook, the parameters of its tokens. Without, all that no pattern
    of `finetune.freeze` names.

    Raises:
        ConfigError: a pattern names no parameter, or nothing is left to train.
    """
    if finetune.lora_rank:
        add_adapters(
            model,
            finetune.lora_rank,
            finetune.lora_alpha,
            targets=finetune.lora_targets,
            dropout=finetune.lora_dropout,
        )
        kept = CODEBOOK_PARAMETERS if finetune.new_codebook else ()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(ADAPTER_NAMES) or name in kept)
    names = [name for name, _ in model.named_parameters()]
    for pattern in finetune.freeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"finetune.freeze: {pattern!r} matches no parameter; they are named like {names[-1]!r}")
    for name, parameter in model.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in finetune.freeze):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("finetune: everything is frozen, nothing is left to train")


@torch.no_grad()
def _copy(found: Mapping[str, Tensor], model: SongModel, path: Path, skip: tuple[str, ...]) -> None:
    """Copy by name; buffers that the file lacks, such as latent statistics of reference weights, keep their values."""
    for name, target in model.state_dict().items():
        if name in skip or (name not in found and name not in dict(model.named_parameters())):
            continue
        if name not in found or found[name].shape != target.shape:
            place = f"has shape {tuple(found[name].shape)}" if name in found else "is missing"
            raise CheckpointError(f"weights {path}: {name} {place}, expected shape {tuple(target.shape)}")
        target.copy_(found[name])
