"""Weights under the key names of the public SongBloom checkpoints, in and out.

The networks are the same; the names differ, and the reference keeps as separate matrices what we fuse into one.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.network.config import ModelConfig
from model.network.song_model import SongModel
from model.weights.weights_file import FLOAT_TYPES
from shards.tensor_files import LOAD_ERRORS, check_safetensors_file, check_torch_file

ROOT = "model."  # released checkpoints are of a trainer whose `model` attribute is the network
FROZEN_ZEROS = ("blank_emb", "beta")  # last parts of keys that the reference stores and never trains away from zero

_CONDITIONERS = "condition_provider.conditioners"
_SINGLE = {
    "bos_D": "bos_token",
    "semantic_table.weight": "skeleton_emb.weight",
    "semantic_head.transform.weight": "skeleton_classifier.0.weight",
    "semantic_head.classify.weight": "skeleton_classifier.2.weight",
    "semantic_head.classify.bias": "skeleton_classifier.2.bias",
    "encode_block.0.weight": "block_conv.1.weight",
    "encode_block.0.bias": "block_conv.1.bias",
    "encode_block.2.weight": "block_conv.3.weight",
    "encode_block.2.bias": "block_conv.3.bias",
    "dit.project_in.weight": "project_in.weight",
    "dit.project_in.bias": "project_in.bias",
    "dit.project_out.weight": "project_out.weight",
    "dit.project_out.bias": "project_out.bias",
    "dit.embed_time.frequencies_Q1": "timestep_features.weight",
    "dit.embed_time.expand.weight": "to_timestep_embed.0.weight",
    "dit.embed_time.project.weight": "to_timestep_embed.2.weight",
    "dit.embed_time.project.bias": "to_timestep_embed.2.bias",
    "conditioner.embed_lyrics.symbols.weight": f"{_CONDITIONERS}.lyrics.output_proj.weight",
    "conditioner.embed_lyrics.sentences.weight": f"{_CONDITIONERS}.lyrics.sentence_idx_in_structure_emb.weight",
    "conditioner.project_prompt.weight": f"{_CONDITIONERS}.prompt_wav.output_proj.weight",
    "lm.norm.weight": "ar_transformer.norm.weight",
}
_LM_LAYER = {
    "attention_norm.weight": ["input_layernorm.weight"],
    "attention.qkv.weight": [f"self_attn.{part}_proj.weight" for part in "qkv"],
    "attention.out.weight": ["self_attn.o_proj.weight"],
    "ffn_norm.weight": ["post_attention_layernorm.weight"],
    "ffn.gate_up.weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
    "ffn.down.weight": ["mlp.down_proj.weight"],
}
_DIT_LAYER = {
    "attention_norm.weight": ["pre_norm.gamma"],
    "attention.qkv.weight": ["self_attn.to_qkv.weight"],
    "attention.out.weight": ["self_attn.to_out.weight"],
    "ffn_norm.weight": ["ff_norm.gamma"],
    "ffn.gate_up.weight": ["ff.ff.0.gate_proj.weight", "ff.ff.0.up_proj.weight"],
    "ffn.down.weight": ["ff.ff.2.weight"],
}
_DIT_MODULATION = {"modulation.project.weight": ["to_scale_shift_gate.1.weight"]}


class WeightsError(ValueError):
    """Weights that do not fit the model."""


def key_map(config: ModelConfig) -> dict[str, list[str]]:
    """Return, for each of our parameters, the reference's keys whose rows it stacks, in order."""
    names = {ours: [theirs] for ours, theirs in _SINGLE.items()}
    dit_layer = _DIT_LAYER | (_DIT_MODULATION if config.time_conditioning == "adaln" else {})
    stacks = (("lm", "ar_transformer", config.lm_layers, _LM_LAYER), ("dit", "nar_dit", config.dit_layers, dit_layer))
    for ours, theirs, num_layers, layer_names in stacks:
        for number in range(num_layers):
            for name, parts in layer_names.items():
                names[f"{ours}.layers.{number}.{name}"] = [f"{theirs}.layers.{number}.{part}" for part in parts]
    return names


