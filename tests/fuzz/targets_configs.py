"""Targets: JSON and YAML that say what data sets, models, checkpoints and runs are, and what a hub answers."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import requests
import torch
from huggingface_hub import hf_api
from safetensors.torch import save

from jobs.song_orders import read_orders
from model.network.config import ConfigError
from model.settings.settings import config_from_dict, load_config
from model.settings.strict_yaml import read_yaml
from model.weights.checkpoint import CheckpointError, list_checkpoints, read_state
from pipeline.cleaning.records import read_record, record_path
from pipeline.encoding.codebook import Codebook
from pipeline.encoding.vae_checkpoint import parse_config
from pipeline.input_file import InputError
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.hub import HubError, HubName, list_remote
from pipeline.model_files.stage_files import read_bag
from shards.dataset_info import read_dataset_info
from shards.schema import ShardError

from .target import Target, in_file, scratch
from .targets_files import dataset


def _configs() -> list[bytes]:
    return [
        b"model:\n  dim: 1.0e-4\n  list: [1, a, 2:3]\n",
        b"x: &a {b: *a}\n<<: {c: d}\n",
        b"? - a\n: !!int '3'\n--- \n% x\n\"\\u0041\": |\n  text\n",
        b"model: {dim: 8, layers: [1]}\noptimizer: {lr: 1e-4}\ntrainer: {batch_size: 3, precision: bf16}\n",
    ]


def _checkpoint(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that reads a checkpoint's folder in which one file is these bytes."""
    return in_file(f"{name}/step_000001/{name}", lambda path: read(path.parent))


def _states() -> list[bytes]:
    state = {
        "global_step": 1, "seed": 0, "dataset_fingerprint": "x", "first_loss": 1.0, "first_val_loss": None,
        "last_val_loss": None, "losses": [1.0, 2.0], "denied_songs": ["a"],
    }  # fmt: skip
    return [json.dumps({"state": state, "config": {"model": {"dim": 64}, "seed": 1}}).encode()]


def _markers() -> list[bytes]:
    files = {name: {"bytes": 0, "sha256": "0" * 64} for name in ("model.safetensors", "state.json")}
    return [json.dumps({"files": files}).encode()]


def _codebook(path: Path) -> Codebook:
    weights = path.parent / "model.safetensors"
    if not weights.exists():
        shapes = {"codes": (4, 2), "project_in": (2, 3), "project_out": (3, 2), "bias_out": (3,), "center": (3,)}
        weights.write_bytes(save({name: torch.eye(*shape) if len(shape) == 2 else torch.zeros(shape)
                                  for name, shape in shapes.items()}))  # fmt: skip
    return Codebook.load(path.parent)


def _codebook_configs() -> list[bytes]:
    sizes = {"feature_dim": 3, "codebook_dim": 2, "codebook_size": 4}
    return [json.dumps({"model_type": "cosine_codebook", "metadata": {"layer": 6}, **sizes}).encode()]


def _vae_configs() -> list[bytes]:
    diffusers = {
        "encoder_hidden_size": 128, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2], "decoder_channels": 128,
        "decoder_input_channels": 64, "audio_channels": 2, "sampling_rate": 48_000,
    }  # fmt: skip
    part = {
        "in_channels": 2,
        "channels": 128,
        "c_mults": [1, 2],
        "strides": [2, 4],
        "latent_dim": 128,
        "use_snake": True,
    }
    model = {
        "encoder": {"type": "oobleck", "config": part}, "decoder": {"type": "oobleck", "config": part},
        "bottleneck": {"type": "vae"}, "latent_dim": 64, "downsampling_ratio": 8, "io_channels": 2,
    }  # fmt: skip
    stable = {"model_type": "autoencoder", "sample_rate": 48_000, "audio_channels": 2, "model": model}
    return [json.dumps(config).encode() for config in (diffusers, stable)]


def _ask_hub(data: bytes) -> None:
    response = requests.Response()
    response.status_code, response._content, response.url = 200, data, "http://localhost/api"
    session = SimpleNamespace(get=lambda *_, **__: response)
    with mock.patch.object(hf_api, "get_session", return_value=session):
        list_remote(HubName("owner/model"), "codebook")


