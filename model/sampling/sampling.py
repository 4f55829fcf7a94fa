"""Write songs: the LM and the DiT take turns, block after block, for several songs at once.

Shape legend: A songs still being written, P frames per block, C latent channels.

What chance decides is a function of a song's seed and the block's number, and rows of different lengths never see each
other's positions, so a song comes out the same alone and in any company, up to the rounding of larger matrix products.
In bfloat16 that rounding is coarse, about 1 % of a logit: where the order of additions depends on a product's size, as
on a GPU, it decides for another token sooner or later, and a seed gives the same song only in the same company.

Weights, matrix products and the cache of keys and values have the precision of the model. Always in float32, or better:
logits and all that chooses a token, guidance, the steps of the diffusion and its times, rotary angles, what norms and
softmax add up, and the whitening of latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.network.config import ConfigError, ModelConfig, require
from model.network.noise import draw_block
from model.network.song_model import SongModel
from model.sampling.sampling_config import PRESETS, SamplingConfig
from model.sampling.song_writer import Opening, SongWriter
from model.sampling.step_runner import StepRunner, choose_runner

# Not cuDNN's, PyTorch's first choice on a GPU of the newest kinds: it plans anew for every length.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

__all__ = ["PRESETS", "GeneratedSong", "Opening", "SamplingConfig", "generate"]


@dataclass(frozen=True, slots=True)
class GeneratedSong:
    """One song, its opening included; without an opening, no tokens at all if the LM ended it in its first block."""

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
    openings: Sequence[Opening | None] | None = None,
    on_block: Callable[[int, Tensor], None] | None = None,
    noise: Callable[[int, int], Tensor] | None = None,
    observe: Callable[[SongWriter], None] | None = None,
    runner: StepRunner | None = None,
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
        openings: songs to go on with; None, and a None in it: from the start.
        on_block: called with a song's number and its latents [P, C] as soon as they are rendered.
        noise: replaces the drawn noise: (song, block) -> [P, C].
        observe: called after every rendered block, with the writer as it stands.
        runner: runs the steps; None: with CUDA graphs on a GPU.

    Raises:
        ConfigError: lyrics, a prompt or an opening that the model's configuration does not allow.
    """
    given = _fill(openings, len(lyric_ids), model.config)
    _check_inputs(model.config, lyric_ids, prompts, seeds, given)
    songs = [
        _Song(number, seed, opening, model.config)
        for number, (seed, opening) in enumerate(zip(seeds, given, strict=True))
    ]
    max_blocks = -(-config.max_frames // model.config.block_frames)
    if songs:
        with torch.inference_mode(), sdpa_kernel(ATTENTION):
            writer = SongWriter(model, config, max_blocks, runner or choose_runner(model.bos_D.device))
            writer.read_start(lyric_ids, prompts, given)
            for block in range(max_blocks):
                if block:
                    writer.read_block()
                if not _write_block(writer, songs, noise):
                    break
                if on_block:
                    for number in writer.songs:
                        on_block(number, songs[number].latents[-1])
                if observe:
                    observe(writer)
                if progress:
                    progress(block + 1, max_blocks)
    return [song.finish(max_blocks) for song in songs]


@dataclass(slots=True)
class _Song:
    """What a song has so far."""

    number: int
    seed: int
    opening: Opening
    config: ModelConfig
    tokens: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)

    @property
    def next_block(self) -> int:
        """Return the number of the block to write next."""
        return len(self.opening.latents) // self.config.block_frames + len(self.latents)

    def finish(self, max_blocks: int) -> GeneratedSong:
        """Join the blocks."""
        return GeneratedSong(
            semantic_tokens=torch.cat([self.opening.semantic_tokens, *self.tokens]),
            latents=torch.cat([self.opening.latents, *self.latents]),
            ended="max_frames" if len(self.tokens) == max_blocks else "eos",
        )


def _write_block(writer: SongWriter, songs: Sequence[_Song], given_noise: Callable[[int, int], Tensor] | None) -> bool:
    """Write and render the next block of the songs that go on; return whether any does."""
    model = writer.model
    draws = {number: draw_block(songs[number].seed, songs[number].next_block, model.config) for number in writer.songs}
    num_written = len(songs[writer.songs[0]].latents) * model.config.block_frames  # the same for all
    may_end = num_written >= writer.config.min_frames
    writer.write_tokens(torch.stack([uniform_P for uniform_P, _ in draws.values()]), may_end=may_end)
    if writer.config.stop_at_eos:
        has_eos = (writer.tokens_AP == model.config.eos_id).any(dim=1).tolist()
        writer.keep([row for row, ends in enumerate(has_eos) if not ends])
    if not writer.songs:
        return False
    noises = [
        given_noise(number, songs[number].next_block) if given_noise else draws[number][1] for number in writer.songs
    ]
    writer.render(torch.stack(noises))
    blocks = zip(writer.songs, writer.tokens_AP.cpu(), model.restore(writer.latents_APC).cpu(), strict=True)
    for number, tokens, latents in blocks:
        songs[number].tokens.append(tokens)
        songs[number].latents.append(latents)
    return True


def _fill(openings: Sequence[Opening | None] | None, num_songs: int, config: ModelConfig) -> list[Opening]:
    """Return an opening per song, an empty one where there is none."""
    empty = Opening(torch.zeros(0, dtype=torch.int64), torch.zeros(0, config.latent_channels))
    return [opening or empty for opening in openings or [None] * num_songs]


def _check_inputs(
    config: ModelConfig,
    lyric_ids: Sequence[Sequence[int]],
    prompts: Sequence[Tensor],
    seeds: Sequence[int],
    openings: Sequence[Opening],
) -> None:
    """Refuse what would be cut or would fail deep inside."""
    if not len(lyric_ids) == len(prompts) == len(seeds) == len(openings):
        raise ConfigError(
            f"{len(lyric_ids)} lyrics, {len(prompts)} prompts, {len(seeds)} seeds and {len(openings)} openings, "
            "expected as many of each"
        )
    limits = config.conditions
    for song, (ids, prompt, opening) in enumerate(zip(lyric_ids, prompts, openings, strict=True)):
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
        require(bool(prompt.isfinite().all()), f"song {song}: prompt is not finite")
        _check_opening(config, f"song {song}: opening", opening)


def _check_opening(config: ModelConfig, name: str, opening: Opening) -> None:
    """Refuse an opening that is no song of this model's."""
    tokens, latents = opening.semantic_tokens, opening.latents
    if tokens.ndim != 1 or latents.shape != (len(tokens), config.latent_channels) or len(tokens) % config.block_frames:
        raise ConfigError(
            f"{name} has tokens {tuple(tokens.shape)} and latents {tuple(latents.shape)}, expected [T] and "
            f"[T, {config.latent_channels}] with T a multiple of block_frames {config.block_frames}"
        )
    bad = tokens[(tokens < 0) | (tokens >= config.codebook_size)]
    if len(bad):
        raise ConfigError(f"{name}: semantic token {int(bad[0])} is outside 0..{config.codebook_size - 1}")
    require(bool(latents.isfinite().all()), f"{name}: latents are not finite")
