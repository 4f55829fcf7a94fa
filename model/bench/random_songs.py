"""Batches of random songs, for measuring and for checks that need no data."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model.network.conditioning import PADDING
from model.network.config import ModelConfig
from model.network.song_batch import SongBatch


def make_songs(
    config: ModelConfig, num_frames: Sequence[int], num_lyrics: Sequence[int], numbers: Sequence[int]
) -> SongBatch:
    """Return songs of random content with the longest prompts; each is a function of its lengths and number alone.

    Args:
        config: the model's shape.
        num_frames: of each song, a multiple of the block.
        num_lyrics: lyric symbols of each song, at least 1.
        numbers: of the songs; what is random about them comes from there.
    """
    conditions = config.conditions
    songs = [_draw_song(config, *song) for song in zip(num_frames, num_lyrics, numbers, strict=True)]
    tokens, latents, lyrics, prompts = (list(parts) for parts in zip(*songs, strict=True))
    batch = SongBatch(
        keys=tuple(f"song-{number}" for number in numbers),
        semantic_tokens_BT=pad_sequence(tokens, batch_first=True, padding_value=config.eos_id),
        latents_BTC=pad_sequence(latents, batch_first=True),
        num_frames_B=torch.tensor(num_frames),
        lyric_ids_BL=pad_sequence(lyrics, batch_first=True, padding_value=PADDING),
        num_lyrics_B=torch.tensor(num_lyrics),
        prompts_BNC=torch.stack(prompts),
        num_prompt_frames_B=torch.full((len(songs),), conditions.prompt_frames),
    )
    batch.validate(config)
    return batch


def _draw_song(config: ModelConfig, num_frames: int, num_lyrics: int, number: int) -> tuple[torch.Tensor, ...]:
    """Return tokens [T], latents [T, C], lyric ids [L] and a prompt [N, C]."""
    random, conditions = np.random.default_rng([number, num_frames, num_lyrics]), config.conditions
    return (
        torch.from_numpy(random.integers(config.codebook_size, size=num_frames)),
        torch.from_numpy(random.standard_normal((num_frames, config.latent_channels), dtype=np.float32)),
        torch.from_numpy(random.integers(1, conditions.vocabulary_size, num_lyrics)),
        torch.from_numpy(random.standard_normal((conditions.prompt_frames, config.latent_channels), dtype=np.float32)),
    )
