"""Tests of model/network/dit.py."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from model.network.attention import rotary_table
from model.network.config import ModelConfig
from model.network.dit import DitLayer, TimeEmbedding
from model.network.song_model import SongModel


def load_layer(layer: DitLayer, parts: dict[str, Tensor], root: str) -> None:
    names = {
        "attention_norm.weight": ["pre_norm.gamma"],
        "attention.qkv.weight": ["self_attn.to_qkv.weight"],
        "attention.out.weight": ["self_attn.to_out.weight"],
        "ffn_norm.weight": ["ff_norm.gamma"],
        "ffn.gate_up.weight": ["ff.ff.0.gate_proj.weight", "ff.ff.0.up_proj.weight"],
        "ffn.down.weight": ["ff.ff.2.weight"],
        "modulation.project.weight": ["to_scale_shift_gate.1.weight"],
    }
    own = layer.state_dict()
    layer.load_state_dict({name: torch.cat([parts[f"{root}/w/{key}"] for key in names[name]]) for name in own})


def test_layers_match_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    rotary = rotary_table(torch.arange(24), 32, 20_000.0)
    config = ModelConfig(dim=128, num_heads=2, ffn_scale=2)
    plain, modulated = DitLayer(config), DitLayer(replace(config, time_conditioning="adaln"))
    load_layer(plain, parts, "dit")
    load_layer(modulated, parts, "dit_adaln")
    assert_close(plain.attention_norm(parts["dit/x"]), parts["dit/layernorm_out"])
    time = parts["dit_adaln/global_cond"]
    assert_close(plain(parts["dit/x"], rotary, time), parts["dit/block_out"], rtol=1e-5, atol=1e-5)
    assert_close(modulated(parts["dit_adaln/x"], rotary, time), parts["dit_adaln/block_out"], rtol=1e-5, atol=1e-5)
    for layer in (plain, modulated):
        x = parts["dit/x"]
        assert_close(layer(x, rotary, time, 5), layer(x, rotary, time)[:, -5:], rtol=1e-5, atol=1e-5)


def test_time_embedding_matches_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    embed = TimeEmbedding(ModelConfig(dim=128, num_heads=2))
    embed.load_state_dict(
        {
            "frequencies_Q1": parts["time/fourier_weight"],
            "expand.weight": parts["time/w/0.weight"],
            "project.weight": parts["time/w/2.weight"],
            "project.bias": parts["time/w/2.bias"],
        }
    )
    assert_close(embed.features(parts["time/t"]), parts["time/features"], rtol=1e-5, atol=1e-5)
    assert_close(embed(parts["time/t"]), parts["time/embed"], rtol=1e-5, atol=1e-5)


def test_time_is_not_rounded_in_a_bfloat16_model(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(tiny_config)
    torch.nn.init.normal_(embed.frequencies_Q1)
    embed.bfloat16()
    near = embed.features(torch.tensor([0.5, 0.501]))  # equal in bfloat16, whose neighbour of 0.5 is 0.504
    assert near.dtype == torch.float32
    assert not torch.equal(near[0], near[1])


def test_modulation_replaces_the_time_position(tiny_config: ModelConfig, make_model: Callable[..., SongModel]) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.randn(2, 4, 64), torch.randn(2, 64))
    for conditioning, length in (("prepend", 14), ("adaln", 13)):
        dit = make_model(replace(tiny_config, time_conditioning=conditioning)).dit
        seen = []
        dit.layers[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1]))
        early, late = (dit(*inputs, torch.full((2,), time)) for time in (0.1, 0.9))
        assert seen == [length, length]
        assert not torch.allclose(early, late)
