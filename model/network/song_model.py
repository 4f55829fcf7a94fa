"""The joint model: an LM that writes a song's semantic tokens, and a DiT that renders them block by block.

Shape legend: B songs, T frames, N blocks per song, P frames per block, C latent channels, D width,
X positions of a sequence before packing, S positions of all sequences after packing, F blocks of all songs.

Source: arXiv:2506.07634. The LM reads [prompt, lyrics, body] (see interleave.py); the body holds the song's true
tokens and latents up to each point. Its states predict the next token, and one state per block tells the DiT what to
render. Both losses train together: the DiT's gradient reaches the LM through that state.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.attention import PackedCausal
from model.network.conditioning import Conditioner, Prefix
from model.network.config import ConfigError, ModelConfig
from model.network.dit import BlockDit
from model.network.flow import mix, velocity_error
from model.network.interleave import (
    Packing,
    make_targets,
    mark_first,
    shift_blocks,
    split_blocks,
    unweave_body,
    weave_body,
)
from model.network.lm import LanguageModel, SemanticHead
from model.network.losses import SongOutput
from model.network.noise import Draws
from model.network.recompute import Recompute
from model.network.song_batch import SongBatch, count_blocks, mark_blocks
from model.network.transfer import send


@dataclass(frozen=True, slots=True)
class LmStates:
    """The LM's final states, padded to the batch; zeros where a song has no position."""

    prefix_BXD: Tensor
    predictors_BTD: Tensor
    """T + 1 per song: the one at index t predicts the token of frame t, the last one EOS."""
    hidden_BND: Tensor
    """One per block, for the DiT."""


@dataclass(frozen=True, slots=True)
class FlowInputs:
    """What the DiT sees of every existing block, songs one after another; latents are whitened."""

    clean_FPC: Tensor
    previous_FPC: Tensor
    semantic_FPD: Tensor
    hidden_FD: Tensor


