"""The trainer that people would write first: what `model/training/trainer.py` is measured against.

Shape legend: B songs, T frames, N blocks of the longest song, P frames per block, C latent channels, D width,
X positions of the longest sequence, H heads, S positions of a block, E channels per head.

Everything is padded to the longest song. The LM is `LlamaModel` of transformers with an attention mask and full
gradient checkpointing; the DiT renders all N blocks of all songs with attention written out; all logits exist at once.
It computes the same loss as the song model whose weights it takes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from model.network.attention import Rotary, SelfAttention, rotary_table, rotate
from model.network.dit import BlockDit, DitLayer
from model.network.flow import mix
from model.network.interleave import IGNORED, make_targets, mark_first, shift_blocks, split_blocks
from model.network.lm import NORM_EPS
from model.network.noise import Draws
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.weights.reference_weights import to_reference

LLAMA_ROOT = "ar_transformer."  # of the reference's keys, below which its LM has transformers' names


class PlainModel(nn.Module):
    """The song model in the plain way, without dropout of conditions."""

    def __init__(self, source: SongModel) -> None:
        """Take over the weights of `source`; its time conditioning is "prepend" and its conditions are not padded."""
        super().__init__()
        self.config = source.config
        self.llama = _build_llama(source)
        self.source = source
        del source.lm

    def forward(self, batch: SongBatch, draws: Draws, flow_weight: float) -> Tensor:
        """Return the loss of the batch."""
        source, block_frames = self.source, self.config.block_frames
        num_blocks = split_blocks(batch.semantic_tokens_BT, block_frames).shape[1]
        has_block_BN = mark_first(batch.num_frames_B // block_frames, num_blocks)
        latents_BTC = source.whiten(batch.latents_BTC)
        predictors_BTD, hidden_BND = self._run_llama(batch, latents_BTC)

        logits_BTV = source.semantic_head(predictors_BTD)
        targets_BT = make_targets(batch.semantic_tokens_BT, batch.num_frames_B, self.config.eos_id)
        ce = cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED)

        clean_BNPC = split_blocks(latents_BTC, block_frames)
        noise_BNPC, time_BN = torch.zeros_like(clean_BNPC), torch.zeros(has_block_BN.shape)
        noise_BNPC[has_block_BN], time_BN[has_block_BN] = draws.noise_NPC, draws.time_N
        velocity_BNPC = _run_dit(
            source.dit,
            mix(clean_BNPC.flatten(0, 1), noise_BNPC.flatten(0, 1), time_BN.flatten()),
            shift_blocks(clean_BNPC).flatten(0, 1),
            split_blocks(source.semantic_table(batch.semantic_tokens_BT), block_frames).flatten(0, 1),
            hidden_BND.flatten(0, 1),
            time_BN.flatten(),
        ).view_as(clean_BNPC)
        error_BN = (velocity_BNPC - (noise_BNPC - clean_BNPC)).square().mean(dim=(2, 3))
        return ce + flow_weight * (error_BN * has_block_BN).sum() / has_block_BN.sum()

    def _run_llama(self, batch: SongBatch, latents_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictors_BTD and hidden_BND, with anything after a song's end."""
        source, block_frames = self.source, self.config.block_frames
        prefix = source.conditioner(
            batch.lyric_ids_BL, batch.num_lyrics_B, source.whiten(batch.prompts_BNC), batch.num_prompt_frames_B
        )
        body_BXD = source.embed_body(batch.semantic_tokens_BT, latents_BTC)
        rows = [
            torch.cat([vectors[is_valid], body])
            for vectors, is_valid, body in zip(prefix.vectors_BXD, prefix.valid_BX, body_BXD, strict=True)
        ]
        prefix_lengths_B = prefix.valid_BX.sum(dim=1)
        lengths_B = prefix_lengths_B + batch.num_frames_B // block_frames * (block_frames + 1) + 1
        rows_BXD = pad_sequence(rows, batch_first=True)
        mask_BX = mark_first(lengths_B, rows_BXD.shape[1])
        output = self.llama(inputs_embeds=rows_BXD, attention_mask=mask_BX, use_cache=False)
        states_BXD = torch.stack(
            [
                row[start : start + body_BXD.shape[1]]
                for row, start in zip(output.last_hidden_state, prefix_lengths_B.tolist(), strict=True)
            ]
        )
        per_block = states_BXD[:, :-1].unflatten(1, (-1, block_frames + 1))
        predictors_BTD = torch.cat([per_block[:, :, :-1].flatten(1, 2), states_BXD[:, -1:]], dim=1)
        return predictors_BTD, per_block[:, :, -1]


def _build_llama(source: SongModel) -> nn.Module:
    """Return transformers' LM with the weights of ours."""
    from transformers import LlamaConfig, LlamaModel

    config = source.config
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=1,
            hidden_size=config.dim,
            intermediate_size=config.ffn_scale * config.dim,
            num_hidden_layers=config.lm_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=4096,
            rms_norm_eps=NORM_EPS,
            rope_theta=config.lm_rope_base,
        )
    )
    weights = to_reference({name: parameter.detach() for name, parameter in source.named_parameters()}, config)
    own = {key.removeprefix(LLAMA_ROOT): value for key, value in weights.items() if key.startswith(LLAMA_ROOT)}
    llama.load_state_dict(own, strict=False)
    llama.gradient_checkpointing_enable()
    return llama.train()


def _run_dit(dit: BlockDit, noisy: Tensor, previous: Tensor, semantic: Tensor, hidden: Tensor, time: Tensor) -> Tensor:
    """Return the velocity of every block, attention written out."""
    frames_NSD = dit.project_in(torch.cat([previous, noisy], dim=1))
    x_NSD = torch.cat([dit.embed_time(time)[:, None], hidden[:, None], semantic, frames_NSD], dim=1)
    rotary = rotary_table(torch.arange(x_NSD.shape[1]), dit.rotary_dim, dit.rope_base)
    for layer in dit.layers:
        assert isinstance(layer, DitLayer)
        x_NSD = x_NSD + _attend_eagerly(layer.attention, layer.attention_norm(x_NSD), rotary)
        x_NSD = x_NSD + layer.ffn(x_NSD, layer.ffn_norm)
    return dit.project_out(x_NSD[:, -noisy.shape[1] :])


def _attend_eagerly(attention: SelfAttention, x_NSD: Tensor, rotary: Rotary) -> Tensor:
    """Mix positions with all attention weights in memory."""
    qkv = attention.qkv(x_NSD).unflatten(-1, (3, attention.num_heads, -1))
    query_NSHE, key_NSHE, value_NSHE = qkv.unbind(-3)
    query, key = (rotate(x, rotary).transpose(1, 2) for x in (query_NSHE, key_NSHE))
    weights_NHSS = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
    return attention.out((weights_NHSS @ value_NSHE.transpose(1, 2)).transpose(1, 2).flatten(-2))
