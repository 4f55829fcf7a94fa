"""A batch of songs as the model takes it.

Shape legend: B songs, T frames, L lyric symbols, N prompt frames, C latent channels.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.network.conditioning import PADDING
from model.network.config import ModelConfig
from model.network.interleave import mark_first
from model.network.transfer import send


class BatchError(ValueError):
    """A batch that the model must not learn from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SongBatch:
    """Songs padded on the right to a common length. The counts stay on the CPU: they only shape the computation."""

    keys: tuple[str, ...]
    """Names of the songs, for messages."""
    semantic_tokens_BT: Tensor
    """int64; EOS after a song's end."""
    latents_BTC: Tensor
    """float32 VAE latents as stored, not yet whitened; zeros after a song's end."""
    num_frames_B: Tensor
    """int64 on the CPU; multiples of the block, as is T."""
    lyric_ids_BL: Tensor
    """int64; -1 after the last symbol."""
    num_lyrics_B: Tensor
    """int64 on the CPU; 0: no lyrics."""
    prompts_BNC: Tensor
    """float32 latents of the style prompt; zeros after its end."""
    num_prompt_frames_B: Tensor
    """int64 on the CPU; 0: no prompt."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "SongBatch":
        """Move tokens, latents, lyrics and prompts; `dtype`, if given, is for latents and prompts."""
        return replace(
            self,
            semantic_tokens_BT=send(self.semantic_tokens_BT, device),
            latents_BTC=send(self.latents_BTC, device, dtype),
            lyric_ids_BL=send(self.lyric_ids_BL, device),
            prompts_BNC=send(self.prompts_BNC, device, dtype),
        )

    def validate(self, config: ModelConfig) -> None:
        """Raise BatchError naming the first song, and the number, that does not fit the model."""
        self._check_shapes(config)
        for row, key in enumerate(self.keys):
            self._check_counts(row, f"song {key}", config)
            self._check_values(row, f"song {key}", config)

    def _check_shapes(self, config: ModelConfig) -> None:
        """Check that all tensors speak of the same songs and sizes."""
        num_songs, num_frames = len(self.keys), self.semantic_tokens_BT.shape[-1]
        expected = {
            "semantic_tokens_BT": (num_songs, num_frames),
            "latents_BTC": (num_songs, num_frames, config.latent_channels),
            "num_frames_B": (num_songs,),
            "lyric_ids_BL": (num_songs, self.lyric_ids_BL.shape[-1]),
            "num_lyrics_B": (num_songs,),
            "prompts_BNC": (num_songs, self.prompts_BNC.shape[1], config.latent_channels),
            "num_prompt_frames_B": (num_songs,),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise BatchError(f"batch of {num_songs} songs: {name} has shape {found}, expected {shape}")
        if num_frames % config.block_frames:
            raise BatchError(
                f"batch of {num_songs} songs: padded to {num_frames} frames, expected a multiple of "
                f"block_frames {config.block_frames}"
            )

    def _check_counts(self, row: int, song: str, config: ModelConfig) -> None:
        """Check one song's lengths."""
        num_frames, num_lyrics = int(self.num_frames_B[row]), int(self.num_lyrics_B[row])
        num_prompt_frames = int(self.num_prompt_frames_B[row])
        width = self.semantic_tokens_BT.shape[1]
        if num_frames % config.block_frames or not 0 < num_frames <= width:
            raise BatchError(
                f"{song}: {num_frames} frames, expected a multiple of block_frames {config.block_frames} "
                f"from {config.block_frames} to {width}"
            )
        lyric_budget = config.conditions.max_lyric_tokens
        if num_lyrics > lyric_budget:
            raise BatchError(
                f"{song}: {num_lyrics} lyric symbols, the budget max_lyric_tokens is {lyric_budget}; "
                "take a shorter crop, or raise the budget"
            )
        if not 0 < num_lyrics <= self.lyric_ids_BL.shape[1]:
            raise BatchError(
                f"{song}: {num_lyrics} lyric symbols, expected 1 to {self.lyric_ids_BL.shape[1]}; a song without words "
                "has the tags of its sections"
            )
        longest_prompt = min(config.conditions.prompt_frames, self.prompts_BNC.shape[1])
        if not 0 <= num_prompt_frames <= longest_prompt:
            raise BatchError(f"{song}: prompt of {num_prompt_frames} frames, expected 0 to {longest_prompt}")

    def _check_values(self, row: int, song: str, config: ModelConfig) -> None:
        """Check one song's ids and latents."""
        num_frames, num_lyrics = int(self.num_frames_B[row]), int(self.num_lyrics_B[row])
        tokens_T = self.semantic_tokens_BT[row]
        _check_ids(tokens_T[:num_frames], config.codebook_size, f"{song}: semantic token")
        if (tokens_T[num_frames:] != config.eos_id).any():
            raise BatchError(f"{song}: after its {num_frames} frames stand ids other than EOS, {config.eos_id}")
        _check_ids(self.lyric_ids_BL[row, :num_lyrics], config.conditions.vocabulary_size, f"{song}: lyric id")
        if (self.lyric_ids_BL[row, num_lyrics:] != PADDING).any():
            raise BatchError(f"{song}: after its {num_lyrics} lyric symbols stand ids other than {PADDING}")
        for name, values in (("latents", self.latents_BTC[row]), ("prompt", self.prompts_BNC[row])):
            bad = (~values.isfinite()).any(dim=-1).nonzero()
            if len(bad):
                raise BatchError(f"{song}: {name} not finite at frame {int(bad[0])}, in {len(bad)} frames altogether")


def _check_ids(ids: Tensor, limit: int, what: str) -> None:
    """Raise BatchError naming the first id outside [0, limit)."""
    bad = ((ids < 0) | (ids >= limit)).nonzero()
    if len(bad):
        position = int(bad[0])
        raise BatchError(f"{what} {int(ids[position])} at position {position} is outside 0..{limit - 1}")


def count_blocks(batch: SongBatch, config: ModelConfig) -> Tensor:
    """Return the number of blocks of each song, on the CPU."""
    return batch.num_frames_B // config.block_frames


def mark_blocks(batch: SongBatch, config: ModelConfig) -> Tensor:
    """Return a mask [B, T / block_frames] of the blocks that exist, on the CPU."""
    return mark_first(count_blocks(batch, config), batch.semantic_tokens_BT.shape[1] // config.block_frames)
