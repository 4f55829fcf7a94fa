"""A MuQ of two narrow layers, in the layout of the published one, for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from pipeline.encoding.semantic_tokens import MonoAudio
from pipeline.quiet_libraries import without_weight_norm_warning

WIDTH, DEPTH, HOP = 16, 2, 960
CONFIG: dict[str, Any] = {
    "label_rate": 25,
    "codebook_dim": 4,
    "codebook_size": 32,
    "conv_dim": 4,
    "encoder_dim": WIDTH,
    "encoder_depth": DEPTH,
    "rvq_ckpt_path": "/nowhere/rvq.pt",
    "stat": {"melspec_2048_mean": -20.0, "melspec_2048_std": 30.0},
    "w2v2_config": {
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "conformer_conv_dropout": 0.0,
        "conv_depthwise_kernel_size": 7,
        "feat_extract_activation": "gelu",
        "hidden_act": "swish",
        "hidden_dropout": 0.1,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-5,
        "layerdrop": 0.0,
        "num_attention_heads": 2,
        "num_conv_pos_embedding_groups": 2,
        "num_conv_pos_embeddings": 3,
        "position_embeddings_type": "rotary",
        "rotary_embedding_base": 10_000,
    },
}


def make_muq(config: dict[str, Any] = CONFIG) -> Any:
    """Return the package's own model with random weights."""
    from muq import MuQ, MuQConfig

    with torch.random.fork_rng(), without_weight_norm_warning():
        model = MuQ(MuQConfig(**config))
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.3
    return model.eval()


def write_folder(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] = CONFIG) -> Path:
    save_file({key: value.clone() for key, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_audio(num_samples: int, seed: int = 0) -> MonoAudio:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def run_muq(muq: Any, audio: MonoAudio, layer: int) -> np.ndarray:
    with torch.no_grad():
        hidden: torch.Tensor = muq(torch.from_numpy(audio)[None]).hidden_states[layer][0]
    return hidden.numpy()
