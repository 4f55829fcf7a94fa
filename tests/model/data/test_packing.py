"""Packing: every song once, the same number of micro-batches on every rank, and nearly equal work."""

import math

import numpy as np
import pytest

from model.data.batches import derive_seed, share_songs
from model.data.crops import CropRules, choose_length, spread
from model.data.packing import share_by_tokens, share_slots
from model.network.config import ModelConfig
from model.network.song_length import count_tokens
from model.settings.settings import load_config
from model.training.size import count_positions


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


def fill(name: str, setting: str, world_size: int) -> float:
    """Return tokens to what the micro-batches of 20 steps of a year may hold: songs of 60 s and more, 200 s on average.

    Where songs are counted instead, a micro-batch may hold that many of the longest.
    """
    config = load_config(name, [setting] if setting else [])
    model, data, generator = config.model, config.data, np.random.default_rng(0)
    rules = CropRules(
        min_frames=int(data.min_crop_s * 25), max_frames=data.max_crop_frames, block_frames=model.block_frames,
        max_lyric_tokens=model.conditions.max_lyric_tokens, seconds_per_tag=data.seconds_per_tag,
    )  # fmt: skip
    room = config.count_longest_songs() * count_tokens(model, data.max_crop_frames)
    held, had = 0, 0.0
    for step in range(0, 150_000, 7_500):
        places = range(step * 128, (step + 1) * 128)
        songs = np.exp(generator.normal(math.log(200) - 0.28**2 / 2, 0.28, 128)).clip(max(60, data.min_crop_s), 600)
        lengths = [
            choose_length(int(25 * song_s), rules, spread(derive_seed(0, "length"), place))
            for song_s, place in zip(songs, places, strict=True)
        ]
        ranks = share_songs(config, lengths, world_size)
        held += sum(count_tokens(model, length) for length in lengths)
        had += room * len(ranks[0]) * world_size
    return held / had


@pytest.mark.parametrize("world_size", [1, 8, 16])
@pytest.mark.parametrize("name", ["full.yaml", "paper.yaml", "tiny.yaml"])
def test_a_years_catalogue_fills_the_budget(name: str, world_size: int):
    by_tokens, by_songs = fill(name, "", world_size), fill(name, "trainer.micro_batch_size=2", world_size)
    assert by_tokens >= 0.95, f"{by_tokens:.3f}"
    assert by_songs < 0.9, f"{by_songs:.3f}"
