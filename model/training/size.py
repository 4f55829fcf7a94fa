"""How large a model is, and what a training step costs in operations and in memory, without building it.

Shape legend: S positions of a song's LM sequence, T frames, N blocks, D width.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import nn

from model.data.crops import LENGTH_TOLERANCE
from model.network.config import ModelConfig
from model.network.lm import OUTPUT_MULTIPLE
from model.network.lora import ADAPTER_NAMES, LowRankLinear, find_matrices
from model.network.losses import CHUNK_POSITIONS
from model.network.noise import count_rendered
from model.network.recompute import Recompute
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, RunConfig, deepspeed_settings
from model.training.muon import count_flops as orthogonalize_flops
from model.training.muon import find_shapes
from model.weights.finetune import choose_trained

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
    backward: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the floating-point operations of one training step by part, and their total.

    Counts matrix products only; a multiplication and an addition are two operations. Causal attention counts as half.

    Args:
        config: the model's shape.
        num_frames: frames of each song of the step, over all ranks and micro-batches.
        num_lyrics: lyric symbols of each song; None, or padding mode fixed: the whole budget.
        num_prompt_frames: prompt frames of each song; None, or padding mode fixed: the longest prompt.
        checkpoint_activations: count what is computed a second time too, as hardware does.
        backward: of each part, see `backward_factors`; None: everything trains.
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
    factors = backward or dict.fromkeys(forward, float(BACKWARD_FACTOR))
    step = {part: flops * (1 + factors[part] + again[part]) for part, flops in forward.items()}
    return step | {"total": sum(step.values())}


def describe_model(run: RunConfig) -> SongModel:
    """Return the model of a run without memory, adapters included, in which what does not train is frozen; to read."""
    return _describe(run.model, run.finetune)


@lru_cache(maxsize=2)  # it takes a third of a second, and a dry run asks a hundred times
def _describe(config: ModelConfig, finetune: FinetuneConfig) -> SongModel:
    with torch.device("meta"):
        model = SongModel(config)
        choose_trained(model, finetune)
    return model


def backward_factors(model: SongModel) -> dict[str, float]:
    """Return how many times the products of a part's forward pass are computed in its backward pass.

    Twice: for the gradients of inputs and of weights; the latter for those alone that train. Adapters are small
    products of their own, which a step computes three times.
    """
    factors = {}
    for part, module in (
        ("lm_dense", model.lm),
        ("dit_dense", model.dit.layers),
        ("semantic_head", model.semantic_head),
    ):
        parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.dim() == 2}
        adapters = sum(p.numel() for name, p in parameters.items() if name.endswith(ADAPTER_NAMES))
        weights = [p for name, p in parameters.items() if not name.endswith(ADAPTER_NAMES)]
        total, trained = (sum(p.numel() for p in some) for some in (weights, [p for p in weights if p.requires_grad]))
        factors[part] = 1 + trained / total + 3 * adapters / total
    return factors | {"lm_attention": 2.0, "dit_attention": 2.0}


def count_trained(run: RunConfig) -> tuple[int, int]:
    """Return how many numbers the model has, adapters included, and how many of them train."""
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in describe_model(run).parameters()]
    return sum(count for count, _ in numbers), sum(count for count, is_trained in numbers if is_trained)


def count_muon(run: RunConfig) -> tuple[int, int, float]:
    """Return how many numbers Muon updates, those of the largest weight among them, and its operations in a step."""
    if run.optimizer.kind != "muon":
        return 0, 0, 0.0
    shapes = [shape for weight, shape in find_shapes(describe_model(run)).items() if weight.requires_grad]
    sizes = [math.prod(shape) for shape in shapes]
    return sum(sizes), max(sizes, default=0), sum(orthogonalize_flops(*shape) for shape in shapes)


def count_positions(config: ModelConfig, num_frames: int, num_lyrics: int, num_prompt_frames: int) -> tuple[int, int]:
    """Return the positions of one song in the LM, and of one of its blocks in the DiT."""
    num_blocks = num_frames // config.block_frames
    lm_positions = num_prompt_frames + num_lyrics + 1 + num_blocks * (config.block_frames + 1)
    return lm_positions, 1 + 3 * config.block_frames + (config.time_conditioning == "prepend")


def activation_bytes(config: ModelConfig, num_frames: int, recompute: Recompute, number_bytes: int = 2) -> float:
    """Return what the backward pass of one song waits for, as PyTorch's own operations keep it.

    Attention keeps queries, keys, values, output and one number per row, as fused kernels do. Compiled layers keep
    less. The song has the longest lyrics and prompt, and more than one chunk of targets (`model.network.losses`).

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
    optimizer -= count_muon(run)[0] * share * MOMENTS_BYTES / 2  # one momentum, not two
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
    if run.finetune.lora_dropout:
        parts["dropped_inputs"] = songs * _mask_bytes(run, num_frames)
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


def _mask_bytes(run: RunConfig, num_frames: int) -> float:
    """Return what dropping inputs of adapters keeps of one song: a byte for each that is not computed again.

    In the DiT also the input of `out` that is left, as attention keeps its output anyway. Nothing in front of the first
    layer has a gradient. The DiT's last layer sees the noisy frames alone, but for its queries, keys and values.
    """
    endings: dict[Recompute, tuple[str, ...]] = {
        False: ("",),
        "cheap": (".out",),
        "selective": (".qkv", ".out"),
        True: (),
    }
    config, conditions = run.model, run.model.conditions
    lm_positions, dit_positions = count_positions(
        config, num_frames, conditions.max_lyric_tokens, conditions.prompt_frames
    )
    num_rendered = count_rendered(num_frames // config.block_frames, config.dropout.blocks)
    last = f"dit.layers.{config.dit_layers - 1}."
    kept = 0
    for name, layer in find_matrices(describe_model(run)).items():
        is_kept = isinstance(layer, LowRankLinear) and name.endswith(endings[run.trainer.checkpoint_activations])
        if not is_kept or name == "lm.layers.0.attention.qkv":
            continue
        positions = lm_positions
        if name.startswith("dit."):
            is_short = name.startswith(last) and not name.endswith(".qkv")
            positions = num_rendered * (config.block_frames if is_short else dit_positions)
            positions *= 1 + (2 if run.trainer.precision == "bf16" else 4) * name.endswith(".out")
        kept += layer.in_features * positions
    return float(kept)


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
