"""The language model: a causal transformer over one song's conditions, semantic tokens and latent blocks.

Shape legend: S positions of all sequences, packed one after another; D width; V predictable ids (codes and EOS).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from model.attention import Attend, GatedFeedForward, Rotary, SelfAttention, rotary_table
from model.config import ModelConfig
from model.recompute import Recompute, recompute_if

NORM_EPS = 1e-6  # of the released LM


class LmLayer(nn.Module):
    """One Llama-style block (arXiv:2307.09288): normalise, attend, add; normalise, transform, add."""

    def __init__(self, config: ModelConfig, *, recompute_ffn: bool = False) -> None:
        super().__init__()
        self.recompute_ffn = recompute_ffn
        self.attention_norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.attention = SelfAttention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.ffn = GatedFeedForward(config)

    def forward(self, x_SD: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        """Return the residual stream after this layer."""
        x_SD = x_SD + self.attention(self.attention_norm(x_SD), rotary, attend)
        return recompute_if(self.recompute_ffn, self.transform, x_SD)

    def transform(self, x_SD: Tensor) -> Tensor:
        """Return the residual stream after the feed-forward network."""
        return x_SD + self.ffn(self.ffn_norm(x_SD))

    def compile_parts(self) -> None:
        """Compile what does not depend on who sees whom."""
        self.attention.project = torch.compile(self.attention.project, dynamic=True)  # type: ignore[method-assign]
        self.transform = torch.compile(self.transform, dynamic=True)  # type: ignore[method-assign]


class LanguageModel(nn.Module):
    """Layers and final norm; embeddings and heads belong to the song model."""

    def __init__(self, config: ModelConfig, *, checkpoint_activations: Recompute = False) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.rope_base = config.lm_rope_base
        self.recompute_layers = checkpoint_activations is True
        recompute_ffn = checkpoint_activations == "selective"
        self.layers = nn.ModuleList(LmLayer(config, recompute_ffn=recompute_ffn) for _ in range(config.lm_layers))
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


class SemanticHead(nn.Module):
    """Turn LM states into logits of the next semantic token or EOS."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.dim, config.dim, bias=False)
        self.classify = nn.Linear(config.dim, config.codebook_size + 1)

    def forward(self, states_SD: Tensor) -> Tensor:
        """Return logits_SV in float32, whatever the weights' precision."""
        return self.classify(silu(self.transform(states_SD))).float()
