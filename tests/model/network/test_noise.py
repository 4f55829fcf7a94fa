"""Tests of model/network/noise.py."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from model.network.config import DropoutConfig, ModelConfig
from model.network.noise import draw, draw_block


def test_a_songs_draws_do_not_depend_on_its_company(tiny_config: ModelConfig) -> None:
    alone = draw([7], [5], tiny_config)
    among = draw([3, 7, 4], [2, 5, 9], tiny_config)
    blocks = slice(2, 7)
    assert_close(among.time_N[blocks], alone.time_N, rtol=0, atol=0)
    assert_close(among.noise_NPC[blocks], alone.noise_NPC, rtol=0, atol=0)
    assert among.drop_hidden_N[blocks].tolist() == alone.drop_hidden_N.tolist()
    assert among.drop_semantic_N[blocks].tolist() == alone.drop_semantic_N.tolist()
    assert bool(among.drop_conditions_B[1]) == bool(alone.drop_conditions_B[0])
    assert bool(among.drop_prompt_B[1]) == bool(alone.drop_prompt_B[0])


def test_every_bit_of_a_seed_counts(tiny_config: ModelConfig) -> None:
    first, second = (draw([seed], [1], tiny_config).noise_NPC for seed in (5, 5 + 2**40))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="song seed -1 is negative"):
        draw([-1], [1], tiny_config)


def test_distributions(tiny_config: ModelConfig) -> None:
    draws = draw([1], [20_000], tiny_config)
    logits = draws.time_N.logit()
    assert abs(float(logits.mean())) < 0.03  # 4 standard errors of 20000 normals
    assert abs(float(logits.std()) - 1) < 0.03
    assert abs(float(draws.noise_NPC.std()) - 1) < 0.01
    assert draws.time_N.dtype == draws.noise_NPC.dtype == torch.float32


def test_songs_are_dropped_at_their_rates(tiny_config: ModelConfig) -> None:
    draws = draw(range(4000), [1] * 4000, tiny_config)
    both = draws.drop_conditions_B & draws.drop_prompt_B
    for mask, rate in ((draws.drop_conditions_B, 0.1), (draws.drop_prompt_B, 0.1), (both, 0.01)):
        assert abs(float(mask.float().mean()) - rate) < 0.02


@pytest.mark.parametrize(
    ("mode", "hidden_only", "semantic_only", "both"),
    [("joint", 0.0, 0.95 * 0.2, 0.05), ("independent", 0.05 * 0.8, 0.95 * 0.2, 0.05 * 0.2)],
)
def test_blocks_are_dropped_in_both_modes(
    tiny_config: ModelConfig, mode: str, hidden_only: float, semantic_only: float, both: float
) -> None:
    config = replace(tiny_config, dropout=DropoutConfig(hidden=0.05, semantic=0.2, mode=mode))
    draws = draw([0], [20_000], config)
    hidden, semantic = draws.drop_hidden_N, draws.drop_semantic_N
    masks = (hidden & ~semantic, ~hidden & semantic, hidden & semantic)
    for mask, rate in zip(masks, (hidden_only, semantic_only, both), strict=True):
        assert abs(float(mask.float().mean()) - rate) < 0.011


def test_without_dropout_only_the_masks_change(tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, dropout=DropoutConfig(conditions=0.9, prompt=0.9, hidden=0.9, semantic=0.9))
    hiding, seeing = (draw([1, 2], [3, 4], config, with_dropout=flag) for flag in (True, False))
    assert_close(seeing.time_N, hiding.time_N)
    assert_close(seeing.noise_NPC, hiding.noise_NPC)
    assert hiding.drop_hidden_N.any()
    for mask in (seeing.drop_conditions_B, seeing.drop_prompt_B, seeing.drop_hidden_N, seeing.drop_semantic_N):
        assert not mask.any()


def test_blocks_left_out_leave_the_expected_flow_error_as_it_is(tiny_config: ModelConfig) -> None:
    thinning = replace(tiny_config, dropout=replace(tiny_config.dropout, blocks=0.5))
    num_blocks = [5, 1, 8]
    weights = torch.stack([draw(range(k, k + 3), num_blocks, thinning).block_weight_N for k in range(0, 3000, 3)])
    assert (weights > 0).sum(dim=1).eq(2 + 1 + 4).all()  # half, rounded, and one at least
    assert_close(weights.sum(dim=1), torch.full((1000,), 14.0))
    assert_close(weights.mean(dim=0), torch.ones(14), rtol=0, atol=0.15)  # every block counts once on average
    plain, thinned = (draw(range(3), num_blocks, config) for config in (tiny_config, thinning))
    assert torch.equal(plain.noise_NPC, thinned.noise_NPC)
    assert torch.equal(plain.drop_hidden_N, thinned.drop_hidden_N)
    assert plain.block_weight_N is None
    assert draw(range(3), num_blocks, thinning, with_dropout=False).block_weight_N is None
    kept = thinned.leave_blocks_out()
    assert torch.equal(kept.time_N, thinned.time_N[thinned.block_weight_N > 0])
    assert len(kept.noise_NPC) == len(kept.block_weight_N) == 7


def test_a_blocks_draws_depend_on_seed_and_number_alone(tiny_config: ModelConfig) -> None:
    uniform, noise = draw_block(3, 5, tiny_config)
    assert uniform.shape == (4,)
    assert ((uniform > 0) & (uniform <= 1)).all()
    assert noise.shape == (4, 3)
    assert torch.equal(noise, draw_block(3, 5, tiny_config)[1])
    others = [draw_block(seed, block, tiny_config)[1] for seed, block in ((3, 4), (5, 3), (2**70 + 3, 5))]
    assert not any(torch.equal(noise, other) for other in others)
    with pytest.raises(ValueError, match="song seed -1 is negative"):
        draw_block(-1, 0, tiny_config)
