"""Muon (arXiv:2502.16982) for the matrices of attention and feed-forward, AdamW for the rest, sharded by ZeRO 1 and 2.

DeepSpeed has a Muon too. Under ZeRO it clips the norm of the update that Muon has made instead of the gradient's, keeps
the momentum of stages 1 and 2 under no parameter's name, and takes embeddings and output layers for matrices
(MEASUREMENTS.md). PyTorch's, from 2.9 on, takes whole matrices alone, and ZeRO hands over flat parts. Here an update is
AdamW's step on the flat part of a rank, whose momentum has its shape, so that checkpoints hold it by name.

Shape legend: G matrices that one weight stacks, R rows, C columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.network.lora import find_matrices
from model.network.song_model import SongModel

MOMENTUM = "momentum_buffer"  # what is kept per matrix
STACKED = {"qkv": 3, "gate_up": 2}  # matrices that a layer fuses into one, below each other
RMS = 0.2  # of an update, as AdamW's usually have: one learning rate and decay for both (arXiv:2502.16982, 2.2)
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial; Keller Jordan, "Muon", 2024


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one weight that a rank updates."""

    shape: tuple[int, int, int]  # G, R, C of the whole
    start: int  # in the rank's tensor
    offset: int  # in the weight
    count: int  # numbers; 0: only others have some
    is_shared: bool  # no rank has all of it


class MuonAdamW(torch.optim.AdamW):
    """AdamW, except for groups with `is_orthogonal`, whose updates are momenta made nearly orthogonal.

    `pieces` says for each tensor of these groups which parts of which matrices it holds, in the same order on all ranks
    where they are shared.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, momentum: float, **adamw: Any) -> None:
        """Take AdamW's parameter groups and arguments."""
        super().__init__(groups, **adamw)
        self.momentum = momentum
        self.pieces: dict[Tensor, Sequence[Piece]] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all groups; DeepSpeed calls it for one at a time."""
        assert closure is None, "a step is computed once"
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("is_orthogonal")]
            if self.param_groups:
                super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            for tensor in group["params"] if group.get("is_orthogonal") else ():
                if tensor.grad is not None:
                    self._update(tensor, tensor.grad, group["lr"], group["weight_decay"])

    def _update(self, tensor: Tensor, grad: Tensor, lr: float, weight_decay: float) -> None:
        """Update what this rank has of each matrix."""
        momentum = self.state[tensor][MOMENTUM].lerp_(grad, 1 - self.momentum)
        directions = grad.lerp(momentum, self.momentum).view(-1)  # Nesterov's
        tensor.mul_(1 - lr * weight_decay)
        flat = tensor.view(-1)
        for piece in self.pieces[tensor]:
            here = slice(piece.start, piece.start + piece.count)
            whole = _add_up(directions[here], piece) if piece.is_shared else directions[here]
            if piece.count:
                update = orthogonalize(whole.view(piece.shape)).reshape(-1)[piece.offset : piece.offset + piece.count]
                flat[here].add_(update, alpha=-lr * RMS * math.sqrt(max(piece.shape[1:])))


@torch.no_grad()
def orthogonalize(matrices_GRC: Tensor) -> Tensor:
    """Return matrices of the same singular vectors, whose singular values lie near 1; zeros stay zeros.

    In bfloat16 on a GPU, which is exact enough for it (`COEFFICIENTS`' source), in their own precision on a CPU.
    """
    is_tall = matrices_GRC.shape[1] > matrices_GRC.shape[2]
    x = matrices_GRC.mT if is_tall else matrices_GRC
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)  # gradients may be of 1e-7
    if x.is_cuda:
        x = x.bfloat16()
    first, third, fifth = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices_GRC.dtype)


def find_shapes(model: SongModel) -> dict[Tensor, tuple[int, int, int]]:
    """Return G, R and C of every weight of attention and feed-forward."""
    shapes: dict[Tensor, tuple[int, int, int]] = {}
    for name, layer in find_matrices(model).items():
        num_stacked = STACKED.get(name.rpartition(".")[2], 1)
        shapes[layer.weight] = (num_stacked, layer.out_features // num_stacked, layer.in_features)
    return shapes


def count_flops(num_stacked: int, rows: int, columns: int) -> float:
    """Return the operations of `orthogonalize` for one weight, by its G, R and C."""
    short, long = sorted((rows, columns))
    return num_stacked * NUM_ITERATIONS * (4.0 * short * short * long + 2.0 * short**3)


def _add_up(part: Tensor, piece: Piece) -> Tensor:
    """Return the whole matrix whose parts lie on several ranks."""
    whole = part.new_zeros(math.prod(piece.shape))
    whole[piece.offset : piece.offset + piece.count] = part
    torch.distributed.all_reduce(whole)
    return whole
