"""The steps of writing songs: read the conditions, write a block's tokens, render its latents, read it back.

Shape legend: A songs still being written, R = 2 A rows (with conditions, then without), P frames per block,
C latent channels, D width, V ids (codes and EOS), W tokens of the penalty window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.attention import CachedStep, KeyValueCache, PackedCausal
from model.conditioning import PADDING, Prefix
from model.flow import integrate
from model.interleave import Packing, mark_first
from model.sampling_config import SamplingConfig
from model.song_model import SongModel
from model.token_choice import choose_tokens, penalise_repeats


@dataclass(frozen=True, slots=True)
class Opening:
    """The first blocks of a song that exist already; nothing of them is written again."""

    semantic_tokens: Tensor
    """int64 [T] on the CPU."""
    latents: Tensor
    """float32 [T, C] on the CPU, as the VAE encodes them."""


def guide(rows_R: Tensor, scale: float) -> Tensor:
    """Mix rows with conditions and rows without: null + scale * (conditional - null), [R, ...] -> [A, ...]."""
    conditional, null = rows_R.chunk(2)
    return null + scale * (conditional - null)


class SongWriter:
    """Songs being written in step: what the LM has read of each, with and without its conditions.

    The two rows of a song read the same tokens and latents; only their prefixes differ.
    """

    songs: list[int]
    """Numbers of the songs still being written, in the order of every tensor here."""
    logits: tuple[Tensor, Tensor, Tensor]
    """Of the last block, [A, P, V]: with conditions, without, and after guidance and penalty."""
    tokens_AP: Tensor
    """Semantic tokens of the last block."""
    latents_APC: Tensor
    """Whitened latents of the last rendered block; zeros before the first."""
    state_RD: Tensor
    """LM state after all that was read; after a block's tokens, what speaks to the DiT."""

    def __init__(self, model: SongModel, config: SamplingConfig, max_blocks: int) -> None:
        """Prepare to write up to `max_blocks` blocks."""
        self.model, self.config = model, config
        self.max_steps = max_blocks * (model.config.block_frames + 1)
        self.device = model.bos_D.device

    def read_start(
        self, lyric_ids: Sequence[Sequence[int]], prompts: Sequence[Tensor], openings: Sequence[Opening]
    ) -> None:
        """Let the LM read prompt, lyrics, BOS and opening of every song, and the same with null conditions."""
        model, num_songs = self.model, len(lyric_ids)
        prefix = self._encode_conditions(lyric_ids, prompts)
        tokens_BT = self._stack([opening.semantic_tokens for opening in openings])
        latents_BTC = model.whiten(self._stack([opening.latents for opening in openings]))
        num_blocks_B = torch.tensor([len(opening.latents) // model.config.block_frames for opening in openings])
        body_BXD = model.embed_body(tokens_BT, latents_BTC)
        body_lengths_R = num_blocks_B.repeat(2) * (model.config.block_frames + 1) + 1
        valid_RX = torch.cat([prefix.valid_BX, mark_first(body_lengths_R, body_BXD.shape[1])], dim=1)
        packing = Packing(valid_RX, self.device)
        self._cache = KeyValueCache(model.config, packing.lengths, self.max_steps, like=model.bos_D)
        attend = PackedCausal(packing.lengths, self._cache)
        packed_SD = packing.pack(torch.cat([prefix.vectors_BXD, body_BXD.repeat(2, 1, 1)], dim=1))
        states_SD = model.lm(packed_SD, attend.positions(self.device), attend)
        self.state_RD = states_SD[torch.tensor(packing.lengths).cumsum(0).sub(1).to(self.device)]
        self.songs = list(range(num_songs))
        self._recall(openings)

    def _encode_conditions(self, lyric_ids: Sequence[Sequence[int]], prompts: Sequence[Tensor]) -> Prefix:
        """Embed the conditions of every song, and as many null conditions."""
        ids = [torch.tensor(list(song), dtype=torch.int64) for song in lyric_ids]
        ids += [song[:0] for song in ids]
        frames = [prompt.float().cpu() for prompt in prompts]
        frames += [prompt[:0] for prompt in frames]
        return self.model.conditioner(
            pad_sequence(ids, batch_first=True, padding_value=PADDING).to(self.device),
            torch.tensor([len(song) for song in ids]),
            self.model.whiten(self._stack(frames)),
            torch.tensor([len(prompt) for prompt in frames]),
        )

    def _recall(self, openings: Sequence[Opening]) -> None:
        """Set what the next block needs to know of the songs so far: their last tokens and their last block."""
        config, window = self.model.config, self.config.penalty_window
        num_songs, num_frames = len(openings), config.block_frames
        self._recent_AW = torch.full((num_songs, window), config.eos_id, device=self.device)
        self._has_past_A1 = torch.zeros(num_songs, 1, dtype=torch.bool, device=self.device)
        self.latents_APC = torch.zeros(num_songs, num_frames, config.latent_channels, device=self.device)
        for row, opening in enumerate(openings):
            if len(opening.latents):
                recent = opening.semantic_tokens[-window:].to(self.device)
                self._recent_AW[row, window - len(recent) :] = recent
                self._has_past_A1[row] = True
                self.latents_APC[row] = self.model.whiten(opening.latents[-num_frames:].to(self.device))

    def _stack(self, rows: Sequence[Tensor]) -> Tensor:
        """Pad rows at their ends with zeros and move them to the model's device."""
        return pad_sequence(list(rows), batch_first=True).to(self.device)

    def write_tokens(self, uniform_AP: Tensor, *, may_end: bool = True) -> None:
        """Write the tokens of the next block, one uniform number in (0, 1] each; without `may_end` none is EOS."""
        tokens, logits = [], []
        for uniform_A in uniform_AP.to(self.device).unbind(1):
            logits_RV = self.model.semantic_head(self.state_RD)
            final_AV = guide(logits_RV, self.config.cfg_scale)
            if self.config.repetition_penalty != 1:
                lowered_AV = penalise_repeats(
                    final_AV, self._recent_AW, self.config.repetition_penalty, self.config.penalty_kind
                )
                final_AV = torch.where(self._has_past_A1, lowered_AV, final_AV)
            if not may_end:
                final_AV = final_AV.index_fill(
                    1, torch.tensor([self.model.config.eos_id], device=self.device), -torch.inf
                )
            token_A = choose_tokens(final_AV, uniform_A, self.config)
            self._recent_AW = torch.cat([self._recent_AW[:, 1:], token_A[:, None]], dim=1)
            self._read(self.model.semantic_table(token_A))
            tokens.append(token_A)
            logits.append((*logits_RV.chunk(2), final_AV))
        self.tokens_AP = torch.stack(tokens, dim=1)
        conditional, null, final = (torch.stack(steps, dim=1) for steps in zip(*logits, strict=True))
        self.logits = (conditional, null, final)
        self._has_past_A1.fill_(True)

    def render(self, noise_APC: Tensor) -> None:
        """Turn the block's tokens and the LM's state into latents."""
        config = self.config
        scale = config.cfg_scale if config.dit_cfg_scale is None else config.dit_cfg_scale
        is_global = config.guidance == "global"
        semantic_APD = self.model.semantic_table(self.tokens_AP)
        hidden_AD, null_hidden_AD = self.state_RD.chunk(2)
        if not is_global:
            null_hidden_AD = torch.zeros_like(null_hidden_AD)
        semantic_RPD = torch.cat([semantic_APD, semantic_APD if is_global else torch.zeros_like(semantic_APD)])
        hidden_RD = torch.cat([hidden_AD, null_hidden_AD])
        previous_RPC = self.latents_APC.repeat(2, 1, 1)

        def velocity_of_rows(points_RPC: Tensor, time: float) -> Tensor:
            time_R = torch.full((len(points_RPC),), time, device=self.device)
            return self.model.dit(points_RPC, previous_RPC, semantic_RPD, hidden_RD, time_R)

        def guided_velocity(points_APC: Tensor, time: float) -> Tensor:
            return guide(velocity_of_rows(points_APC.repeat(2, 1, 1), time), scale)

        noise_APC = noise_APC.to(self.device, torch.float32)
        follow = partial(
            integrate,
            num_steps=config.euler_steps,
            temperature=config.diffusion_temperature,
            jump=config.diffusion_jump,
        )
        if is_global:
            self.latents_APC = guide(follow(velocity_of_rows, noise_APC.repeat(2, 1, 1)), scale)
        else:
            self.latents_APC = follow(guided_velocity, noise_APC)

    def read_block(self) -> None:
        """Let the LM read the block's latents, so that it can write the next block."""
        blocks_AD = self.model.encode_block(self.latents_APC.flatten(1).to(self.model.bos_D.dtype))
        self._read(blocks_AD)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the songs at `rows` only."""
        num_songs = len(self.songs)
        if len(rows) == num_songs:
            return
        self.songs = [self.songs[row] for row in rows]
        both = [*rows, *(num_songs + row for row in rows)]
        self._cache.keep(both)
        self.state_RD = self.state_RD[both]
        self.tokens_AP, self.latents_APC, self._recent_AW, self._has_past_A1 = (
            state[rows] for state in (self.tokens_AP, self.latents_APC, self._recent_AW, self._has_past_A1)
        )
        conditional, null, final = self.logits
        self.logits = (conditional[rows], null[rows], final[rows])

    def _read(self, vectors_AD: Tensor) -> None:
        """Advance both rows of every song by the same vector."""
        step = CachedStep(self._cache)
        self.state_RD = self.model.lm(vectors_AD.repeat(2, 1), self._cache.lengths_R, step)
        self._cache.grow()
