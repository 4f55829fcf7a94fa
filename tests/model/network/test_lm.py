"""Tests of model/network/lm.py."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from model.network.attention import PackedCausal, rotary_table
from model.network.config import ModelConfig
from model.network.lm import LmLayer
from model.network.losses import PLAIN


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


@pytest.mark.parametrize("chunk_positions", [3, 100])
def test_outputs_are_padded_in_compute_alone(make_model, tiny_config, chunk_positions: int) -> None:
    head = make_model().semantic_head
    torch.manual_seed(0)
    head.chunk_positions = chunk_positions
    assert head.classify.weight.shape == (21, 64), "20 codes and EOS in checkpoints"
    states, targets = torch.randn(7, 64, requires_grad=True), torch.tensor([0, 20, 3, 20, 7, 1, 19])
    logits = head(states)
    assert logits.shape == (7, 21)
    expected = cross_entropy(logits, targets, reduction="none")
    inputs = [states, *head.parameters()]
    expected_gradients = torch.autograd.grad(expected.square().sum(), inputs)
    widths: list[int] = []

    def watch(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        widths.append(logits.shape[-1])
        return PLAIN.score(logits, targets)

    head.kernels = replace(PLAIN, score=watch)
    ce, is_correct = head(states, targets)
    assert set(widths) == {64}
    assert_close(ce, expected, rtol=1e-6, atol=1e-6)
    assert is_correct.tolist() == (logits.argmax(dim=-1) == targets).tolist()
    for found, gradient in zip(torch.autograd.grad(ce.square().sum(), inputs), expected_gradients, strict=True):
        assert_close(found, gradient, rtol=1e-5, atol=1e-6)
