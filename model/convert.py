"""Between our checkpoints and the reference's: `python -m model.convert import FILE`, `... export CHECKPOINT`.

import: a released checkpoint (.pt, .ckpt or .safetensors) becomes weights that jobs/generate.py reads. Where such a
checkpoint holds its VAE too, --vae-out writes that to a file of its own, for --vae of the jobs.
export: our weights under the reference's names.

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

from model.checkpoint import CheckpointError, load_model
from model.config import ConfigError
from model.reference_weights import WeightsError, export_reference, from_reference, read_weights
from model.settings import RunConfig, load_config
from model.song_model import SongModel
from shards.atomic_file import sync

VAE_ROOT = "vae."


def import_reference(source: Path, config: RunConfig, target: Path, vae_target: Path | None = None) -> dict[str, Any]:
    """Write a reference checkpoint under our names, with its configuration, and return what was done.

    Args:
        source: the reference checkpoint.
        config: gives the sizes; conditions are read as released weights need them.
        target: file to write.
        vae_target: where the checkpoint's own VAE goes; None: it is left out.
    """
    weights = read_weights(source)
    released = replace(config.model.conditions, padding="fixed", null_lyrics="padding_symbol")
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


def export(source: Path, target: Path) -> dict[str, Any]:
    """Write one of our checkpoints under the reference's names and return what was done."""
    model: SongModel = load_model(source)[0]
    state = export_reference(model)
    _write(state, target, {})
    return {"written": str(target), "num_parameters": sum(parameter.numel() for parameter in model.parameters())}


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
    giving = commands.add_parser("export", help="from our names to the reference's")
    giving.add_argument("source", type=Path, help="a run's folder, a checkpoint's folder, or a .safetensors file")
    giving.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        if options.command == "import":
            done = import_reference(
                options.source, load_config(options.config, options.set), options.out, options.vae_out
            )
        else:
            done = export(options.source, options.out)
    except (WeightsError, CheckpointError, ConfigError, OSError) as error:
        sys.stderr.write(f"model.convert: {error}\n")
        return 2
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