def from_reference(weights: Mapping[str, Tensor], config: ModelConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Rename reference weights to ours.

    Returns:
        our parameters by name, and the keys that were not used: the VAE, and second copies of it.

    Raises:
        WeightsError: a key is missing or unknown, or a tensor that must be zero is not.
    """
    weights = _strip_root(weights)
    num_layers = config.lm_layers + config.dit_layers
    if num_layers > len(weights):  # even without memory a layer takes time to describe
        raise WeightsError(f"reference weights: {len(weights)} keys are too few for {num_layers} layers")
    names, shapes = key_map(config), _shapes(config)
    missing = sorted({key for keys in names.values() for key in keys} - weights.keys())
    if missing:
        raise WeightsError(f"reference weights: {len(missing)} keys are missing, first {missing[0]}")
    unused = sorted(key for key in weights if key.startswith("vae.") or ".tokenizer." in key)
    unknown = sorted(weights.keys() - shapes.keys() - set(unused))
    if unknown:
        raise WeightsError(f"reference weights: {len(unknown)} unknown keys, first {unknown[0]}")
    _check_tensors({key: weights[key] for key in sorted(weights.keys() & shapes.keys())}, shapes)
    return {name: torch.cat([weights[key] for key in keys]) for name, keys in names.items()}, unused


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a reference checkpoint, without memory."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in export_reference(SongModel(config)).items()}


def _check_tensors(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsError naming the first tensor of another shape or type, or that is not finite."""
    for key, tensor in weights.items():
        if tuple(tensor.shape) != shapes[key]:
            raise WeightsError(
                f"reference weights: {key} has shape {tuple(tensor.shape)}, this model expects {shapes[key]}"
            )
        if tensor.dtype not in FLOAT_TYPES.values() or tensor.layout != torch.strided:
            raise WeightsError(f"reference weights: {key} is of type {tensor.dtype}, expected floats")
        if not tensor.isfinite().all():
            raise WeightsError(f"reference weights: {key} holds values that are not finite")
        if key.rsplit(".", 1)[-1] in FROZEN_ZEROS and tensor.any():
            raise WeightsError(f"reference weights: {key} is expected to be all zeros, this model has no place for it")


def to_reference(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename tensors shaped like our parameters (weights or gradients) to reference keys; the rest is left out."""
    renamed = {}
    for name, keys in key_map(config).items():
        for key, part in zip(keys, tensors[name].chunk(len(keys)), strict=True):
            renamed[key] = part.contiguous()
    return renamed


def load_reference(model: SongModel, path: Path) -> list[str]:
    """Load a reference checkpoint into `model`, upcast to its precision; return the unused keys."""
    try:
        state, unused = from_reference(read_weights(path), model.config)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    model.load_state_dict(state, strict=False)
    return unused


def export_reference(model: SongModel) -> dict[str, Tensor]:
    """Return the weights under reference keys, with the zero tensors that the reference expects.

    Raises:
        WeightsError: the model whitens latents. The reference has no place for that: its noise has unit variance in
            raw latents, its first block follows zeros in raw latents, and its prompt projection has no bias.
    """
    if not model.latent_mean_C.is_meta and (model.latent_mean_C.any() or (model.latent_std_C != 1).any()):
        raise WeightsError(
            "this model was trained on whitened latents, which reference checkpoints cannot express; "
            "train with mean 0 and standard deviation 1 to export, or export to our own names"
        )
    config = model.config
    weights = to_reference({name: parameter.detach() for name, parameter in model.named_parameters()}, config)
    zeros = {key: torch.zeros_like(weights[key]) for key in weights if key.endswith(".gamma")}
    weights |= {re.sub(r"gamma$", "beta", key): value for key, value in zeros.items()}
    weights[f"{_CONDITIONERS}.lyrics.blank_emb"] = model.bos_D.new_zeros(1, config.dim)
    return weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a PyTorch file of tensors and plain values; no code in it is run.

    The tensors are views on the file where that is possible.

    Raises:
        WeightsError: no such file, or it is damaged, holds more, or is a compressed archive, which may unpack to any
            size.
    """
    try:
        if path.suffix == ".safetensors":
            check_safetensors_file(path)
            return load_file(path)
        check_torch_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing") from error
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise WeightsError(f"{path} is not a file of weights: {' '.join(str(error).split())}") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise WeightsError(f"{path}: expected a dictionary of tensors, or one under 'state_dict'")
    return weights


def _strip_root(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the trainer's prefix from every key, if the checkpoint has it."""
    if not any(key.startswith(ROOT) for key in weights):
        return dict(weights)
    stripped = {key.removeprefix(ROOT): value for key, value in weights.items()}
    if len(stripped) != len(weights):
        raise WeightsError(f"reference weights: some keys stand there with and without {ROOT!r}, which are meant?")
    return stripped
