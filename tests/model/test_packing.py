"""Packing: every song once, the same number of micro-batches on every rank, and nearly equal work."""

import numpy as np
import pytest

from model.config import ModelConfig
from model.packing import count_tokens, share_by_tokens, share_slots
from model.settings import load_config
from model.size import count_positions


@pytest.mark.parametrize("num_slots", [1, 4, 5, 9])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_slots_are_shared_without_loss(num_slots: int, world_size: int, micro_batch_size: int):
    work = [float(10 + 7 * slot % 5) for slot in range(num_slots)]
    ranks = share_slots(work, micro_batch_size, world_size)
    counted = [slot for rank in ranks for share in rank if not share.is_repeat for slot in share.slots]
    assert sorted(counted) == list(range(num_slots))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(0 < len(share.slots) <= micro_batch_size for rank in ranks for share in rank)


@pytest.mark.parametrize("world_size", [8, 16])
def test_ranks_get_equal_work(world_size: int):
    """128 songs of 60 to 150 s: no rank has 1 % more than the mean; dealt in order, one has 8 % more."""
    frames = np.random.default_rng(0).uniform(1500, 3750, (20, 128))
    dealt = [
        [sum(work[slot] for share in rank for slot in share.slots) for rank in share_slots(work, 2, world_size)]
        for work in frames.tolist()
    ]
    in_order = frames.reshape(20, -1, world_size).sum(axis=1)
    assert (np.max(dealt, axis=1) / np.mean(dealt, axis=1)).max() < 1.01
    assert (in_order.max(axis=1) / in_order.mean(axis=1)).mean() > 1.08


def test_micro_batches_at_the_same_time_are_alike():
    work = np.random.default_rng(1).uniform(1500, 3750, 128).tolist()
    ranks = share_slots(work, 2, 8)
    for shares in zip(*ranks, strict=True):
        sums = [sum(work[slot] for slot in share.slots) for share in shares]
        assert max(sums) < 1.15 * min(sums)


@pytest.mark.parametrize("num_slots", [1, 2, 7, 40])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_a_budget_of_tokens_is_kept(num_slots: int, world_size: int, micro_batch_size: int):
    generator = np.random.default_rng([num_slots, world_size])
    for budget in (4835, 9000, 14_800):
        tokens = generator.integers(2400, 4836, num_slots).tolist()
        work = [float(count) for count in tokens]
        ranks = share_by_tokens(work, tokens, budget, world_size, micro_batch_size)
        assert ranks == share_by_tokens(work, tokens, budget, world_size, micro_batch_size)
        shares = [share for rank in ranks for share in rank]
        counted = [slot for share in shares if not share.is_repeat for slot in share.slots]
        assert sorted(counted) == list(range(num_slots))
        assert len({len(rank) for rank in ranks}) == 1
        assert all(sum(tokens[slot] for slot in share.slots) <= budget for share in shares)
        assert all(0 < len(share.slots) <= (micro_batch_size or num_slots) for share in shares)
        fewest = -(-num_slots // (world_size * min(micro_batch_size or num_slots, budget // 4835)))
        assert len(ranks[0]) <= fewest, "as many of the longest as fit, on every rank"


def test_songs_of_the_same_length_fill_a_budget():
    ranks = share_by_tokens([1.0] * 12, [4835] * 12, 3 * 4835, 2)
    assert [len(share.slots) for rank in ranks for share in rank] == [3, 3, 3, 3]


def test_tokens_are_positions_of_the_lm():
    model: ModelConfig = load_config("full.yaml").model
    for num_frames in (1500, 3750):
        assert count_tokens(model, num_frames) == count_positions(model, num_frames, 600, 250)[0]
