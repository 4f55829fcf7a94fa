"""The parts that both transformers share: rotary positions, self-attention, gated feed-forward.

Shape legend: S positions, H heads, E channels per head, D width.

A layer computes queries, keys and values; who may look at whom is decided by an `Attend` function handed in from
outside, so that one layer serves training, prefill, cached decoding and the bidirectional DiT.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from model.network.config import ModelConfig
from model.network.recompute import recompute_cheaply
from model.network.step_cache import StepCache
from model.network.transfer import send
from model.network.varlen import find_kernel, suits_kernel

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys, values [..., S, H, E] -> mixed values of the same shape."""

Normalise = Callable[[Tensor], Tensor]
"""Residual stream [..., S, D] -> what a branch of a layer reads, of the same shape."""

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [S, 1, rotary_dim / 2], float32."""


def rotary_table(positions_S: Tensor, rotary_dim: int, base: float) -> Rotary:
    """Return the rotation of each position (RoPE, arXiv:2104.09864), in float32 at any position."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=positions_S.device) / rotary_dim
    angles = positions_S.float()[:, None, None] * (1.0 / base**exponents)
    return angles.cos(), angles.sin()


def rotate(x_SHE: Tensor, rotary: Rotary) -> Tensor:
    """Rotate channel i with channel i + rotary_dim / 2; channels past rotary_dim pass unchanged."""
    cos, sin = rotary
    half = cos.shape[-1]
    first, second, rest = x_SHE.split([half, half, x_SHE.shape[-1] - 2 * half], dim=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat([*(part.to(x_SHE.dtype) for part in rotated), rest], dim=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention without biases; one matrix makes queries, keys and values, in this order."""

    def __init__(self, config: ModelConfig, *, recompute_input: bool = False) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.recompute_input = recompute_input
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x_SD: Tensor, norm: Normalise, rotary: Rotary, attend: Attend, num_last: int | None = None
    ) -> Tensor:
        """Mix positions; leading dimensions before S are free.

        Args:
            x_SD: residual stream.
            norm: normalises it.
            rotary: of all positions.
            attend: decides who sees whom.
            num_last: return only so many positions at the end, which still see all; None: all.
        """
        query, key, value = self.project(x_SD, norm, rotary)
        if num_last is not None:
            query = query[..., -num_last:, :, :]
        return self.out(attend(query, key, value).flatten(-2))

    def project(self, x_SD: Tensor, norm: Normalise, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, rotated keys, and values, each [..., S, H, E]."""
        fused = recompute_cheaply(self.recompute_input, lambda x_SD: self.qkv(norm(x_SD)), x_SD)
        query, key, value = fused.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        return rotate(query, rotary), rotate(key, rotary), value


class GatedFeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202) without biases: down(silu(gate) * up); one matrix makes gate and up, in this order."""

    def __init__(self, config: ModelConfig, *, recompute_inputs: bool = False) -> None:
        super().__init__()
        hidden = config.ffn_scale * config.dim
        self.recompute_inputs = recompute_inputs
        self.gate_up = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.dim, bias=False)

    def forward(self, x_SD: Tensor, norm: Normalise) -> Tensor:
        """Transform each position of the residual stream on its own, after `norm`."""
        gate_up = recompute_cheaply(self.recompute_inputs, lambda x_SD: self.gate_up(norm(x_SD)), x_SD)
        out: Tensor = recompute_cheaply(self.recompute_inputs, lambda gate_up: self.down(_gate(gate_up)), gate_up)
        return out


def _gate(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of a fused [..., gate and up]."""
    if torch.compiler.is_compiling():  # a compiler keeps the input alone by itself, and cannot see into the function
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate) * up
    return _GatedSilu.apply(gate_up)  # type: ignore[no-untyped-call]


class _GatedSilu(torch.autograd.Function):
    """Keeps its input alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(silu(gate), grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up


def attend_to_all(query_SHE: Tensor, key_SHE: Tensor, value_SHE: Tensor) -> Tensor:
    """Let every position see every other of its own row."""
    query, key, value = (x.transpose(-2, -3) for x in (query_SHE, key_SHE, value_SHE))
    return scaled_dot_product_attention(query, key, value).transpose(-2, -3)


class PackedCausal:
    """Causal attention within each of several sequences that lie one after another, without padding."""

    def __init__(self, lengths: Sequence[int], cache: StepCache | None = None) -> None:
        """Expect sequences of `lengths`; with a cache, store each as one of its rows."""
        self.lengths = list(lengths)
        self.cache = cache
        self._bounds: Tensor | None = None

    def positions(self, device: torch.device) -> Tensor:
        """Return the position of each vector within its own sequence, from 0."""
        return send(torch.cat([torch.arange(length) for length in self.lengths]), device)

    def __call__(self, layer: int, query_SHE: Tensor, key_SHE: Tensor, value_SHE: Tensor) -> Tensor:
        """Attend within each sequence."""
        if self.cache is not None:
            self._store(layer, key_SHE, value_SHE)
        kernel = find_kernel(query_SHE.device) if suits_kernel(query_SHE) else None
        if kernel is not None:
            return kernel(query_SHE, key_SHE, value_SHE, self._locate(query_SHE.device), max(self.lengths))
        mixed = []
        sequences = zip(*(x.split(self.lengths) for x in (query_SHE, key_SHE, value_SHE)), strict=True)
        for sequence in sequences:
            query, key, value = (x.transpose(0, 1)[None] for x in sequence)
            out = scaled_dot_product_attention(query, key, value, is_causal=True)
            mixed.append(out[0].transpose(0, 1))
        return torch.cat(mixed)

    def _store(self, layer: int, key_SHE: Tensor, value_SHE: Tensor) -> None:
        """Put each sequence's keys and values at the start of its row of the cache."""
        assert self.cache is not None
        for stored, new in ((self.cache.keys_LRHME, key_SHE), (self.cache.values_LRHME, value_SHE)):
            for row, sequence in enumerate(new.split(self.lengths)):
                stored[layer, row, :, : self.lengths[row]] = sequence.transpose(0, 1)

    def _locate(self, device: torch.device) -> Tensor:
        """Return where each sequence starts and the last one ends, int32."""
        if self._bounds is None:
            ends = torch.tensor([0, *self.lengths]).cumsum(0, dtype=torch.int32)
            self._bounds = send(ends, device)
        return self._bounds
