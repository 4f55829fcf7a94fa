"""Fine-tuning: start from weights that exist, with another codebook if need be, and train only part of the model."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import CheckpointError, compare, load_model
from model.config import ConfigError
from model.lora import ADAPTER_NAMES, add_adapters
from model.reference_weights import from_reference, read_weights
from model.settings import FinetuneConfig, RunConfig
from model.song_model import SongModel

CODEBOOK_PARAMETERS = ("semantic_table.weight", "semantic_head.classify.weight", "semantic_head.classify.bias")


def start_from(model: SongModel, config: RunConfig) -> None:
    """Copy the weights that `finetune.weights` names into `model`; with a new codebook, all but those of its tokens.

    Raises:
        CheckpointError: the weights are of another model.
        WeightsError: a file under the reference's names that does not fit.
    """
    finetune = config.finetune
    path = Path(finetune.weights)
    if finetune.names == "reference":
        found, _ = from_reference(read_weights(path), config.model)
    else:
        source, found_config = load_model(path)
        _refuse_other_shape(path, found_config, config)
        found = source.state_dict()
    _copy(found, model, path, skip=CODEBOOK_PARAMETERS if finetune.new_codebook else ())


def choose_trained(model: SongModel, finetune: FinetuneConfig) -> None:
    """Add adapters where LoRA is asked for, and freeze what shall not train.

    With LoRA the adapters train and, with a new codebook, the parameters of its tokens. Without, all that no pattern
    of `finetune.freeze` names.

    Raises:
        ConfigError: a pattern names no parameter, or nothing is left to train.
    """
    if finetune.lora_rank:
        add_adapters(model, finetune.lora_rank, finetune.lora_alpha)
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


def _refuse_other_shape(path: Path, found: RunConfig, expected: RunConfig) -> None:
    """Raise CheckpointError where a setting gives the weights another meaning than this run does."""
    allowed = {"model.codebook_size"} if expected.finetune.new_codebook else set()
    for key, (there, here) in compare(found, expected).items():
        if key.startswith("model.") and not key.startswith("model.dropout.") and key not in allowed:
            hint = "; finetune.new_codebook learns another codebook" if key == "model.codebook_size" else ""
            raise CheckpointError(
                f"weights {path} are of another model: {key} is {there} there and {here} in this run{hint}"
            )


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