class SongModel(nn.Module):
    """LM and DiT over shared semantic embeddings; latents are whitened on the way in and restored on the way out."""

    latent_mean_C: Tensor
    latent_std_C: Tensor

    def __init__(self, config: ModelConfig, *, checkpoint_activations: Recompute = False) -> None:
        """Build with random weights.

        Args:
            config: the model's shape.
            checkpoint_activations: what the backward pass recomputes instead of keeping it.
        """
        super().__init__()
        self.config = config
        self.conditioner = Conditioner(config)
        self.semantic_table = nn.Embedding(config.table_rows, config.dim)
        self.bos_D = nn.Parameter(torch.empty(config.dim))
        self.encode_block = nn.Sequential(
            nn.Linear(config.block_frames * config.latent_channels, config.dim),
            nn.SiLU(),
            nn.Linear(config.dim, config.dim),
        )
        self.lm = LanguageModel(config, checkpoint_activations=checkpoint_activations)
        self.semantic_head = SemanticHead(config)
        self.dit = BlockDit(config, checkpoint_activations=checkpoint_activations)
        self.register_buffer("latent_mean_C", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std_C", torch.ones(config.latent_channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights as the reference does: normal with `init_std`, no zero-initialised outputs."""
        std = self.config.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                nn.init.ones_(module.weight)
        nn.init.normal_(self.bos_D, std=std)
        nn.init.normal_(self.dit.embed_time.frequencies_Q1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SongModel":
        """Convert weights; the latent statistics follow the device but stay float32, as rounding moves every latent."""
        names = ("latent_mean_C", "latent_std_C")
        exact = {name: getattr(self, name) for name in names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in names:
            moved = getattr(self, name)  # of a model without memory there are no values to keep, but there is the type
            setattr(self, name, moved.float() if exact[name].is_meta else exact[name].to(moved.device))
        return self

    def compile_layers(self) -> None:
        """Compile, at first use, what does not depend on where songs begin and end; results agree up to rounding."""
        self.lm.compile_layers()
        self.semantic_head.compile_loss()
        self.dit.compile_layers()

    def set_latent_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Set the mean and standard deviation of each latent channel over the training songs."""
        for name, values in (("latent_mean_C", mean_C), ("latent_std_C", std_C)):
            if values.shape != self.latent_mean_C.shape or not values.isfinite().all():
                raise ConfigError(
                    f"{name} has shape {tuple(values.shape)}, expected {tuple(self.latent_mean_C.shape)} finite numbers"
                )
        if (std_C <= 0).any():
            raise ConfigError(f"latent_std_C: channel {int((std_C <= 0).nonzero()[0])} is not above 0")
        self.latent_mean_C.copy_(mean_C)
        self.latent_std_C.copy_(std_C)

    def whiten(self, latents: Tensor) -> Tensor:
        """Scale latents [..., C] to zero mean and unit variance per channel, in float32."""
        return (latents.float() - self.latent_mean_C) / self.latent_std_C

    def restore(self, whitened: Tensor) -> Tensor:
        """Undo `whiten`."""
        return whitened.float() * self.latent_std_C + self.latent_mean_C

    def forward(self, batch: SongBatch, draws: Draws) -> SongOutput:
        """Return both losses as sums per song."""
        latents_BTC = self.whiten(batch.latents_BTC)
        body_BXD = self.embed_body(batch.semantic_tokens_BT, latents_BTC)
        states = self.run_lm(self.encode_conditions(batch, draws), body_BXD, count_blocks(batch, self.config))

        targets_BT = make_targets(batch.semantic_tokens_BT, batch.num_frames_B, self.config.eos_id)
        ce_BT, is_correct_BT = self.score_targets(states.predictors_BTD, targets_BT, batch.num_frames_B)

        is_rendered_BN = mark_blocks(batch, self.config)
        if draws.block_weight_N is not None:
            is_rendered_BN[is_rendered_BN.clone()] = draws.block_weight_N > 0
            draws = draws.leave_blocks_out()
        blocks = Packing(is_rendered_BN, latents_BTC.device)
        inputs = self.gather_flow_inputs(batch, latents_BTC, states.hidden_BND, blocks)
        error_F = velocity_error(self.estimate_velocity(inputs, draws), inputs.clean_FPC, draws.noise_NPC)
        if draws.block_weight_N is not None:
            error_F = error_F * send(draws.block_weight_N, error_F.device)
        error_BN = blocks.unpack(error_F)
        return SongOutput(
            ce_sum_B=ce_BT.sum(dim=1),
            num_targets_B=send(batch.num_frames_B + 1, ce_BT.device),
            num_correct_B=is_correct_BT.sum(dim=1),
            flow_sum_B=error_BN.sum(dim=1),
            num_blocks_B=send(count_blocks(batch, self.config), error_BN.device),
            ce_BT=ce_BT,
            is_correct_BT=is_correct_BT,
            error_BN=error_BN,
        )

    def encode_conditions(self, batch: SongBatch, draws: Draws) -> Prefix:
        """Embed prompt and lyrics; a dropped condition is the same as one that the song never had."""
        drop_prompt_B = draws.drop_prompt_B | draws.drop_conditions_B
        return self.conditioner(
            batch.lyric_ids_BL,
            batch.num_lyrics_B.masked_fill(draws.drop_conditions_B, 0),
            self.whiten(batch.prompts_BNC),
            batch.num_prompt_frames_B.masked_fill(drop_prompt_B, 0),
        )

    def embed_body(self, tokens_BT: Tensor, latents_BTC: Tensor) -> Tensor:
        """Return the LM's input from BOS on; latents are whitened, and flattened frame after frame."""
        blocks = split_blocks(latents_BTC, self.config.block_frames).flatten(2)
        return weave_body(self.bos_D, self.semantic_table(tokens_BT), self.encode_block(blocks.to(self.bos_D.dtype)))

    def run_lm(self, prefix: Prefix, body_BXD: Tensor, num_blocks_B: Tensor) -> LmStates:
        """Read every song's prefix and body as one sequence of its own; nothing is padded inside the LM."""
        body_lengths_B = num_blocks_B * (self.config.block_frames + 1) + 1
        valid_BX = torch.cat([prefix.valid_BX, mark_first(body_lengths_B, body_BXD.shape[1])], dim=1)
        packing = Packing(valid_BX, body_BXD.device)
        attend = PackedCausal(packing.lengths)
        packed_SD = packing.pack(torch.cat([prefix.vectors_BXD, body_BXD], dim=1))
        states_BXD = packing.unpack(self.lm(packed_SD, attend.positions(packed_SD.device), attend))
        prefix_BXD, body_states_BXD = states_BXD.split([prefix.valid_BX.shape[1], body_BXD.shape[1]], dim=1)
        return LmStates(prefix_BXD, *unweave_body(body_states_BXD, self.config.block_frames))

    def score_targets(self, predictors_BTD: Tensor, targets_BT: Tensor, num_frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropy and correctness of every target; zero after a song's EOS."""
        scored = Packing(mark_first(num_frames_B + 1, targets_BT.shape[1]), targets_BT.device)
        ce_K, is_correct_K = self.semantic_head(scored.pack(predictors_BTD), scored.pack(targets_BT))
        return scored.unpack(ce_K), scored.unpack(is_correct_K)

    def gather_flow_inputs(
        self, batch: SongBatch, latents_BTC: Tensor, hidden_BND: Tensor, blocks: Packing
    ) -> FlowInputs:
        """Collect what the DiT needs about the blocks that exist."""
        clean_BNPC = split_blocks(latents_BTC, self.config.block_frames)
        tokens_BNP = split_blocks(batch.semantic_tokens_BT, self.config.block_frames)
        return FlowInputs(
            clean_FPC=blocks.pack(clean_BNPC),
            previous_FPC=blocks.pack(shift_blocks(clean_BNPC)),
            semantic_FPD=self.semantic_table(blocks.pack(tokens_BNP)),
            hidden_FD=blocks.pack(hidden_BND),
        )

    def estimate_velocity(self, inputs: FlowInputs, draws: Draws) -> Tensor:
        """Return the DiT's velocity_FPC at the drawn times, with the drawn conditions hidden."""
        return self.dit(
            mix(inputs.clean_FPC, draws.noise_NPC, draws.time_N),
            inputs.previous_FPC,
            inputs.semantic_FPD.masked_fill(draws.drop_semantic_N[:, None, None], 0),
            inputs.hidden_FD.masked_fill(draws.drop_hidden_N[:, None], 0),
            draws.time_N,
        )
