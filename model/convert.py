"""Between our checkpoints and what others read: `python -m model.convert import FILE`, `... export CHECKPOINT`.

import: a released checkpoint (.pt, .ckpt or .safetensors) becomes weights that jobs/generate.py reads. Where such a
checkpoint holds its VAE too, --vae-out writes that to a file of its own, for --vae of the jobs.
export: our weights under the reference's names, adapters merged.
merge: a run with adapters becomes one file of whole weights that needs no base.
adapters: its adapters alone in the layout of the library peft, adapter_model.safetensors and adapter_config.json, for
  peft.PeftModel.from_pretrained(SONG_MODEL, FOLDER).

The last line on stdout is one JSON object. Exit code 0: converted; 2: wrong use.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.network.config import ConfigError
from model.network.lora import ADAPTER_NAMES
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, RunConfig, load_config
from model.weights.base_weights import CODEBOOK_PARAMETERS, load_model, read_config
from model.weights.checkpoint import CheckpointError, find_weights
from model.weights.reference_weights import WeightsError, export_reference, from_reference, read_weights
from model.weights.weights_file import read_header, read_tensors
from shards.atomic_file import open_atomic, sync

VAE_ROOT = "vae."
PEFT_ROOT = "base_model.model."  # peft wraps a model twice


def import_reference(source: Path, config: RunConfig, target: Path, vae_target: Path | None = None) -> dict[str, Any]:
    """Write a reference checkpoint under our names, with its configuration, and return what was done.

    Args:
        source: the reference checkpoint.
        config: gives the sizes; conditions and lyrics are read as released weights need them.
        target: file to write.
        vae_target: where the checkpoint's own VAE goes; None: it is left out.
    """
    weights = read_weights(source)
    released = replace(config.model.conditions, padding="fixed", null_lyrics="padding_symbol", phonemes="reference")
    config = replace(config, model=replace(config.model, conditions=released))
    try:
        state, unused = from_reference(weights, config.model)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    channels = config.model.latent_channels
    state |= {"latent_mean_C": torch.zeros(channels), "latent_std_C": torch.ones(channels)}
    if vae_target is not None:
        _write(_take_vae(weights, source), vae_target, {})
    _write(state, target, {"config": json.dumps(config.to_dict())})
    return {"written": str(target), "num_parameters": _count(state) - 2 * channels, "unused_keys": unused}


def export(source: Path, target: Path, base: Path | None = None) -> dict[str, Any]:
    """Write one of our checkpoints under the reference's names and return what was done.

    Args:
        source: the checkpoint, or its run.
        target: file to write.
        base: where the weights lie that its adapters correct, if it has any; None: where its run found them.
    """
    model: SongModel = load_model(source, base=base)[0]
    state = export_reference(model)
    _write(state, target, {"phonemes": model.config.conditions.phonemes})
    return {"written": str(target), "num_parameters": sum(parameter.numel() for parameter in model.parameters())}


def merge(source: Path, target: Path, base: Path | None = None) -> dict[str, Any]:
    """Write one of our checkpoints as whole weights under our names; arguments as of `export`."""
    model, config = load_model(source, base=base)
    _write(model.state_dict(), target, {"config": json.dumps(replace(config, finetune=FinetuneConfig()).to_dict())})
    return {"written": str(target), "num_parameters": sum(parameter.numel() for parameter in model.parameters())}


def export_adapters(source: Path, folder: Path) -> dict[str, Any]:
    """Write the adapters of a checkpoint, and its new codebook, as peft does, and return what was done.

    Source: peft's documentation, "PEFT checkpoint format": base_model.model.<matrix>.lora_A.weight [R, I] and
    .lora_B.weight [O, R]; other parameters under their own names after the same prefix.
    """
    file = find_weights(source)
    _, metadata = read_header(file)
    config = read_config(file, metadata)
    finetune = config.finetune
    if not finetune.lora_rank:
        raise CheckpointError(f"{file} has no adapters: its finetune.lora_rank is 0")
    suffixes = dict(zip(ADAPTER_NAMES, ("lora_A.weight", "lora_B.weight"), strict=True))
    tensors, matrices, others = {}, [], set()
    for name, tensor in read_tensors(file):
        owner, _, last = name.rpartition(".")
        if last in suffixes:
            tensors[f"{PEFT_ROOT}{owner}.{suffixes[last]}"] = tensor
            matrices.append(owner)
        elif finetune.new_codebook and name in CODEBOOK_PARAMETERS:
            tensors[f"{PEFT_ROOT}{name}"] = tensor
            others.add(owner)
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": finetune.weights,
        "r": finetune.lora_rank,
        "lora_alpha": finetune.lora_alpha,
        "lora_dropout": finetune.lora_dropout,
        "target_modules": sorted(set(matrices)),
        "modules_to_save": sorted(others) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    _write(tensors, folder / "adapter_model.safetensors", {})
    with open_atomic(folder / "adapter_config.json") as json_file:
        json_file.write(json.dumps(described, indent=1).encode() + b"\n")
    return {"written": str(folder), "num_parameters": _count(tensors)}


def _take_vae(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return copies of the VAE's tensors in float32: in the file several may share their values."""
    vae = {key: value for key, value in weights.items() if key.startswith(VAE_ROOT)}
    if not vae:
        raise WeightsError(f"{source}: holds no VAE, leave out --vae-out")
    for key, value in vae.items():
        if value.is_complex():
            raise WeightsError(f"{source}: {key} is of type {value.dtype}, expected real numbers")
    return {key: value.to(torch.float32, copy=True).contiguous() for key, value in vae.items()}


def _count(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _write(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write float32 weights so that the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(
            {key: value.float().contiguous() for key, value in tensors.items()}, partial, {"format": "pt", **metadata}
        )
        sync(partial)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    taking = commands.add_parser("import", help="from the reference's names to ours")
    taking.add_argument("source", type=Path, help="released checkpoint")
    taking.add_argument(
        "--config", default="full.yaml", help="sizes: a path, else in model/configs/ (default: full.yaml)"
    )
    taking.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of it")
    taking.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    taking.add_argument("--vae-out", type=Path, help="file for the checkpoint's own VAE")
    texts = {"export": "from our names to the reference's", "merge": "adapters and their base to whole weights"}
    for name, text in texts.items():
        giving = commands.add_parser(name, help=text)
        giving.add_argument("source", type=Path, help="a run's folder, a checkpoint's folder, or a .safetensors file")
        giving.add_argument("--base", type=Path, help="weights that its adapters correct (default: as its run named)")
        giving.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parting = commands.add_parser("adapters", help="adapters alone, for peft")
    parting.add_argument("source", type=Path, help="a run's folder, a checkpoint's folder, or a .safetensors file")
    parting.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        if options.command == "import":
            done = import_reference(
                options.source, load_config(options.config, options.set), options.out, options.vae_out
            )
        elif options.command == "adapters":
            done = export_adapters(options.source, options.out)
        else:
            done = (export if options.command == "export" else merge)(options.source, options.out, options.base)
    except (WeightsError, CheckpointError, ConfigError, OSError) as error:
        sys.stderr.write(f"model.convert: {error}\n")
        return 2
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
