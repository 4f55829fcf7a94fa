"""The diffusion transformer: renders one block of latents from what the LM says about it.

Shape legend: N blocks (of any songs), P frames per block, C latent channels, D width, S positions, Q time features.
A block's positions: [time] hidden, P semantic tokens, P frames of the block before, P noisy frames. Nothing but the
rotary position tells these roles apart.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from model.network.attention import GatedFeedForward, Rotary, SelfAttention, attend_to_all, rotary_table
from model.network.config import ModelConfig
from model.network.recompute import Recompute, recompute_if

NORM_EPS = 1e-5  # of the released DiT


class TimeEmbedding(nn.Module):
    """Diffusion time -> vector: learned Fourier features (arXiv:2006.10739), then two layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.frequencies_Q1 = nn.Parameter(torch.empty(config.time_features // 2, 1))
        self.expand = nn.Linear(config.time_features, config.dim, bias=False)
        self.project = nn.Linear(config.dim, config.dim)

    def features(self, time_N: Tensor) -> Tensor:
        """Return cosines, then sines, in float32: bfloat16 would keep 8 bits of the time."""
        angles_NQ = 2 * math.pi * time_N.float()[:, None] * self.frequencies_Q1.float().squeeze(1)
        return torch.cat([angles_NQ.cos(), angles_NQ.sin()], dim=-1)

    def forward(self, time_N: Tensor) -> Tensor:
        """Return embedding_ND."""
        features = self.features(time_N).to(self.expand.weight.dtype)
        return self.project(silu(self.expand(features)))


class Modulation(nn.Module):
    """Adaptive layer norm (arXiv:2212.09748): the time scales, shifts and gates both branches of a layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.dim, 6 * config.dim, bias=False)

    def forward(self, time_ND: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (scale, shift, gate), each [N, 1, D], for attention and for the feed-forward."""
        parts = self.project(silu(time_ND))[:, None].chunk(6, dim=-1)
        return [(scale, shift, torch.sigmoid(1 - gate)) for scale, shift, gate in (parts[:3], parts[3:])]


class DitLayer(nn.Module):
    """One bidirectional block: normalise, attend, add; normalise, transform, add; optionally modulated by time."""

    def __init__(self, config: ModelConfig, *, checkpoint_activations: Recompute = False) -> None:
        super().__init__()
        self.recompute_ffn = checkpoint_activations == "selective"
        is_cheap = checkpoint_activations == "cheap"
        self.attention_norm = nn.LayerNorm(config.dim, eps=NORM_EPS, bias=False)
        self.attention = SelfAttention(config, recompute_input=is_cheap)
        self.ffn_norm = nn.LayerNorm(config.dim, eps=NORM_EPS, bias=False)
        self.ffn = GatedFeedForward(config, recompute_inputs=is_cheap)
        self.modulation = Modulation(config) if config.time_conditioning == "adaln" else None

    def forward(self, x_NSD: Tensor, rotary: Rotary, time_ND: Tensor, num_last: int | None = None) -> Tensor:
        """Return the residual stream after this layer.

        Args:
            x_NSD: residual stream before it.
            rotary: of the S positions.
            time_ND: embedded diffusion time; matters only to a modulated layer.
            num_last: return only so many positions at the end, and compute no more than these need; None: all.
        """
        last_NSD = x_NSD if num_last is None else x_NSD[:, -num_last:]
        if self.modulation is None:
            x_NSD = last_NSD + self.attention(x_NSD, self.attention_norm, rotary, attend_to_all, num_last)
            return recompute_if(self.recompute_ffn, self.transform, x_NSD)
        (scale, shift, gate), (ffn_scale, ffn_shift, ffn_gate) = self.modulation(time_ND)

        def norm(x_NSD: Tensor) -> Tensor:
            return self.attention_norm(x_NSD) * (1 + scale) + shift

        def ffn_norm(x_NSD: Tensor) -> Tensor:
            return self.ffn_norm(x_NSD) * (1 + ffn_scale) + ffn_shift

        x_NSD = last_NSD + gate * self.attention(x_NSD, norm, rotary, attend_to_all, num_last)
        return x_NSD + ffn_gate * recompute_if(self.recompute_ffn, self.ffn, x_NSD, ffn_norm)

    def transform(self, x_NSD: Tensor) -> Tensor:
        """Return the residual stream after the feed-forward network of a layer that is not modulated."""
        return x_NSD + self.ffn(x_NSD, self.ffn_norm)


class BlockDit(nn.Module):
    """Estimate the velocity of a noisy block of latents (rectified flow, arXiv:2209.03003)."""

    def __init__(self, config: ModelConfig, *, checkpoint_activations: Recompute = False) -> None:
        super().__init__()
        self.rotary_dim = config.dit_rotary_dim
        self.rope_base = config.dit_rope_base
        self.prepends_time = config.time_conditioning == "prepend"
        self.recompute_layers = checkpoint_activations is True
        self.project_in = nn.Linear(config.latent_channels, config.dim)
        self.embed_time = TimeEmbedding(config)
        self.layers = nn.ModuleList(
            DitLayer(config, checkpoint_activations=checkpoint_activations) for _ in range(config.dit_layers)
        )
        self.project_out = nn.Linear(config.dim, config.latent_channels)

    def forward(
        self, noisy_NPC: Tensor, previous_NPC: Tensor, semantic_NPD: Tensor, hidden_ND: Tensor, time_N: Tensor
    ) -> Tensor:
        """Estimate `noise - clean` of every frame.

        Args:
            noisy_NPC: (1 - time) * clean + time * noise, float32.
            previous_NPC: clean latents of the block before, float32; zeros for the first block of a song.
            semantic_NPD: embedded semantic tokens of the block; zeros mean "no condition".
            hidden_ND: LM state at the block's last token; zeros mean "no condition".
            time_N: diffusion time in [0, 1]; 1 is pure noise.

        Returns:
            velocity_NPC, float32.
        """
        time_ND = self.embed_time(time_N)
        frames = torch.cat([previous_NPC, noisy_NPC], dim=1).to(self.project_in.weight.dtype)
        parts = [hidden_ND[:, None], semantic_NPD, self.project_in(frames)]
        if self.prepends_time:
            parts.insert(0, time_ND[:, None])
        x_NSD = torch.cat(parts, dim=1)
        rotary = rotary_table(torch.arange(x_NSD.shape[1], device=x_NSD.device), self.rotary_dim, self.rope_base)
        num_noisy = noisy_NPC.shape[1]
        for layer in self.layers:
            num_last = num_noisy if layer is self.layers[-1] else None  # nothing else of its output is looked at
            x_NSD = recompute_if(self.recompute_layers, layer, x_NSD, rotary, time_ND, num_last)
        return self.project_out(x_NSD).float()

    def compile_layers(self) -> None:
        """Compile the layers at first use."""
        for layer in self.layers:
            layer.compile(dynamic=True)
