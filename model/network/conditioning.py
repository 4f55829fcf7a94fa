"""Lyrics and style prompt as vectors that stand before the song in the LM's sequence.

Shape legend: B songs, L lyric symbols, N prompt frames, C latent channels, D width, X positions of the prefix.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.network.config import ConditionsConfig, ModelConfig
from model.network.interleave import mark_first
from model.network.transfer import send

PADDING = -1  # symbol after the end of a song's lyrics


class Prefix(NamedTuple):
    """Conditions of a batch: prompt, then lyrics; `valid_BX` (on the CPU) tells which positions the LM sees."""

    vectors_BXD: Tensor
    valid_BX: Tensor


class LyricEmbedding(nn.Module):
    """Embed each symbol as itself + its section's tag + the number of its sentence within the section.

    Tags, commas and periods count twice instead, as in released weights. Symbol 0 embeds to zero and never trains.
    """

    def __init__(self, config: ConditionsConfig, dim: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(config.vocabulary_size, dim, padding_idx=0)
        self.sentences = nn.Embedding(config.max_sentences, dim, padding_idx=0)
        self.comma_id = config.comma_id
        self.period_id = config.period_id
        self.tag_ids = config.tag_ids

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return vectors_BLD; zeros where `ids_BL` is PADDING."""
        structure_BL, sentence_BL = self._place(ids_BL)
        vectors = self.symbols(ids_BL.clamp(min=0)) + self.symbols(structure_BL) + self.sentences(sentence_BL)
        return vectors * (ids_BL != PADDING)[..., None]

    def _place(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return each symbol's tag id (its own id for tags, commas, periods) and sentence number (0 for those).

        Sentences count from 1 after each tag; before the first tag the tag id is 0.
        """
        is_tag = torch.zeros_like(ids_BL, dtype=torch.bool)
        for tag_id in self.tag_ids:
            is_tag |= ids_BL == tag_id
        is_period = ids_BL == self.period_id
        is_mark = is_tag | is_period | (ids_BL == self.comma_id)
        positions = torch.arange(ids_BL.shape[1], device=ids_BL.device).expand_as(ids_BL)
        last_tag = torch.where(is_tag, positions, -1).cummax(dim=1).values
        has_tag = last_tag >= 0
        periods = is_period.cumsum(dim=1)
        periods_before_section = periods.gather(1, last_tag.clamp(min=0)) * has_tag
        sentence = (1 + periods - periods_before_section).clamp(max=self.sentences.num_embeddings - 1)
        structure = ids_BL.gather(1, last_tag.clamp(min=0)) * has_tag
        return torch.where(is_mark, ids_BL, structure), sentence.masked_fill(is_mark, 0)


class Conditioner(nn.Module):
    """Turn lyrics and prompt of a batch into the prefix of its LM sequences."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.conditions
        self.embed_lyrics = LyricEmbedding(config.conditions, config.dim)
        self.project_prompt = nn.Linear(config.latent_channels, config.dim, bias=False)

    def forward(
        self, lyric_ids_BL: Tensor, num_lyrics_B: Tensor, prompts_BNC: Tensor, num_prompt_frames_B: Tensor
    ) -> Prefix:
        """Return the prefix; a count of 0 means that the song has no such condition.

        Args:
            lyric_ids_BL: symbol ids; anything may stand after a song's `num_lyrics_B` symbols.
            num_lyrics_B: on the CPU.
            prompts_BNC: whitened latents; anything may stand after a song's `num_prompt_frames_B` frames.
            num_prompt_frames_B: on the CPU.
        """
        lyrics_BLD, has_lyric_BL = self.encode_lyrics(lyric_ids_BL, num_lyrics_B)
        prompts_BND, has_prompt_BN = self.encode_prompts(prompts_BNC, num_prompt_frames_B)
        return Prefix(
            vectors_BXD=torch.cat([prompts_BND, lyrics_BLD], dim=1),
            valid_BX=torch.cat([has_prompt_BN, has_lyric_BL], dim=1),
        )

    def encode_lyrics(self, ids_BL: Tensor, counts_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors_BLD and the mask of the positions that the LM sees."""
        is_null = counts_B == 0
        if self.config.null_lyrics == "padding_symbol" and is_null.any():
            if ids_BL.shape[1] == 0:
                ids_BL = ids_BL.new_zeros((ids_BL.shape[0], 1))
            ids_BL = torch.where(send(is_null, ids_BL.device)[:, None], 0, ids_BL)
            counts_B = counts_B.clamp(min=1)
        seen_BL = mark_first(counts_B, ids_BL.shape[1])
        vectors_BLD = self.embed_lyrics(ids_BL.masked_fill(send(~seen_BL, ids_BL.device), PADDING))
        return self._pad(vectors_BLD, seen_BL, self.config.max_lyric_tokens)

    def encode_prompts(self, prompts_BNC: Tensor, counts_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors_BND and the mask of the positions that the LM sees."""
        seen_BN = mark_first(counts_B, prompts_BNC.shape[1])
        vectors_BND = self.project_prompt(prompts_BNC.to(self.project_prompt.weight.dtype))
        vectors_BND = vectors_BND * send(seen_BN, vectors_BND.device)[..., None]
        return self._pad(vectors_BND, seen_BN, self.config.prompt_frames)

    def _pad(self, vectors: Tensor, seen: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """In padding mode fixed, fill up to `length` with zero vectors and let the LM see them all."""
        if self.config.padding == "none":
            return vectors, seen
        missing = length - vectors.shape[1]
        return pad(vectors, (0, 0, 0, missing)), seen.new_ones((seen.shape[0], length))
