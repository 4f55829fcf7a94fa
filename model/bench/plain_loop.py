"""The plain way to write a song: what `model/sampling/sampling.py` is measured and tested against.

Shape legend: P frames per block, C latent channels, D width, V ids, X positions read so far.

One song after another, the two branches of guidance one after the other, and a block is rendered before anybody looks
for EOS in it. Branches differ in how they remember: `RereadingBranch` reads the whole sequence anew for every token;
`ConcatenatingBranch` appends each new key and value to the old ones, as the public sampler does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.network.attention import PackedCausal
from model.network.flow import integrate
from model.network.noise import draw_block
from model.network.song_model import SongModel
from model.sampling.sampling import GeneratedSong
from model.sampling.sampling_config import SamplingConfig
from model.sampling.token_choice import choose_tokens


class RereadingBranch:
    """One branch of guidance, without a memory other than the vectors it has read."""

    def __init__(self, model: SongModel) -> None:
        self.model = model
        self.vectors_XD = model.bos_D.new_zeros(0, model.config.dim)

    def read(self, vectors_XD: Tensor) -> Tensor:
        """Return the LM's state after `vectors_XD` and all before."""
        self.vectors_XD = torch.cat([self.vectors_XD, vectors_XD])
        attend = PackedCausal([len(self.vectors_XD)])
        return self.model.lm(self.vectors_XD, attend.positions(self.vectors_XD.device), attend)[-1]


class ConcatenatingBranch:
    """One branch of guidance, with keys and values that grow by concatenation."""

    def __init__(self, model: SongModel) -> None:
        self.model = model
        self.length = 0
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}

    def read(self, vectors_XD: Tensor) -> Tensor:
        """Return the LM's state after `vectors_XD`; only the first call may hold several vectors."""
        positions = torch.arange(self.length, self.length + len(vectors_XD), device=vectors_XD.device)
        self.length += len(vectors_XD)
        return self.model.lm(vectors_XD, positions, self._attend)[-1]

    def _attend(self, layer: int, *vectors: Tensor) -> Tensor:
        query, key, value = (x.transpose(0, 1)[None] for x in vectors)
        if layer in self._memory:
            key, value = (torch.cat(pair, dim=2) for pair in zip(self._memory[layer], (key, value), strict=True))
        self._memory[layer] = key, value
        mixed = scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] == key.shape[2])
        return mixed[0].transpose(0, 1)


Branch = RereadingBranch | ConcatenatingBranch


@torch.inference_mode()
def write_song(
    model: SongModel,
    kind: type[RereadingBranch] | type[ConcatenatingBranch],
    lyric_ids: Sequence[int],
    prompt: Tensor,
    seed: int,
    config: SamplingConfig,
) -> GeneratedSong:
    """Write one song with the draws that `generate` makes for its seed; no repetition penalty, guidance "hidden"."""
    branches = (kind(model), kind(model))
    conditional, null = (
        branch.read(vectors)
        for branch, vectors in zip(branches, _read_conditions(model, lyric_ids, prompt), strict=True)
    )
    previous = torch.zeros(1, model.config.block_frames, model.config.latent_channels, device=model.bos_D.device)
    tokens, latents = [], []
    max_blocks = -(-config.max_frames // model.config.block_frames)
    for block in range(max_blocks):
        uniform_P, noise_PC = draw_block(seed, block, model.config)
        written = []
        for uniform in uniform_P.to(model.bos_D.device):
            logits = [model.semantic_head(state[None]) for state in (conditional, null)]
            final_1V = logits[1] + config.cfg_scale * (logits[0] - logits[1])
            token_1 = choose_tokens(final_1V, uniform[None], config)
            conditional, null = (branch.read(model.semantic_table(token_1)) for branch in branches)
            written.append(token_1)
        tokens_P = torch.cat(written)
        previous = _render(model, config, tokens_P, conditional, previous, noise_PC)
        if config.stop_at_eos and (tokens_P == model.config.eos_id).any():
            break
        tokens.append(tokens_P.cpu())
        latents.append(model.restore(previous[0]).cpu())
        vector_1D = model.encode_block(previous.flatten(1).to(model.bos_D.dtype))
        conditional, null = (branch.read(vector_1D) for branch in branches)
    return GeneratedSong(
        semantic_tokens=torch.cat([torch.zeros(0, dtype=torch.int64), *tokens]),
        latents=torch.cat([torch.zeros(0, model.config.latent_channels), *latents]),
        ended="max_frames" if len(tokens) == max_blocks else "eos",
    )


def _read_conditions(model: SongModel, lyric_ids: Sequence[int], prompt: Tensor) -> list[Tensor]:
    """Return what the two branches read first: conditions and BOS, null conditions and BOS; each [X, D]."""
    device = model.bos_D.device
    sequences = []
    for ids, frames in ((list(lyric_ids), prompt), ([], prompt[:0])):
        prefix = model.conditioner(
            torch.tensor([ids], dtype=torch.int64, device=device),
            torch.tensor([len(ids)]),
            model.whiten(frames[None].float().to(device)),
            torch.tensor([len(frames)]),
        )
        sequences.append(torch.cat([prefix.vectors_BXD[0], model.bos_D[None]]))
    return sequences


def _render(
    model: SongModel, config: SamplingConfig, tokens_P: Tensor, hidden_D: Tensor, previous_1PC: Tensor, noise_PC: Tensor
) -> Tensor:
    """Return the block's whitened latents [1, P, C]."""
    semantic_1PD = model.semantic_table(tokens_P)[None]

    def velocity(point_1PC: Tensor, time: float) -> Tensor:
        time_1 = torch.full((1,), time, device=point_1PC.device)
        conditional = model.dit(point_1PC, previous_1PC, semantic_1PD, hidden_D[None], time_1)
        nothing = torch.zeros_like(semantic_1PD), torch.zeros_like(hidden_D[None])
        null = model.dit(point_1PC, previous_1PC, *nothing, time_1)
        return null + config.cfg_scale * (conditional - null)

    return integrate(velocity, noise_PC[None].to(previous_1PC.device), config.euler_steps)
