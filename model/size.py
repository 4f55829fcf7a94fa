"""How large a model is, and what a training step costs in operations and in memory, without building it.

Shape legend: S positions of a song's LM sequence, T frames, N blocks, D width.
"""

from collections.abc import Sequence

import torch
from torch import nn

from model.config import ModelConfig
from model.crops import LENGTH_TOLERANCE
from model.finetune import choose_trained
from model.lm import OUTPUT_MULTIPLE
from model.losses import CHUNK_POSITIONS
from model.noise import count_rendered
from model.recompute import Recompute
from model.settings import RunConfig, deepspeed_settings
from model.song_model import SongModel

BACKWARD_FACTOR = 2  # the backward pass multiplies twice for each multiplication of the forward pass
A100_FLOPS = 312e12  # bf16 operations a second, NVIDIA's datasheet; the paper trained on 16 of them
# Vectors that embeddings, the LM's norm, the head and the DiT's input keep; counted on the meta device.
ENDS_PER_POSITION, ENDS_PER_FRAME = 5.0, 4.56
LOGIT_BYTES = 12  # of one logit of a chunk: bf16 and float32, and the gradient of both
LIVE_NUMBERS = 1_000_000_000  # of weights that ZeRO 3 keeps whole at a time: DeepSpeed's stage3_max_live_parameters
MASTER_BYTES, MOMENTS_BYTES = 4, 8  # of a parameter in AdamW: float32 weights, two float32 moments


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


def count_trained(run: RunConfig) -> tuple[int, int]:
    """Return how many numbers the model has, adapters included, and how many of them train."""
    with torch.device("meta"):
        model = SongModel(run.model)
        choose_trained(model, run.finetune)
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in numbers), sum(count for count, is_trained in numbers if is_trained)


def count_positions(config: ModelConfig, num_frames: int, num_lyrics: int, num_prompt_frames: int) -> tuple[int, int]:
    """Return the positions of one song in the LM, and of one of its blocks in the DiT."""
    num_blocks = num_frames // config.block_frames
    lm_positions = num_prompt_frames + num_lyrics + 1 + num_blocks * (config.block_frames + 1)
    return lm_positions, 1 + 3 * config.block_frames + (config.time_conditioning == "prepend")


