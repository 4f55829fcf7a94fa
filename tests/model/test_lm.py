"""Tests of model/lm.py."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from model.attention import PackedCausal, rotary_table
from model.config import ModelConfig
from model.lm import LmLayer


def test_a_layer_matches_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    weights = {key.removeprefix("lm/w/"): value for key, value in parts.items() if key.startswith("lm/w/")}
    layer = LmLayer(ModelConfig(dim=128, num_heads=2, ffn_scale=2))
    layer.load_state_dict(
        {
            "attention_norm.weight": weights["input_layernorm.weight"],
            "attention.qkv.weight": torch.cat([weights[f"self_attn.{part}_proj.weight"] for part in "qkv"]),
            "attention.out.weight": weights["self_attn.o_proj.weight"],
            "ffn_norm.weight": weights["post_attention_layernorm.weight"],
            "ffn.gate_up.weight": torch.cat([weights[f"mlp.{part}_proj.weight"] for part in ("gate", "up")]),
            "ffn.down.weight": weights["mlp.down_proj.weight"],
        }
    )
    assert_close(layer.attention_norm(parts["lm/x"]), parts["lm/rmsnorm_out"])
    rotary = rotary_table(torch.arange(24), 64, 10_000.0)
    for x, expected in zip(parts["lm/x"], parts["lm/layer_out"], strict=True):
        assert_close(layer(x, rotary, partial(PackedCausal([24]), 0)), expected, rtol=1e-5, atol=1e-5)
