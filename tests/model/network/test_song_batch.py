"""Tests of model/network/song_batch.py."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from model.network.config import ModelConfig
from model.network.song_batch import BatchError, SongBatch

NUM_LYRICS = (5, 9, 4)


def damage(batch: SongBatch, name: str, index: tuple[int, ...], value: float) -> SongBatch:
    tensor = getattr(batch, name).clone()
    tensor[index] = value
    return replace(batch, **{name: tensor})


def test_a_good_batch_passes(tiny_config: ModelConfig, make_batch: Callable[..., SongBatch]) -> None:
    make_batch(num_lyrics=NUM_LYRICS).validate(tiny_config)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("num_frames_B", (1,), 6, "song-1: 6 frames, expected a multiple of block_frames 4 from 4 to 12"),
        ("num_frames_B", (1,), 0, "song-1: 0 frames"),
        ("num_frames_B", (2,), 16, "song-2: 16 frames"),
        ("semantic_tokens_BT", (0, 3), 20, "song-0: semantic token 20 at position 3 is outside 0..19"),
        ("semantic_tokens_BT", (1, 5), 3, "song-1: after its 4 frames stand ids other than EOS, 20"),
        ("lyric_ids_BL", (1, 2), 12, "song-1: lyric id 12 at position 2 is outside 0..11"),
        ("lyric_ids_BL", (2, 4), 5, "song-2: after its 4 lyric symbols stand ids other than -1"),
        ("latents_BTC", (2, 5, 1), float("nan"), "song-2: latents not finite at frame 5, in 1 frames"),
        ("prompts_BNC", (0, 4, 0), float("inf"), "song-0: prompt not finite at frame 4"),
        ("num_lyrics_B", (0,), 11, "song-0: 11 lyric symbols, the budget max_lyric_tokens is 10"),
        ("num_lyrics_B", (0,), 10, "song-0: 10 lyric symbols, expected 1 to 9"),
        ("num_lyrics_B", (2,), 0, "song-2: 0 lyric symbols, expected 1 to 9"),
        ("num_prompt_frames_B", (2,), 7, "song-2: prompt of 7 frames, expected 0 to 6"),
    ],
)
def test_bad_songs_are_named(
    tiny_config: ModelConfig,
    make_batch: Callable[..., SongBatch],
    name: str,
    index: tuple[int, ...],
    value: float,
    message: str,
) -> None:
    with pytest.raises(BatchError, match=message):
        damage(make_batch(num_lyrics=NUM_LYRICS), name, index, value).validate(tiny_config)


def test_shapes_must_agree(tiny_config: ModelConfig, make_batch: Callable[..., SongBatch]) -> None:
    batch = make_batch()
    with pytest.raises(BatchError, match=r"latents_BTC has shape \(3, 8, 3\), expected \(3, 12, 3\)"):
        replace(batch, latents_BTC=batch.latents_BTC[:, :8]).validate(tiny_config)
    with pytest.raises(BatchError, match="padded to 10 frames, expected a multiple of block_frames 4"):
        replace(
            batch, semantic_tokens_BT=batch.semantic_tokens_BT[:, :10], latents_BTC=batch.latents_BTC[:, :10]
        ).validate(tiny_config)


def test_counts_stay_where_they_are(make_batch: Callable[..., SongBatch]) -> None:
    moved = make_batch().to("meta", torch.bfloat16)
    assert moved.latents_BTC.is_meta
    assert moved.latents_BTC.dtype == torch.bfloat16
    assert moved.num_frames_B.tolist() == [12, 4, 8]
