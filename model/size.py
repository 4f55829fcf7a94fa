"""How large a model is and what a training step costs, without building it.

Shape legend: S positions of a song's LM sequence, T frames, N blocks, D width.
"""

from collections.abc import Sequence

import torch
from torch import nn

from model.config import ModelConfig
from model.noise import count_rendered
from model.recompute import Recompute
from model.song_model import SongModel

BACKWARD_FACTOR = 2  # the backward pass multiplies twice for each multiplication of the forward pass
A100_FLOPS = 312e12  # bf16 operations a second, NVIDIA's datasheet; the paper trained on 16 of them


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Return trainable numbers by part, and their total, from a model that holds no memory."""
    with torch.device("meta"):
        model = SongModel(config)
    parts: dict[str, nn.Module] = {
        "lm": model.lm,
        "dit_layers": model.dit.layers,
        "dit_projections": nn.ModuleList([model.dit.project_in, model.dit.project_out]),
        "dit_time": model.dit.embed_time,
        "semantic_table": model.semantic_table,
        "semantic_head": model.semantic_head,
        "encode_block": model.encode_block,
        "conditioner": model.conditioner,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    counts["bos"] = model.bos_D.numel()
    return counts | {"total": sum(counts.values())}


def flops_per_step(
    config: ModelConfig,
    num_frames: Sequence[int],
    num_lyrics: Sequence[int] | None = None,
    num_prompt_frames: Sequence[int] | None = None,
    *,
    checkpoint_activations: Recompute = False,
) -> dict[str, float]:
    """Return the floating-point operations of one training step by part, and their total.

    Counts matrix products only; a multiplication and an addition are two operations. Causal attention counts as half.

    Args:
        config: the model's shape.
        num_frames: frames of each song of the step, over all ranks and micro-batches.
        num_lyrics: lyric symbols of each song; None, or padding mode fixed: the whole budget.
        num_prompt_frames: prompt frames of each song; None, or padding mode fixed: the longest prompt.
        checkpoint_activations: count what is computed a second time too, as hardware does.
    """
    conditions = config.conditions
    if num_lyrics is None or conditions.padding == "fixed":
        num_lyrics = [conditions.max_lyric_tokens] * len(num_frames)
    if num_prompt_frames is None or conditions.padding == "fixed":
        num_prompt_frames = [conditions.prompt_frames] * len(num_frames)
    forward = dict.fromkeys(("lm_dense", "lm_attention", "dit_dense", "dit_attention", "semantic_head"), 0.0)
    for song in zip(num_frames, num_lyrics, num_prompt_frames, strict=True):
        for part, flops in _forward_flops(config, *song).items():
            forward[part] += flops
    again = _share_recomputed(config, checkpoint_activations)
    step = {part: flops * (1 + BACKWARD_FACTOR + again[part]) for part, flops in forward.items()}
    return step | {"total": sum(step.values())}


def expected_days(
    flops: float, num_steps: int, mfu: float, num_gpus: int = 16, peak_flops: float = A100_FLOPS
) -> float:
    """Return how long a run takes.

    Args:
        flops: model FLOPs of a step, without recomputation.
        num_steps: steps of the run.
        mfu: share of `peak_flops` that model FLOPs reach.
        num_gpus: devices.
        peak_flops: operations a second of one device; by default an A100's.
    """
    return flops * num_steps / (mfu * num_gpus * peak_flops) / 86_400


def _share_recomputed(config: ModelConfig, recompute: Recompute) -> dict[str, float]:
    """Return how much of each part's forward pass the backward pass repeats; with any, the head's logits, too.

    Never the last product of a layer, `down`: nothing needs its output.
    """
    weights = 4 + 3 * config.ffn_scale  # of a layer, in squares of its width: attention 4, gate and up 2, down 1
    gate_up, all_but_down = 2 * config.ffn_scale / weights, 1 - config.ffn_scale / weights
    dense, attention = {
        False: (0.0, 0.0),
        "cheap": (0.0, 0.0),
        "selective": (gate_up, 0.0),
        True: (all_but_down, 1.0),
    }[recompute]
    shares = {"lm_dense": dense, "lm_attention": attention, "dit_dense": dense, "dit_attention": attention}
    return shares | {"semantic_head": 1.0 if recompute else 0.0}


def _forward_flops(config: ModelConfig, num_frames: int, num_lyrics: int, num_prompt_frames: int) -> dict[str, float]:
    """Return the operations of one song's forward pass."""
    dim, block_frames = config.dim, config.block_frames
    layer_weights = (4 + 3 * config.ffn_scale) * dim**2  # four matrices of attention, three of the feed-forward
    num_blocks = num_frames // block_frames
    num_rendered = count_rendered(num_blocks, config.dropout.blocks)
    lm_positions = num_prompt_frames + num_lyrics + 1 + num_blocks * (block_frames + 1)
    dit_positions = 1 + 3 * block_frames + (config.time_conditioning == "prepend")
    unseen_positions = dit_positions - block_frames  # outputs of the last layer that nothing reads
    unseen_weights = layer_weights - 3 * dim**2  # their queries, keys and values are computed all the same
    head_weights = dim**2 + dim * (config.codebook_size + 1)
    dit_dense = config.dit_layers * layer_weights * dit_positions - unseen_weights * unseen_positions
    dit_queries = config.dit_layers * dit_positions - unseen_positions
    return {
        "lm_dense": 2.0 * config.lm_layers * layer_weights * lm_positions,
        "lm_attention": 4.0 * config.lm_layers * dim * lm_positions**2 / 2,
        "dit_dense": 2.0 * dit_dense * num_rendered,
        "dit_attention": 4.0 * dim * dit_positions * dit_queries * num_rendered,
        "semantic_head": 2.0 * head_weights * (num_frames + 1),
    }
