"""Weave semantic tokens and latent blocks into one LM sequence, and take the LM's output apart again.

Shape legend: B songs, T frames, N blocks, P frames per block, C latent channels, D width,
X positions of a sequence before packing, S positions of all sequences after packing.

A song's body is one row of P + 1 vectors per block and one last vector:

    BOS  s_1      ... s_P        predicts s_1     ... s_P     and, at s_P, gives the hidden vector of block 1
    A_1  s_(P+1)  ... s_2P       predicts s_(P+1) ... s_2P    and, at s_2P, gives the hidden vector of block 2
    ...
    A_N                          predicts EOS

s_j is an embedded semantic token, A_i the encoded latents of block i. So the first vector of a row, its lead, sums up
all that came before, every position but the last of a row predicts a token, and that last one speaks to the DiT.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.network.transfer import send

IGNORED = -100  # target of a position that predicts nothing; PyTorch's cross-entropy skips it


def split_blocks(frames_BTx: Tensor, block_frames: int) -> Tensor:
    """Cut the frame axis into blocks: [B, T, ...] -> [B, N, P, ...]."""
    return frames_BTx.unflatten(1, (frames_BTx.shape[1] // block_frames, block_frames))


def shift_blocks(blocks_BNPC: Tensor) -> Tensor:
    """Return the block before each block; zeros before the first."""
    return torch.cat([torch.zeros_like(blocks_BNPC[:, :1]), blocks_BNPC[:, :-1]], dim=1)


def weave_body(bos_D: Tensor, tokens_BTD: Tensor, blocks_BND: Tensor) -> Tensor:
    """Return the body, [B, N * (P + 1) + 1, D], of embedded tokens and encoded blocks."""
    num_songs, num_blocks, dim = blocks_BND.shape
    leads_BND = torch.cat([bos_D.expand(num_songs, 1, dim), blocks_BND], dim=1)
    block_frames = tokens_BTD.shape[1] // max(1, num_blocks)
    rows = torch.cat([leads_BND[:, :-1, None], tokens_BTD.unflatten(1, (num_blocks, block_frames))], dim=2)
    return torch.cat([rows.flatten(1, 2), leads_BND[:, -1:]], dim=1)


def unweave_body(body_BXD: Tensor, block_frames: int) -> tuple[Tensor, Tensor]:
    """Split LM output over a body into the states that predict tokens and those that speak to the DiT.

    Returns:
        predictors_BTD: T + 1 states; the one at index t predicts the token of frame t, the last one EOS.
        hidden_BND: one state per block.
    """
    rows = body_BXD[:, :-1].unflatten(1, (-1, block_frames + 1))
    predictors_BTD = torch.cat([rows[:, :, :-1].flatten(1, 2), body_BXD[:, -1:]], dim=1)
    return predictors_BTD, rows[:, :, -1]


def make_targets(tokens_BT: Tensor, num_frames_B: Tensor, eos_id: int) -> Tensor:
    """Return what each of the T + 1 predictors must say: the tokens, one EOS where the song ends, then IGNORED."""
    frames_T = torch.arange(tokens_BT.shape[1] + 1, device=tokens_BT.device)
    ends_B1 = send(num_frames_B, tokens_BT.device)[:, None]
    targets = pad(tokens_BT, (0, 1), value=eos_id)
    return targets.masked_fill(frames_T == ends_B1, eos_id).masked_fill(frames_T > ends_B1, IGNORED)


def mark_first(counts_B: Tensor, length: int) -> Tensor:
    """Return a mask, bool [B, length], of the first `counts_B` positions of each row, on the counts' device."""
    return torch.arange(length, device=counts_B.device) < counts_B[:, None]


class Packing:
    """Which positions of padded rows are real, and how to lay these side by side and back.

    The mask stays on the CPU, where lengths are read without waiting for an accelerator.
    """

    def __init__(self, valid_BX: Tensor, device: torch.device) -> None:
        self.shape = valid_BX.shape
        self.lengths: list[int] = valid_BX.sum(dim=1).tolist()
        self._index_S = send(valid_BX.flatten().nonzero().squeeze(1), device)

    def pack(self, rows_BXx: Tensor) -> Tensor:
        """Return the real positions of all rows, one after another: [B, X, ...] -> [S, ...]."""
        return rows_BXx.flatten(0, 1).index_select(0, self._index_S)

    def unpack(self, packed_Sx: Tensor) -> Tensor:
        """Undo `pack`; positions that are not real become zero: [S, ...] -> [B, X, ...]."""
        rows = packed_Sx.new_zeros((self.shape.numel(), *packed_Sx.shape[1:]))
        return rows.index_copy(0, self._index_S, packed_Sx).unflatten(0, tuple(self.shape))
