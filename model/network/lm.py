"""The language model: a causal transformer over one song's conditions, semantic tokens and latent blocks.

Shape legend: S positions of all sequences, packed one after another; D width; V predictable ids (codes and EOS).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from model.network.attention import Attend, GatedFeedForward, Rotary, SelfAttention, rotary_table
from model.network.config import ModelConfig
from model.network.losses import CHUNK_POSITIONS, LossKernels, compile_kernels, score_tokens
from model.network.recompute import Recompute, recompute_if

NORM_EPS = 1e-6  # of the released LM
OUTPUT_MULTIPLE = 64  # 16,385 is odd, and no row of logits would begin where tensor cores can write it


class LmLayer(nn.Module):
    """One Llama-style block (arXiv:2307.09288): normalise, attend, add; normalise, transform, add."""

    def __init__(self, config: ModelConfig, *, checkpoint_activations: Recompute = False) -> None:
        super().__init__()
        self.recompute_ffn = checkpoint_activations == "selective"
        is_cheap = checkpoint_activations == "cheap"
        self.attention_norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.attention = SelfAttention(config, recompute_input=is_cheap)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.ffn = GatedFeedForward(config, recompute_inputs=is_cheap)

    def forward(self, x_SD: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        """Return the residual stream after this layer."""
        return self.finish(x_SD, attend(*self.attention.project(x_SD, self.attention_norm, rotary)))

    def finish(self, x_SD: Tensor, mixed_SHE: Tensor) -> Tensor:
        """Return the residual stream after this layer, from that before it and what its attention has mixed."""
        x_SD = x_SD + self.attention.out(mixed_SHE.flatten(-2))
        return recompute_if(self.recompute_ffn, self.transform, x_SD)

    def transform(self, x_SD: Tensor) -> Tensor:
        """Return the residual stream after the feed-forward network."""
        return x_SD + self.ffn(x_SD, self.ffn_norm)

    def compile_parts(self) -> None:
        """Compile what does not depend on who sees whom."""
        self.attention.project = torch.compile(self.attention.project, dynamic=True)  # type: ignore[method-assign]
        self.finish = torch.compile(self.finish, dynamic=True)  # type: ignore[method-assign]


class LanguageModel(nn.Module):
    """Layers and final norm; embeddings and heads belong to the song model."""

    def __init__(self, config: ModelConfig, *, checkpoint_activations: Recompute = False) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.rope_base = config.lm_rope_base
        self.recompute_layers = checkpoint_activations is True
        self.layers = nn.ModuleList(
            LmLayer(config, checkpoint_activations=checkpoint_activations) for _ in range(config.lm_layers)
        )
        self.norm = nn.RMSNorm(config.dim, eps=NORM_EPS)

    def forward(
        self, x_SD: Tensor, positions_S: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return the normalised state at every position.

        Args:
            x_SD: embedded sequences, packed.
            positions_S: position of each vector in its own sequence, from 0.
            attend: decides who sees whom; its first argument is the layer's number.
        """
        rotary = rotary_table(positions_S, self.head_dim, self.rope_base)
        for number, layer in enumerate(self.layers):
            x_SD = recompute_if(self.recompute_layers, layer, x_SD, rotary, partial(attend, number))
        return self.norm(x_SD)

    def compile_layers(self) -> None:
        """Compile the layers at first use."""
        for layer in self.layers:
            assert isinstance(layer, LmLayer)
            layer.compile_parts()
        self.norm.forward = torch.compile(self.norm.forward, dynamic=True)  # type: ignore[method-assign]


class SemanticHead(nn.Module):
    """Turn LM states into logits of the next semantic token or EOS, or into the scores of given tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chunk_positions = CHUNK_POSITIONS
        self.kernels: LossKernels | None = None
        self.transform = nn.Linear(config.dim, config.dim, bias=False)
        self.classify = nn.Linear(config.dim, config.codebook_size + 1)

    @overload
    def __call__(self, states_SD: Tensor) -> Tensor: ...

    @overload
    def __call__(self, states_SD: Tensor, targets_S: Tensor) -> tuple[Tensor, Tensor]: ...

    def __call__(self, states_SD: Tensor, targets_S: Tensor | None = None) -> Any:
        """Call `forward`, hooks included."""
        return super().__call__(states_SD, targets_S)

    def forward(self, states_SD: Tensor, targets_S: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits_SV in float32, whatever the weights' precision; with targets, their scores.

        Scores are cross-entropy_S and is_correct_S, computed `chunk_positions` at a time. That happens inside this one
        call, because ZeRO 3 gathers weights at every call, and ranks have different numbers of chunks. Outputs that no
        token has, whose probability is 0, fill up to a number that tensor cores like.
        """
        states_SD = silu(self.transform(states_SD))
        if targets_S is None:
            logits_SV: Tensor = self.classify(states_SD)
            return logits_SV.float()
        missing = -self.classify.out_features % OUTPUT_MULTIPLE
        classify_VD = pad(self.classify.weight, (0, 0, 0, missing))
        bias_V = pad(self.classify.bias, (0, missing), value=-math.inf)
        return score_tokens(states_SD, targets_S, classify_VD, bias_V, self.chunk_positions, self.kernels)

    def compile_loss(self) -> None:
        """Compile the passes over the logits at first use."""
        self.kernels = compile_kernels()
