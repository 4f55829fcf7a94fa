"""What a training run starts from: the newest checkpoint of its folder, given weights, or chance."""

import logging
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from model.network.config import ConfigError
from model.network.float8 import use_float8
from model.network.song_model import SongModel
from model.settings.settings import RunConfig
from model.training.ranks import Ranks
from model.training.trainer import Trainer
from model.weights import checkpoint, finetune
from model.weights.checkpoint import CheckpointError, TrainState
from shards.index import DatasetInfo
from shards.storage import Root

_NONE, _DAMAGED = -1, -2  # instead of a step

logger = logging.getLogger(__name__)


def find_checkpoint(folder: Path, ranks: Ranks, *, resume: bool) -> Path | None:
    """Return the newest whole checkpoint; rank 0 looks, so that all ranks take the same.

    Raises:
        CheckpointError: the folder holds checkpoints of which none is whole, or one although `resume` is False.
    """
    step = ranks.tell(_find_step(folder) if ranks.is_main else _NONE)
    if step == _NONE:
        return None
    if step == _DAMAGED:
        names = ", ".join(checkpoint.name_step_folders(folder))
        raise CheckpointError(
            f"run folder {folder}: none of its checkpoints is whole ({names}), expected one to go on from; nothing is "
            "started anew over them: put a copy of one there, or name another --out"
        )
    found = checkpoint.name_folder(folder, step)
    if not resume:
        raise CheckpointError(
            f"{found} exists; without --resume a run needs an empty folder: name another --out, or delete this one"
        )
    return found


def _find_step(folder: Path) -> int:
    newest = checkpoint.find_newest(folder)
    if newest is not None:
        return checkpoint.read_state(newest)[0].global_step
    return _DAMAGED if checkpoint.name_step_folders(folder) else _NONE


def build_trainer(config: RunConfig, info: DatasetInfo, ranks: Ranks, found: Path | None) -> tuple[TrainState, Trainer]:
    """Return state and trainer as the checkpoint `found` holds them, or fresh ones.

    Raises:
        ConfigError: layers are to be compiled, or computed in float8, and cannot be.
        CheckpointError, WeightsError: weights to start from are damaged or of another model.
    """
    is_compiled = config.compiles_layers(ranks.device.type)
    if is_compiled:
        refuse_without_compiler(ranks.device)
    torch.manual_seed(config.trainer.seed)
    model = SongModel(config.model, checkpoint_activations=config.trainer.checkpoint_activations)
    if config.trainer.float8:
        use_float8(model, ranks.device)
    if is_compiled:
        model.compile_layers()
    if found is None:
        model.set_latent_statistics(torch.tensor(info.latent_mean), torch.tensor(info.latent_std))
        start = finetune.begin(model, config)
        state = TrainState(
            global_step=0,
            seed=config.trainer.seed,
            dataset_fingerprint=info.fingerprint,
            first_loss=None,
            first_val_loss=None,
            last_val_loss=None,
            losses=(),
            base_file=start.base_file,
            base_sha256=start.base_sha256,
        )
        return state, Trainer(model, config, ranks, start.own_names)
    state = _read_state(found, config, info)
    start = finetune.go_on(model, config, found, state)
    trainer = Trainer(model, config, ranks, start.own_names)
    files = sorted(found.glob("*.safetensors"))
    trainer.restore(
        {path.stem: checkpoint.read_tensors(path) for path in files}, state.global_step - state.skipped_updates
    )
    return state, trainer


def _read_state(found: Path, config: RunConfig, info: DatasetInfo) -> TrainState:
    state, of_checkpoint = checkpoint.read_state(found)
    checkpoint.refuse_other_model(found, of_checkpoint, config)
    for key, (there, here) in checkpoint.compare(of_checkpoint, config).items():
        logger.warning("%s was trained with %s = %s; from here on it is %s", found, key, there, here)
    if state.dataset_fingerprint != info.fingerprint:
        logger.warning("%s was trained on another dataset than %s", found, config.data.root)
    return replace(state, seed=config.trainer.seed, dataset_fingerprint=info.fingerprint)


def refuse_other_data(info: DatasetInfo, config: RunConfig, root: Root) -> None:
    """Raise ConfigError where the dataset does not fit the model."""
    for name in ("codebook_size", "latent_channels"):
        found, expected = getattr(info, name), getattr(config.model, name)
        if found != expected:
            raise ConfigError(
                f"{root}/dataset.json: {name} is {found}, but model.{name} is {expected}; "
                f"set model.{name}, or extract the songs with another codebook or VAE"
            )
    found, expected = info.phoneme_mode, config.model.conditions.phonemes
    if found != expected:
        raise ConfigError(
            f"{root}/dataset.json: lyrics are spelled in the phoneme mode {found!r}, but model.conditions.phonemes is "
            f"{expected!r}; set it, or extract the songs with --phonemes {expected}"
        )


def refuse_without_compiler(device: torch.device) -> None:
    """Raise ConfigError where torch.compile is switched off or lacks a compiler, before the first step finds out."""
    wanted = "trainer.compile_layers is true or auto, but"
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):  # torch/_dynamo: config.py and eval_frame.py
        if os.environ.get(name) == "1":
            raise ConfigError(f"{wanted} {name}=1 switches torch.compile off; unset it, or set compile_layers: false")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(f"{wanted} Triton, which compiles for GPUs, is not installed; set compile_layers: false")
    # Inductor compiles C++ for a CPU; Triton compiles a small C program that starts each of its kernels.
    names = [os.environ.get("CXX", "g++")] if device.type == "cpu" else [os.environ.get("CC", ""), "gcc", "clang"]
    if not any(shutil.which(name) for name in names if name):
        raise ConfigError(
            f"{wanted} no compiler was found ({', '.join(name for name in names if name)}); install one, or set "
            "compile_layers: false"
        )