def activation_bytes(config: ModelConfig, num_frames: int, recompute: Recompute, number_bytes: int = 2) -> float:
    """Return what the backward pass of one song waits for, as PyTorch's own operations keep it.

    Attention keeps queries, keys, values, output and one number per row, as fused kernels do. Compiled layers keep
    less. The song has the longest lyrics and prompt, and more than one chunk of targets (`model.losses`).

    Args:
        config: the model's shape.
        num_frames: of the song.
        recompute: what is computed again instead.
        number_bytes: of an activation; 2 for bf16.
    """
    conditions, scale = config.conditions, config.ffn_scale
    lm_positions, dit_positions = count_positions(
        config, num_frames, conditions.max_lyric_tokens, conditions.prompt_frames
    )
    num_rendered = count_rendered(num_frames // config.block_frames, config.dropout.blocks)
    # In vectors of the width: up to attention (input, norm, q, k, v, rotated q and k), then the rest (output,
    # residual, norm, gate and up, their product). The LM's norm keeps 3 more, as RMSNorm has no kernel of its own
    # before PyTorch 2.9, and its attention's output is kept twice.
    before, after, rms = {
        False: (7, 3 + 3 * scale, 6),
        "cheap": (6, 2 + 2 * scale, 0),
        "selective": (7, 2, 3),
        True: (1, 0, 0),
    }[recompute]
    copy = 0 if recompute is True else 1
    lm_vectors = config.lm_layers * lm_positions * (before + after + rms + copy)
    dit_vectors = num_rendered * (
        config.dit_layers * dit_positions * (before + after) - after * (dit_positions - config.block_frames)
    )
    ends = ENDS_PER_POSITION * lm_positions + ENDS_PER_FRAME * num_frames + count_outputs(config)
    return number_bytes * config.dim * (lm_vectors + dit_vectors + ends)


def count_outputs(config: ModelConfig) -> int:
    """Return how many outputs the head computes: codes, EOS, and what fills them up; its padded weights are kept."""
    return -(-(config.codebook_size + 1) // OUTPUT_MULTIPLE) * OUTPUT_MULTIPLE


def memory_per_gpu(run: RunConfig, world_size: int) -> dict[str, float]:
    """Return the bytes of one GPU by part, and their total, by arithmetic; the longest songs, the longest lyrics.

    Weights and gradients as DeepSpeed holds them in this ZeRO stage. Not in it: what PyTorch's allocator loses between
    blocks, and CUDA's own, together a few GB.

    Args:
        run: the configuration.
        world_size: GPUs of the run, 1 or more.
    """
    trainer, stage = run.trainer, run.trainer.zero_stage
    settings = deepspeed_settings(run, world_size)
    zero = settings["zero_optimization"]
    number_bytes = 2 if trainer.precision == "bf16" else 4
    total, trained = count_trained(run)
    share = 1 / world_size if stage else 1.0
    optimizer = trained * share * (MASTER_BYTES * (stage > 0) + MOMENTS_BYTES + 4 * (trainer.ema_decay > 0))
    if (zero.get("offload_optimizer") or {}).get("device", "none") == "cpu":
        optimizer = 0.0
    sums_bytes = 4 if settings.get("data_types", {}).get("grad_accum_dtype", "fp32") == "fp32" else 2
    gradients = {
        0: trained * number_bytes,
        1: trained * (sums_bytes + 4 * share),  # whole on every GPU; the update copies its share to float32
        2: trained * (number_bytes + sums_bytes * share),  # of one micro-batch, and the sums
        3: trained * sums_bytes * share,
    }[stage]
    live = zero.get("stage3_max_live_parameters", LIVE_NUMBERS) if world_size > 1 else 0
    songs = run.count_longest_songs(LENGTH_TOLERANCE)
    num_frames = run.data.max_crop_frames // run.model.block_frames
    num_frames *= run.model.block_frames
    lm_positions, dit_positions = count_positions(
        run.model, num_frames, run.model.conditions.max_lyric_tokens, run.model.conditions.prompt_frames
    )
    widest = songs * max(lm_positions, dit_positions * (num_frames // run.model.block_frames))
    again = activation_bytes(run.model, num_frames, False, number_bytes) / (run.model.lm_layers + run.model.dit_layers)
    parts = {
        "weights": number_bytes * (total * share + min(total, live) if stage == 3 else total),
        "gradients": float(gradients),
        "optimizer": optimizer,
        "buckets": 2.0 * 4 * min(zero["reduce_bucket_size"], trained) if stage else 0.0,
        "activations": songs * activation_bytes(run.model, num_frames, trainer.checkpoint_activations, number_bytes),
        # Of the layer that the backward pass is in: gradients of gate, up, their product and the residual; with whole
        # layers recomputed, all that the layer keeps as well.
        "one_layer": number_bytes * run.model.dim * widest * (3 * run.model.ffn_scale + 2)
        + (songs * again if trainer.checkpoint_activations is True else 0.0),
        "logits": float(min(CHUNK_POSITIONS, songs * (num_frames + 1)) * count_outputs(run.model) * LOGIT_BYTES),
    }
    return parts | {"total": sum(parts.values())}


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
    logits = (config.codebook_size + 1) / (config.dim + config.codebook_size + 1)  # not the layer before them
    return shares | {"semantic_head": logits if recompute else 0.0}


def _forward_flops(config: ModelConfig, num_frames: int, num_lyrics: int, num_prompt_frames: int) -> dict[str, float]:
    """Return the operations of one song's forward pass."""
    dim, block_frames = config.dim, config.block_frames
    layer_weights = (4 + 3 * config.ffn_scale) * dim**2  # four matrices of attention, three of the feed-forward
    num_rendered = count_rendered(num_frames // block_frames, config.dropout.blocks)
    lm_positions, dit_positions = count_positions(config, num_frames, num_lyrics, num_prompt_frames)
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
