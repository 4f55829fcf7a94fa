"""Every random number of a training step, as a pure function of each song's seed.

Shape legend: B songs, N blocks of all songs in order, P frames per block, C latent channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.config import ModelConfig
from model.network.transfer import send


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What chance decides about a batch; the masks per song stay on the CPU, as they shape the sequences."""

    time_N: Tensor
    """Diffusion times in (0, 1), logit-normal; float32."""
    noise_NPC: Tensor
    """Standard normal; float32."""
    drop_conditions_B: Tensor
    """Hide lyrics and prompt."""
    drop_prompt_B: Tensor
    """Hide the prompt."""
    drop_hidden_N: Tensor
    """Hide the LM's hidden vector from the DiT."""
    drop_semantic_N: Tensor
    """Hide the block's semantic tokens from the DiT."""
    block_weight_N: Tensor | None = None
    """How much a block's flow error counts, on the CPU; 0: the DiT leaves the block out. None: all count once."""

    def to(self, device: torch.device | str) -> "Draws":
        """Move what belongs to blocks."""
        return replace(
            self,
            time_N=send(self.time_N, device),
            noise_NPC=send(self.noise_NPC, device),
            drop_hidden_N=send(self.drop_hidden_N, device),
            drop_semantic_N=send(self.drop_semantic_N, device),
        )

    def leave_blocks_out(self) -> "Draws":
        """Forget the blocks of weight 0."""
        if self.block_weight_N is None:
            return self
        kept = self.block_weight_N.nonzero().squeeze(1)
        names = ("time_N", "noise_NPC", "drop_hidden_N", "drop_semantic_N", "block_weight_N")
        values = {name: getattr(self, name) for name in names}
        chosen = {name: value.index_select(0, send(kept, value.device)) for name, value in values.items()}
        return replace(self, **chosen)


def count_rendered(num_blocks: int, left_out: float) -> int:
    """Return how many of a song's blocks the DiT sees where it leaves out a share of them; one at least."""
    return max(1, round(num_blocks * (1 - left_out)))


def song_generator(seed: int) -> np.random.Generator:
    """Return the generator of one song; seeds are 0 or more, of any size.

    NumPy's, because PyTorch's CPU generator looks at the lowest 32 bits of a seed only.
    """
    check_seed(seed)
    return np.random.Generator(np.random.PCG64(seed))


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that NumPy does not take."""
    if seed < 0:
        raise ValueError(f"song seed {seed} is negative, expected 0 or more")


def draw_block(seed: int, block: int, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return what chance decides about one block of a song that is being written.

    A function of seed and block alone: a song continued from its own beginning comes out as if never cut.

    Returns:
        uniform_P: a number in (0, 1] per token, float64.
        noise_PC: where the block's diffusion starts; standard normal, float32.
    """
    check_seed(seed)
    generator = np.random.Generator(np.random.PCG64([block, seed]))
    uniform_P = 1 - generator.random(config.block_frames)
    noise_PC = generator.standard_normal((config.block_frames, config.latent_channels), dtype=np.float32)
    return torch.from_numpy(uniform_P), torch.from_numpy(noise_PC)


def draw(
    seeds: Sequence[int],
    num_blocks: Sequence[int],
    config: ModelConfig,
    device: torch.device | str = "cpu",
    *,
    with_dropout: bool = True,
) -> Draws:
    """Draw for a batch of songs; what a song gets depends on its own seed and number of blocks alone.

    Args:
        seeds: one per song, for example a hash of run seed, epoch and key.
        num_blocks: blocks of each song.
        config: gives sizes and dropout rates.
        device: where the tensors of blocks go.
        with_dropout: False hides nothing (validation), and leaves times and noise as they are.
    """
    songs = [_draw_song(seed, count, config) for seed, count in zip(seeds, num_blocks, strict=True)]
    times, noises, song_coins, block_coins, weights = (np.concatenate(parts) for parts in zip(*songs, strict=True))
    rates = config.dropout
    song_rates, block_rates = (rates.conditions, rates.prompt), (rates.hidden, rates.semantic)
    drop_conditions_B, drop_prompt_B = torch.from_numpy((song_coins < song_rates) & with_dropout).unbind(1)
    drop_hidden_N, drop_semantic_N = torch.from_numpy((block_coins < block_rates) & with_dropout).unbind(1)
    if rates.mode == "joint":
        drop_semantic_N = drop_semantic_N | drop_hidden_N
    return Draws(
        time_N=torch.from_numpy(times).sigmoid(),
        noise_NPC=torch.from_numpy(noises),
        drop_conditions_B=drop_conditions_B,
        drop_prompt_B=drop_prompt_B,
        drop_hidden_N=drop_hidden_N,
        drop_semantic_N=drop_semantic_N,
        block_weight_N=torch.from_numpy(weights) if rates.blocks and with_dropout else None,
    ).to(device)


def _draw_song(seed: int, num_blocks: int, config: ModelConfig) -> tuple[NDArray[Any], ...]:
    """Return time logits [n], noise [n, P, C], coins of the song [1, 2] and of its blocks [n, 2], weights [n]."""
    generator = song_generator(seed)
    song_coins = generator.random((1, 2))
    block_coins = generator.random((num_blocks, 2))
    times = generator.standard_normal(num_blocks, dtype=np.float32)
    shape = (num_blocks, config.block_frames, config.latent_channels)
    noise = generator.standard_normal(shape, dtype=np.float32)
    # Every block is as likely as any other to be among those that count, and these count for all: the expected sum of
    # a song's errors is the same as without leaving blocks out.
    num_rendered = count_rendered(num_blocks, config.dropout.blocks)
    weights = np.zeros(num_blocks, dtype=np.float32)
    weights[generator.permutation(num_blocks)[:num_rendered]] = num_blocks / num_rendered
    return times, noise, song_coins, block_coins, weights
