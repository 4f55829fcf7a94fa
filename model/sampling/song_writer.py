"""The steps of writing songs: read the conditions, write a block's tokens, render its latents, read it back.

Shape legend: A songs being written, R = 2 A rows (with conditions, then without), P frames per block,
C latent channels, D width, V ids (codes and EOS), W tokens of the penalty window.

What a step reads and writes lies in tensors that stay where they are and keep their shapes, and nothing in a step asks
the device for a value, so that a step can be recorded once and launched again (step_runner.py): a token, a
block's whole path from noise to latents, and reading the block are a launch each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.network.attention import PackedCausal
from model.network.conditioning import PADDING, Prefix
from model.network.flow import integrate
from model.network.interleave import Packing, mark_first
from model.network.song_model import SongModel
from model.network.step_cache import BUCKET, CachedStep, StepCache
from model.network.transfer import send
from model.sampling.sampling_config import SamplingConfig
from model.sampling.step_runner import StepRunner
from model.sampling.token_choice import choose_tokens, penalise_repeats


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

    The two rows of a song read the same tokens and latents; only their prefixes differ. Where steps are recorded, the
    rows of a song that has ended go on idly until half of all have: other shapes would have to be recorded anew.
    """

    songs: list[int]
    """Numbers of the songs still being written, in the order of all that is returned here."""

    def __init__(self, model: SongModel, config: SamplingConfig, max_blocks: int, runner: StepRunner) -> None:
        """Prepare to write up to `max_blocks` blocks."""
        self.model, self.config, self._runner = model, config, runner
        self.max_steps = max_blocks * (model.config.block_frames + 1)
        self.device = model.bos_D.device

    @property
    def tokens_AP(self) -> Tensor:  # noqa: N802 - named by its shape
        """Semantic tokens of the last block."""
        return self._of_songs(self._tokens_AP)

    @property
    def latents_APC(self) -> Tensor:  # noqa: N802 - named by its shape
        """Whitened latents of the last rendered block; zeros before the first."""
        return self._of_songs(self._latents_APC)

    @property
    def state_RD(self) -> Tensor:  # noqa: N802 - named by its shape
        """LM state after all that was read; after a block's tokens, what speaks to the DiT."""
        return torch.cat([self._of_songs(half_AD) for half_AD in self._state_RD.chunk(2)])

    @property
    def logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the last block, [A, P, V]: with conditions, without, and after guidance and penalty."""
        conditional, null, final = (self._of_songs(logits) for logits in self._logits)
        return conditional, null, final

    def _of_songs(self, x_Ax: Tensor) -> Tensor:
        """Return the rows of songs that are still being written, copied: the next step writes to the same place."""
        return x_Ax.clone() if len(self._rows) == len(x_Ax) else x_Ax[self._rows]

    def read_start(
        self, lyric_ids: Sequence[Sequence[int]], prompts: Sequence[Tensor], openings: Sequence[Opening]
    ) -> None:
        """Let the LM read prompt, lyrics, BOS and opening of every song, and the same with null conditions."""
        model = self.model
        prefix = self._encode_conditions(lyric_ids, prompts)
        tokens_BT = self._stack([opening.semantic_tokens for opening in openings])
        latents_BTC = model.whiten(self._stack([opening.latents for opening in openings]))
        num_blocks_B = torch.tensor([len(opening.latents) // model.config.block_frames for opening in openings])
        body_BXD = model.embed_body(tokens_BT, latents_BTC)
        body_lengths_R = num_blocks_B.repeat(2) * (model.config.block_frames + 1) + 1
        valid_RX = torch.cat([prefix.valid_BX, mark_first(body_lengths_R, body_BXD.shape[1])], dim=1)
        packing = Packing(valid_RX, self.device)
        self._cache = StepCache(
            model.config,
            packing.lengths,
            self.max_steps,
            like=model.bos_D,
            bucket=BUCKET if self._runner.is_recording else 1,
        )
        attend = PackedCausal(packing.lengths, self._cache)
        packed_SD = packing.pack(torch.cat([prefix.vectors_BXD, body_BXD.repeat(2, 1, 1)], dim=1))
        states_SD = model.lm(packed_SD, attend.positions(self.device), attend)
        self._state_RD = states_SD[torch.tensor(packing.lengths).cumsum(0).sub(1).to(self.device)]
        self.songs = list(range(len(lyric_ids)))
        self._rows = list(self.songs)
        self._make_places(len(self.songs))
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

    def _make_places(self, num_songs: int) -> None:
        """Make the tensors that steps read and write, besides those that hold the songs so far."""
        config, device = self.model.config, self.device
        block = (num_songs, config.block_frames)
        self._uniform_AP = torch.zeros(block, dtype=torch.float64, device=device)
        self._tokens_AP = torch.zeros(block, dtype=torch.int64, device=device)
        self._noise_APC = torch.zeros(*block, config.latent_channels, device=device)
        self._logits = tuple(torch.zeros(*block, config.eos_id + 1, device=device) for _ in range(3))
        self._place_1 = torch.zeros(1, dtype=torch.int64, device=device)  # of the next token in its block
        self._is_barred_V = torch.zeros(config.eos_id + 1, dtype=torch.bool, device=device)

    def _recall(self, openings: Sequence[Opening]) -> None:
        """Set what the next block needs to know of the songs so far: their last tokens and their last block."""
        config, window = self.model.config, self.config.penalty_window
        num_songs, num_frames = len(openings), config.block_frames
        self._recent_AW = torch.full((num_songs, window), config.eos_id, device=self.device)
        self._has_past_A1 = torch.zeros(num_songs, 1, dtype=torch.bool, device=self.device)
        self._latents_APC = torch.zeros(num_songs, num_frames, config.latent_channels, device=self.device)
        for row, opening in enumerate(openings):
            if len(opening.latents):
                recent = opening.semantic_tokens[-window:].to(self.device)
                self._recent_AW[row, window - len(recent) :] = recent
                self._has_past_A1[row] = True
                self._latents_APC[row] = self.model.whiten(opening.latents[-num_frames:].to(self.device))

    def _stack(self, rows: Sequence[Tensor]) -> Tensor:
        """Pad rows at their ends with zeros and move them to the model's device."""
        return pad_sequence(list(rows), batch_first=True).to(self.device)

    def write_tokens(self, uniform_AP: Tensor, *, may_end: bool = True) -> None:
        """Write the tokens of the next block, one uniform number in (0, 1] each; without `may_end` none is EOS."""
        self._put(uniform_AP, self._uniform_AP)
        self._place_1.zero_()
        self._is_barred_V[-1:].fill_(not may_end)
        for _ in range(self.model.config.block_frames):
            self._runner.run(("token", self._cache.extent), self._write_token)
            self._cache.grow()
        self._has_past_A1.fill_(True)

    def _write_token(self) -> None:
        """Choose the next token of every song and let the LM read it."""
        logits_RV = self.model.semantic_head(self._state_RD)
        final_AV = guide(logits_RV, self.config.cfg_scale)
        if self.config.repetition_penalty != 1:
            lowered_AV = penalise_repeats(
                final_AV, self._recent_AW, self.config.repetition_penalty, self.config.penalty_kind
            )
            final_AV = torch.where(self._has_past_A1, lowered_AV, final_AV)
        final_AV = final_AV.masked_fill(self._is_barred_V, -torch.inf)
        uniform_A = self._uniform_AP.index_select(1, self._place_1).squeeze(1)
        token_A = choose_tokens(final_AV, uniform_A, self.config)
        self._recent_AW.copy_(torch.cat([self._recent_AW[:, 1:], token_A[:, None]], dim=1))
        self._tokens_AP.index_copy_(1, self._place_1, token_A[:, None])
        for logits, new_AV in zip(self._logits, (*logits_RV.chunk(2), final_AV), strict=True):
            logits.index_copy_(1, self._place_1, new_AV[:, None])
        self._place_1.add_(1)
        self._read(self.model.semantic_table(token_A))

    def render(self, noise_APC: Tensor) -> None:
        """Turn the block's tokens and the LM's state into latents."""
        self._put(noise_APC, self._noise_APC)
        self._runner.run("path", self._follow_path)

    def _follow_path(self) -> None:
        """Follow the velocity from noise to latents, all steps of it."""
        config = self.config
        scale = config.cfg_scale if config.dit_cfg_scale is None else config.dit_cfg_scale
        is_global = config.guidance == "global"
        semantic_APD = self.model.semantic_table(self._tokens_AP)
        hidden_AD, null_hidden_AD = self._state_RD.chunk(2)
        if not is_global:
            null_hidden_AD = torch.zeros_like(null_hidden_AD)
        semantic_RPD = torch.cat([semantic_APD, semantic_APD if is_global else torch.zeros_like(semantic_APD)])
        hidden_RD = torch.cat([hidden_AD, null_hidden_AD])
        previous_RPC = self._latents_APC.repeat(2, 1, 1)

        def velocity_of_rows(points_RPC: Tensor, time: float) -> Tensor:
            time_R = torch.full((len(points_RPC),), time, device=self.device)
            return self.model.dit(points_RPC, previous_RPC, semantic_RPD, hidden_RD, time_R)

        def guided_velocity(points_APC: Tensor, time: float) -> Tensor:
            return guide(velocity_of_rows(points_APC.repeat(2, 1, 1), time), scale)

        follow = partial(
            integrate,
            num_steps=config.euler_steps,
            temperature=config.diffusion_temperature,
            jump=config.diffusion_jump,
        )
        if is_global:
            self._latents_APC.copy_(guide(follow(velocity_of_rows, self._noise_APC.repeat(2, 1, 1)), scale))
        else:
            self._latents_APC.copy_(follow(guided_velocity, self._noise_APC))

    def read_block(self) -> None:
        """Let the LM read the block's latents, so that it can write the next block."""
        self._runner.run(("block", self._cache.extent), self._read_block)
        self._cache.grow()

    def _read_block(self) -> None:
        self._read(self.model.encode_block(self._latents_APC.flatten(1).to(self.model.bos_D.dtype)))

    def _read(self, vectors_AD: Tensor) -> None:
        """Advance both rows of every song by the same vector."""
        lengths_R = self._cache.lengths_R
        self._state_RD.copy_(self.model.lm(vectors_AD.repeat(2, 1), lengths_R, CachedStep(self._cache)))
        lengths_R.add_(1)

    def _put(self, values_Ax: Tensor, place_Ax: Tensor) -> None:
        """Copy a value per song to where steps read it; rows of songs that have ended get zeros."""
        if len(values_Ax) < len(place_Ax):
            rows = torch.tensor(self._rows, device=values_Ax.device)
            values_Ax = values_Ax.new_zeros(place_Ax.shape).index_copy(0, rows, values_Ax)
        place_Ax.copy_(send(values_Ax, self.device))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the songs at `places` of `songs` only."""
        num_rows = len(self._tokens_AP)
        self.songs, self._rows = ([numbers[place] for place in places] for numbers in (self.songs, self._rows))
        is_wasteful = len(self._rows) < num_rows and not (self._runner.is_recording and 2 * len(self._rows) > num_rows)
        if not self._rows or not is_wasteful:
            return
        rows, both = self._rows, [*self._rows, *(num_rows + row for row in self._rows)]
        self._runner.forget()
        self._cache.keep(both)
        self._state_RD = self._state_RD[both]
        self._recent_AW, self._has_past_A1 = self._recent_AW[rows], self._has_past_A1[rows]
        self._latents_APC, tokens_AP = self._latents_APC[rows], self._tokens_AP[rows]
        logits = tuple(values[rows] for values in self._logits)
        self._make_places(len(rows))
        self._tokens_AP, self._logits = tokens_AP, logits
        self._rows = list(range(len(rows)))
