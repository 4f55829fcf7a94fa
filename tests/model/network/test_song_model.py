"""Tests of model/network/song_model.py: what may influence what, and that batching and padding change nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from model.network.config import ConfigError, ModelConfig
from model.network.interleave import Packing
from model.network.noise import Draws
from model.network.recompute import Recompute
from model.network.song_batch import SongBatch, count_blocks, mark_blocks
from model.network.song_model import SongModel

MakeModel = Callable[..., SongModel]
MakeBatch = Callable[..., SongBatch]
PickSong = Callable[[SongBatch, int], SongBatch]
DrawFor = Callable[..., Draws]


def influence(output: Tensor, source: Tensor) -> list[bool]:
    """Tell which positions of `source` [1, positions, ...] the output depends on."""
    (gradient,) = torch.autograd.grad(output.sum(), source, retain_graph=True)
    return gradient[0].flatten(1).abs().sum(dim=1).gt(0).tolist()


def test_the_lm_ignores_later_positions(make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor) -> None:
    model, batch = make_model(), make_batch([12], [5], [6])
    body = model.embed_body(batch.semantic_tokens_BT, batch.latents_BTC).detach().requires_grad_()
    prefix = model.encode_conditions(batch, draw_for(batch))
    states = model.run_lm(prefix, body, count_blocks(batch, model.config))
    # The body is 3 rows of a lead and 4 tokens, and a last lead: frame t is predicted at position t + t // 4.
    for frame in range(13):
        position = frame + frame // 4
        assert influence(states.predictors_BTD[:, frame], body) == [index <= position for index in range(16)]
    for block in range(3):
        last_token = 5 * block + 4
        assert influence(states.hidden_BND[:, block], body) == [index <= last_token for index in range(16)]


def test_the_dit_of_a_block_ignores_later_blocks(
    make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor
) -> None:
    model, batch = make_model(), make_batch([12], [5], [6])
    draws = draw_for(batch)
    latents = model.whiten(batch.latents_BTC).requires_grad_()
    states = model.run_lm(
        model.encode_conditions(batch, draws), model.embed_body(batch.semantic_tokens_BT, latents), torch.tensor([3])
    )
    blocks = Packing(mark_blocks(batch, model.config), latents.device)
    velocity = model.estimate_velocity(model.gather_flow_inputs(batch, latents, states.hidden_BND, blocks), draws)
    for block in range(3):
        assert influence(velocity[block], latents) == [frame < 4 * (block + 1) for frame in range(12)]


def test_the_dit_trains_the_lm(make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor) -> None:
    model, batch = make_model(), make_batch()
    model(batch, draw_for(batch)).flow_sum.backward()
    for name in (
        "lm.layers.0.attention.qkv.weight",
        "semantic_table.weight",
        "conditioner.embed_lyrics.symbols.weight",
    ):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert gradient.any(), name


@pytest.mark.parametrize("padding", ["none", "fixed"])
def test_a_batch_equals_its_songs_one_by_one(
    tiny_config: ModelConfig,
    make_model: MakeModel,
    make_batch: MakeBatch,
    pick_song: PickSong,
    draw_for: DrawFor,
    padding: str,
) -> None:
    # In float64: sums of float32 in another order differ by more than these bounds on some processors.
    model = make_model(replace(tiny_config, conditions=replace(tiny_config.conditions, padding=padding))).double()
    batch = make_batch()
    batch = replace(batch, latents_BTC=batch.latents_BTC.double(), prompts_BNC=batch.prompts_BNC.double())
    together = model(batch, draw_for(batch))
    together.loss().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row in range(3):
        song = pick_song(batch, row)
        alone = model(song, draw_for(song, seeds=[row]))
        alone.loss(num_targets=together.num_targets, num_blocks=together.num_blocks).backward()
        for name in ("ce_sum_B", "num_targets_B", "num_correct_B", "flow_sum_B", "num_blocks_B"):
            assert_close(getattr(alone, name)[0], getattr(together, name)[row], rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():  # float32 sums in another order
        assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_counts(make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor) -> None:
    batch = make_batch([12, 4, 8])
    output = make_model()(batch, draw_for(batch))
    assert output.num_targets_B.tolist() == [13, 5, 9]
    assert output.num_blocks_B.tolist() == [3, 1, 2]
    assert (int(output.num_targets), int(output.num_blocks)) == (27, 6)


def test_a_dropped_condition_is_one_that_never_was(
    make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor
) -> None:
    model, batch = make_model(), make_batch([8, 8], [5, 5], [6, 6])
    none = torch.zeros(2, dtype=torch.int64)
    hidden = model(batch, draw_for(batch, drop_conditions_B=torch.tensor([True, False])))
    bare = replace(batch, num_lyrics_B=none, num_prompt_frames_B=none)
    without = model(bare, draw_for(batch))
    full = model(batch, draw_for(batch))
    assert_close(hidden.ce_sum_B, torch.stack([without.ce_sum_B[0], full.ce_sum_B[1]]))
    assert not torch.isclose(without.ce_sum_B[0], full.ce_sum_B[0])
    hidden = model(batch, draw_for(batch, drop_prompt_B=torch.tensor([True, True])))
    assert_close(hidden.ce_sum_B, model(replace(batch, num_prompt_frames_B=none), draw_for(batch)).ce_sum_B)


def test_a_hidden_vector_or_token_does_not_reach_the_dit(
    make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor
) -> None:
    model, batch = make_model(), make_batch([8], [5], [6])
    latents = model.whiten(batch.latents_BTC)
    hidden = torch.randn(1, 2, 64, requires_grad=True)
    draws = draw_for(batch, drop_hidden_N=torch.tensor([True, False]), drop_semantic_N=torch.tensor([False, True]))
    blocks = Packing(mark_blocks(batch, model.config), latents.device)
    inputs = model.gather_flow_inputs(batch, latents, hidden, blocks)
    velocity = model.estimate_velocity(inputs, draws)
    assert influence(velocity.sum(), hidden) == [False, True]
    (gradient,) = torch.autograd.grad(velocity.sum(), inputs.semantic_FPD)
    assert gradient.flatten(1).any(dim=1).tolist() == [True, False]


def test_whitening_undoes_a_change_of_scale(make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor) -> None:
    batch = make_batch()
    expected = make_model()(batch, draw_for(batch))
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 3.0, 2.0])
    model = make_model()
    model.set_latent_statistics(mean, std)
    scaled = replace(batch, latents_BTC=batch.latents_BTC * std + mean, prompts_BNC=batch.prompts_BNC * std + mean)
    output = model(scaled, draw_for(batch))
    assert_close(output.ce_sum_B, expected.ce_sum_B, rtol=1e-5, atol=1e-5)
    assert_close(output.flow_sum_B, expected.flow_sum_B, rtol=1e-5, atol=1e-5)
    assert_close(model.restore(model.whiten(batch.latents_BTC)), batch.latents_BTC)
    with pytest.raises(ConfigError, match="channel 1 is not above 0"):
        model.set_latent_statistics(mean, torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(ConfigError, match=r"latent_mean_C has shape \(2,\)"):
        model.set_latent_statistics(mean[:2], std)


def test_a_bfloat16_model_keeps_exact_statistics_and_trains(
    make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor
) -> None:
    model, batch = make_model(), make_batch()
    exact = torch.tensor([0.1, 0.2, 0.3])
    model.set_latent_statistics(exact, exact)
    expected = model(batch, draw_for(batch))
    model.bfloat16()
    assert_close(model.latent_std_C, exact, rtol=0, atol=0)
    output = model(batch, draw_for(batch))
    assert output.loss().dtype == torch.float32
    assert_close(output.loss(), expected.loss(), rtol=0.03, atol=0.0)  # 8 bits through four layers
    output.loss().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_autocast_trains_too(make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor) -> None:
    model, batch = make_model(), make_batch()
    expected = model(batch, draw_for(batch)).loss()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch, draw_for(batch)).loss()
    assert_close(loss, expected, rtol=0.03, atol=0.0)
    loss.backward()


@pytest.mark.parametrize("recompute", ["cheap", "selective", True])
@pytest.mark.parametrize("conditioning", ["prepend", "adaln"])
def test_recomputing_changes_no_gradient_and_keeps_less(
    tiny_config: ModelConfig,
    make_model: MakeModel,
    make_batch: MakeBatch,
    draw_for: DrawFor,
    recompute: Recompute,
    conditioning: str,
) -> None:
    config = replace(tiny_config, time_conditioning=conditioning)
    batch = make_batch()
    plain, saving = make_model(config), make_model(config, checkpoint_activations=recompute)
    kept = []
    for model in (plain, saving):
        sizes: list[int] = []
        with saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            loss = model(batch, draw_for(batch)).loss()
        kept.append(sum(sizes))
        loss.backward()
    assert kept[1] < (0.85 if recompute == "cheap" else 0.7) * kept[0]
    for (name, first), second in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert_close(first.grad, second.grad, msg=name)


def test_blocks_left_out_are_no_part_of_the_flow_error(
    make_model: MakeModel, make_batch: MakeBatch, draw_for: DrawFor
) -> None:
    model, batch = make_model(), make_batch([12, 4, 8])
    weights = torch.tensor([0.0, 1.5, 1.5, 1.0, 2.0, 0.0])
    rendered: list[int] = []
    model.dit.register_forward_pre_hook(lambda _, inputs: rendered.append(len(inputs[0])))
    full = model(batch, draw_for(batch))
    alone = [
        model(batch, draw_for(batch, block_weight_N=torch.eye(6)[block])).flow_sum_B for block in range(6)
    ]  # one block at a time
    assert_close(torch.stack(alone).sum(dim=0), full.flow_sum_B)
    found = model(batch, draw_for(batch, block_weight_N=weights))
    assert_close(found.flow_sum_B, (torch.stack(alone) * weights[:, None]).sum(dim=0))
    assert_close(found.ce_sum_B, full.ce_sum_B)
    assert found.num_blocks_B.tolist() == [3, 1, 2]
    assert rendered == [6, *[1] * 6, 4]


def test_the_block_encoder_matches_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    latents = parts["block/x_latent"]  # [songs, channels, frames]
    encode = SongModel(ModelConfig(dim=128, num_heads=2, block_frames=4, latent_channels=6, lm_layers=1, dit_layers=1))
    encoder = encode.encode_block
    encoder.load_state_dict(
        {
            f"{ours}.{kind}": parts[f"block/w/{theirs}.{kind}"]
            for ours, theirs in ((0, 1), (2, 3))
            for kind in ("weight", "bias")
        }
    )
    body = encode.embed_body(torch.zeros(2, 12, dtype=torch.int64), latents.transpose(1, 2))
    assert_close(body[:, 5::5], parts["block/out"], rtol=1e-5, atol=1e-5)


def test_weights_start_as_the_reference_draws_them(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = SongModel(replace(tiny_config, init_std=0.02))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif parameter.numel() > 1000:
            assert abs(float(parameter.std()) - 0.02) < 0.002, name
    assert not model.conditioner.embed_lyrics.symbols.weight[0].any()
    assert model.dit.layers[0].attention.out.weight.any()
