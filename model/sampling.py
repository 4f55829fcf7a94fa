"""Write songs: the LM and the DiT take turns, block after block, for several songs at once.

Shape legend: A songs still being written, P frames per block, C latent channels.

Each song draws from a generator of its own, and rows of different lengths never see each other's positions, so a song
comes out the same alone and in any company (up to the rounding of larger matrix products).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model.config import ConfigError, ModelConfig
from model.noise import song_generator
from model.sampling_config import PRESETS, SamplingConfig
from model.song_model import SongModel
from model.song_writer import SongWriter

__all__ = ["PRESETS", "GeneratedSong", "SamplingConfig", "generate"]


@dataclass(frozen=True, slots=True)
class GeneratedSong:
    """One song; no tokens at all if the LM ended it within its first block."""

    semantic_tokens: Tensor
    """int64 [T] on the CPU."""
    latents: Tensor
    """float32 [T, C] on the CPU, as the VAE decodes them."""
    ended: Literal["eos", "max_frames"]


def generate(
    model: SongModel,
    lyric_ids: Sequence[Sequence[int]],
    prompts: Sequence[Tensor],
    seeds: Sequence[int],
    config: SamplingConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    noise: Callable[[int, int], Tensor] | None = None,
    observe: Callable[[SongWriter], None] | None = None,
) -> list[GeneratedSong]:
    """Write one song per entry of `lyric_ids`, all in one batch.

    A block with EOS anywhere in it is no part of its song, and is not rendered.

    Args:
        model: on any device; runs in its own precision, the diffusion in float32.
        lyric_ids: symbol ids per song; empty: no lyrics.
        prompts: latents [n, C] of a style prompt per song, as stored; n = 0: no prompt.
        seeds: one per song, 0 or more.
        config: how to sample.
        progress: called after every block with the blocks done and the most there can be.
        noise: replaces the drawn noise: (song, block) -> [P, C].
        observe: called after every rendered block, with the writer as it stands.

    Raises:
        ConfigError: lyrics or a prompt that the model's configuration does not allow.
    """
    _check_inputs(model.config, lyric_ids, prompts, seeds)
    songs = [_Song(number, song_generator(seed), model.config, noise) for number, seed in enumerate(seeds)]
    max_blocks = -(-config.max_frames // model.config.block_frames)
    if songs:
        with torch.inference_mode():
            writer = SongWriter(model, config, max_blocks)
            writer.read_conditions(lyric_ids, prompts)
            for block in range(max_blocks):
                if block:
                    writer.read_block()
                if not _write_block(writer, songs):
                    break
                if observe:
                    observe(writer)
                if progress:
                    progress(block + 1, max_blocks)
    return [song.finish(max_blocks) for song in songs]


@dataclass(slots=True)
class _Song:
    """What a song has so far, and where its random numbers come from."""

    number: int
    generator: np.random.Generator
    config: ModelConfig
    given_noise: Callable[[int, int], Tensor] | None
    tokens: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)

    def draw_uniform(self) -> Tensor:
        """Return a number in (0, 1] for each token of the next block."""
        return torch.from_numpy(1 - self.generator.random(self.config.block_frames))

    def draw_noise(self) -> Tensor:
        """Return the noise [P, C] of the next block."""
        if self.given_noise is not None:
            return self.given_noise(self.number, len(self.latents))
        shape = (self.config.block_frames, self.config.latent_channels)
        return torch.from_numpy(self.generator.standard_normal(shape, dtype=np.float32))

    def finish(self, max_blocks: int) -> GeneratedSong:
        """Join the blocks."""
        return GeneratedSong(
            semantic_tokens=torch.cat([torch.zeros(0, dtype=torch.int64), *self.tokens]),
            latents=torch.cat([torch.zeros(0, self.config.latent_channels), *self.latents]),
            ended="max_frames" if len(self.tokens) == max_blocks else "eos",
        )


def _write_block(writer: SongWriter, songs: Sequence[_Song]) -> bool:
    """Write and render the next block of the songs that go on; return whether any does."""
    model = writer.model
    writer.write_tokens(torch.stack([songs[number].draw_uniform() for number in writer.songs]))
    if writer.config.stop_at_eos:
        has_eos = (writer.tokens_AP == model.config.eos_id).any(dim=1).tolist()
        writer.keep([row for row, ends in enumerate(has_eos) if not ends])
    if not writer.songs:
        return False
    writer.render(torch.stack([songs[number].draw_noise() for number in writer.songs]))
    blocks = zip(writer.songs, writer.tokens_AP.cpu(), model.restore(writer.latents_APC).cpu(), strict=True)
    for number, tokens, latents in blocks:
        songs[number].tokens.append(tokens)
        songs[number].latents.append(latents)
    return True


def _check_inputs(
    config: ModelConfig, lyric_ids: Sequence[Sequence[int]], prompts: Sequence[Tensor], seeds: Sequence[int]
) -> None:
    """Refuse what would be cut or would fail deep inside."""
    if not len(lyric_ids) == len(prompts) == len(seeds):
        raise ConfigError(f"{len(lyric_ids)} lyrics, {len(prompts)} prompts and {len(seeds)} seeds, expected as many")
    limits = config.conditions
    for song, (ids, prompt) in enumerate(zip(lyric_ids, prompts, strict=True)):
        if len(ids) > limits.max_lyric_tokens:
            raise ConfigError(
                f"song {song}: {len(ids)} lyric symbols, this model takes {limits.max_lyric_tokens}; shorten the lyrics"
            )
        bad = [symbol for symbol in ids if not 0 <= symbol < limits.vocabulary_size]
        if bad:
            raise ConfigError(f"song {song}: lyric id {bad[0]} is outside 0..{limits.vocabulary_size - 1}")
        if prompt.ndim != 2 or prompt.shape[1] != config.latent_channels or len(prompt) > limits.prompt_frames:
            raise ConfigError(
                f"song {song}: prompt has shape {tuple(prompt.shape)}, "
                f"expected at most {limits.prompt_frames} frames x {config.latent_channels} channels"
            )
        if not prompt.isfinite().all():
            raise ConfigError(f"song {song}: prompt is not finite")