def _hub_answers() -> list[bytes]:
    siblings = [
        {"rfilename": "config.json", "size": 10, "blobId": "0" * 40},
        {"rfilename": "model.safetensors", "size": 9, "lfs": {"sha256": "0" * 64, "size": 9, "pointerSize": 9}},
    ]
    answer = {
        "_id": "1", "id": "owner/model", "sha": "0" * 40, "private": False, "gated": False, "siblings": siblings,
        "cardData": {"license": "mit"}, "lastModified": "2024-01-01T00:00:00.000Z", "tags": ["x"], "downloads": 1,
    }  # fmt: skip
    return [json.dumps(answer).encode(), b'{"id": "a/b", "siblings": [{"rfilename": "config.json"}]}']


def _orders(path: Path) -> object:
    (path.parent / "a.txt").write_text("[verse] la la.") if not (path.parent / "a.txt").exists() else None
    return read_orders(argparse.Namespace(batch=path, seed=0))


def _record(data: bytes) -> object:
    path = record_path(scratch(), "a")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return read_record(scratch(), "a")


CONFIG_TARGETS = (
    Target(
        name="config.yaml",
        run=in_file("config.yaml", read_yaml),
        errors=(ConfigError,),
        seeds=lambda: _configs()[:3],
        modules=("model.settings.strict_yaml", "yaml"),
        max_bytes=1 << 9,
    ),
    Target(
        name="run.yaml",
        run=in_file("run.yaml", load_config),
        errors=(ConfigError,),
        seeds=lambda: _configs()[3:],
        modules=("model.settings.strict_yaml", "model.settings.settings", "model.network.config"),
    ),
    Target(
        name="run.json",
        run=in_file("run.json", lambda path: config_from_dict(read_config(path), path.name)),
        errors=(ConfigError, ModelFileError),
        seeds=lambda: [json.dumps(load_config("tiny.yaml").to_dict()).encode()],
        modules=("model.settings.strict_yaml", "model.settings.settings", "model.network.config"),
    ),
    Target(
        name="dataset.json",
        run=in_file("d/dataset.json", lambda path: read_dataset_info(path.parent)),
        errors=(ShardError,),
        seeds=lambda: [dataset()["dataset.json"]],
        modules=("shards.dataset_info",),
    ),
    Target(
        name="checkpoint.state",
        run=_checkpoint("state.json", read_state),
        errors=(CheckpointError,),
        seeds=_states,
        modules=("model.weights.checkpoint", "model.settings.strict_yaml", "model.settings.settings"),
    ),
    Target(
        name="checkpoint.marker",
        run=_checkpoint("complete.json", lambda folder: list_checkpoints(folder.parent)),
        errors=(CheckpointError,),
        seeds=_markers,
        modules=("model.weights.checkpoint",),
    ),
    Target(
        name="config.json",
        run=in_file("config.json", read_config),
        errors=(ModelFileError,),
        seeds=lambda: [json.dumps({"a": [1, None, {"b": 1e9}]}).encode()],
        modules=("pipeline.model_files.config_files",),
    ),
    Target(
        name="codebook.config",
        run=in_file("codebook/config.json", _codebook),
        errors=(ModelFileError,),
        seeds=_codebook_configs,
        modules=("pipeline.encoding.codebook", "pipeline.model_files"),
    ),
    Target(
        name="vae.config",
        run=in_file("vae.json", lambda path: parse_config(read_config(path), path)),
        errors=(ModelFileError,),
        seeds=_vae_configs,
        modules=("pipeline.encoding.vae_checkpoint",),
    ),
    Target(
        name="bag.yaml",
        run=in_file("bag.yaml", read_bag),
        errors=(ModelFileError,),
        seeds=lambda: [b"models: ['955717e8', abc]\nweights:\n  - [1., 0.]\nsegment: 44\n"],
        modules=("pipeline.model_files.stage_files", "yaml"),
        max_bytes=1 << 9,
    ),
    Target(
        name="hub.json",
        run=_ask_hub,
        errors=(HubError,),
        seeds=_hub_answers,
        modules=("pipeline.model_files.hub", "huggingface_hub.hf_api"),
    ),
    Target(
        name="orders.jsonl",
        run=in_file("orders/orders.jsonl", _orders),
        errors=(InputError,),
        seeds=lambda: [b'{"lyrics": "a.txt", "prompt": "p.wav", "out": "o.wav", "seed": 3, "continue_at": 1.5}\n'],
        modules=("jobs.song_orders",),
    ),
    Target(
        name="record.json",
        run=_record,
        errors=(),
        seeds=lambda: [b'{"song_id": "a", "fingerprint": "0", "quarantine": "x"}'],
        modules=("pipeline.cleaning.records",),
    ),
)
