"""What a training step and a song cost at least on given GPUs, by arithmetic: nothing here is measured.

A step takes at least: its matrix products and attention at the datasheet's peak, plus the bytes that operations
between them move through memory, plus what of the communication does not fit behind the backward pass.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from model.network.config import ModelConfig
from model.network.song_length import count_tokens
from model.sampling.sampling_config import SamplingConfig
from model.settings.settings import RunConfig, deepspeed_settings
from model.training.hardware import PEAK_TFLOPS
from model.training.size import (
    LIVE_NUMBERS,
    backward_factors,
    count_muon,
    count_parameters,
    count_positions,
    count_trained,
    describe_model,
    expected_days,
    flops_per_step,
    memory_per_gpu,
)
from model.training.traffic import moved_bytes
from shards.schema import FRAME_RATE_HZ

GPUS_PER_NODE = 8
BACKWARD_SHARE = 2 / 3  # of a step: gradients can be reduced behind it
USABLE = 0.95  # of a GPU's memory; the rest is CUDA's own and lost between blocks
# AdamW reads weights, moments and gradient and writes all but the last, in float32; then weights in bf16.
OPTIMIZER_BYTES = 4 * 4 + 3 * 4 + 2
# Bytes a second of memory by what the device's name holds, as NVIDIA publishes them ("GPU memory bandwidth"); written
# down without the data sheets at hand. The first that fits counts.
MEMORY_BANDWIDTH = {
    "A100-SXM4-40GB": 1.555e12,
    "A100-PCIE-40GB": 1.555e12,
    "A100": 2.039e12,  # SXM, 80 GB; the PCIe card of 80 GB has 1.935e12
    "H100 PCIe": 2.0e12,
    "H100 NVL": 3.9e12,
    "H100": 3.35e12,
    "H200": 4.8e12,
    "B200": 8.0e12,
    "L40S": 0.864e12,
    "A40": 0.696e12,
    "A6000": 0.768e12,
    "4090": 1.008e12,
    "3090": 0.936e12,
}
# Bytes a second and direction of one GPU's NVLink to all others of its node: half of what NVIDIA publishes for
# both directions. Cards for PCIe have bridges at most, between pairs.
NVLINK = {"PCIe": None, "PCIE": None, "NVL": None, "A100": 300e9, "H100": 450e9, "H200": 450e9, "B200": 900e9}
# Bytes a second and direction of all network cards of a node with eight GPUs.
LINKS = {"8 x 400 Gb/s": 400e9, "8 x 200 Gb/s": 200e9, "1 x 200 Gb/s": 25e9, "1 x 100 Gb/s": 12.5e9}
EXPECTED = {"A100": (0.50, "8 x 200 Gb/s"), "H100": (0.45, "8 x 400 Gb/s")}  # MFU that we aim at, usual network
CAPACITIES = (24e9, 40e9, 80e9)  # bytes of the GPUs that a dry run looks at; those of EXPECTED have the most


@dataclass(frozen=True, slots=True)
class DataSheet:
    """What a kind of GPU can do at most, by its data sheet."""

    name: str
    flops: float
    """Dense bf16 operations a second."""
    memory_bandwidth: float
    """Bytes a second."""
    nvlink: float | None
    """Bytes a second and direction to the other GPUs of its node; None: not known."""


def find_data_sheet(device_name: str) -> DataSheet | None:
    """Return the data sheet's figures of a device by its name, or None where they are not known."""
    tables = (PEAK_TFLOPS, MEMORY_BANDWIDTH, NVLINK)
    tflops, bandwidth, nvlink = (
        next((value for part, value in table.items() if part in device_name), None) for table in tables
    )
    if tflops is None or bandwidth is None:
        return None
    return DataSheet(device_name, 1e12 * tflops, bandwidth, nvlink)


def wire_bytes(run: RunConfig, world_size: int) -> dict[str, float]:
    """Return the bytes that each GPU sends in a step, by what they are, with rings: DeepSpeed 0.19.8's collectives.

    ZeRO 1 and 2 add up whole buckets (all-reduce: twice the bytes) unless `use_multi_rank_bucket_allreduce` is false;
    ZeRO 2 and 3 do it for every micro-batch. ZeRO 3 gathers the weights for the forward pass of every micro-batch, and
    again for the backward pass those whose next use is further away than `stage3_max_reuse_distance`. Muon adds up the
    matrices that lie on several ranks, as many as there are borders between ranks at most.
    """
    stage, settings = run.trainer.zero_stage, deepspeed_settings(run, world_size)
    total, trained = count_trained(run)
    others = (world_size - 1) / world_size
    _, largest, _ = count_muon(run)
    weight_bytes = 2 if run.trainer.precision == "bf16" else 4
    gradient_bytes = 4 if settings["communication_data_type"] == "fp32" else 2
    zero = settings["zero_optimization"]
    is_split = stage == 3 or not zero.get("use_multi_rank_bucket_allreduce", True)
    times = settings["gradient_accumulation_steps"] if stage > 1 else 1
    twice = max(0.0, total - zero.get("stage3_max_reuse_distance", LIVE_NUMBERS) / 2)  # there and back again
    gathered = {0: 0, 1: trained, 2: trained, 3: times * (total + twice)}[stage]
    sent = {
        "gradients": others * times * trained * gradient_bytes * (1 if is_split and stage else 2),
        "weights": float(others * gathered * weight_bytes),
    }
    return sent | ({"cut_matrices": 2 * others * (world_size - 1) * largest * 4.0} if largest and stage else {})


def wire_seconds(sent: float, world_size: int, gpu: DataSheet, link: float) -> float | None:
    """Return how long a GPU takes to send so many bytes in rings; None where its NVLink is not known.

    Args:
        sent: bytes.
        world_size: GPUs, eight of a node.
        gpu: of which kind.
        link: bytes a second of all network cards of a node together.
    """
    if world_size == 1:
        return 0.0
    if gpu.nvlink is None:
        return None
    return sent / (gpu.nvlink if world_size <= GPUS_PER_NODE else min(gpu.nvlink, link))


def least_step_seconds(
    run: RunConfig, world_size: int, gpu: DataSheet, link: float, flops: float | None = None
) -> dict[str, float]:
    """Return the least seconds of a step by part, and their total.

    Args:
        run: the configuration.
        world_size: GPUs of the run.
        gpu: of which kind.
        link: bytes a second of all network cards of a node together.
        flops: of the model for the whole step; None: with every song at its longest.
    """
    songs, trainer = run.trainer.batch_size, run.trainer
    num_frames = run.data.max_crop_frames // run.model.block_frames * run.model.block_frames
    backward = backward_factors(describe_model(run))
    longest = flops_per_step(run.model, [num_frames] * songs, backward=backward)
    again = flops_per_step(
        run.model, [num_frames] * songs, checkpoint_activations=trainer.checkpoint_activations, backward=backward
    )
    share = (1.0 if flops is None else flops / longest["total"]) / world_size
    attention = again["lm_attention"] + again["dit_attention"]
    products_s = share * (again["total"] - attention) / gpu.flops
    attention_s = share * attention / gpu.flops
    number_bytes = 2 if trainer.precision == "bf16" else 4
    moved = songs * moved_bytes(
        run.model, num_frames, trainer.checkpoint_activations, number_bytes, is_compiled=run.compiles_layers("cuda")
    )
    bytes_s = share * moved / gpu.memory_bandwidth
    _, trained = count_trained(run)
    held = trained / (world_size if trainer.zero_stage else 1)
    sent = {
        part: wire_seconds(count, world_size, gpu, link) or 0.0 for part, count in wire_bytes(run, world_size).items()
    }
    compute_s = products_s + attention_s + bytes_s
    muon_flops = count_muon(run)[2] / (world_size if trainer.zero_stage else 1)
    hidden_s = BACKWARD_SHARE * compute_s if trainer.zero_stage > 1 else 0.0
    parts = {
        "products": products_s,
        "attention": attention_s,
        "moved_bytes": bytes_s,
        "optimizer": held * OPTIMIZER_BYTES / gpu.memory_bandwidth + muon_flops / gpu.flops,
        "communication": max(0.0, sent.pop("gradients") - hidden_s) + sum(sent.values()),
    }
    return parts | {"total": sum(parts.values())}


def least_generation_seconds(
    config: ModelConfig,
    sampling: SamplingConfig,
    gpu: DataSheet,
    num_songs: int,
    num_frames: int,
    number_bytes: int = 2,
) -> float:
    """Return the least seconds per second of audio of one song, when several are written at once.

    Every LM step and every Euler step reads its weights once for all songs and both branches of guidance, and the LM's
    keys and values; or computes, where that takes longer. Shortest prefix counted: none.

    Args:
        config: the model's shape.
        sampling: how many Euler steps.
        gpu: of which kind.
        num_songs: written at once.
        num_frames: of each, at 25 Hz.
        number_bytes: of a weight; 2 for bf16.
    """
    counts = count_parameters(config)
    rows = 2 * num_songs
    num_blocks = -(-num_frames // config.block_frames)
    lm_steps, dit_steps = num_blocks * (config.block_frames + 1), num_blocks * sampling.euler_steps
    lm_numbers, dit_numbers = counts["lm"] + counts["semantic_head"], counts["dit_layers"]
    kept = rows * 2 * config.lm_layers * config.dim * lm_steps / 2  # keys and values, half of the song on average
    _, dit_positions = count_positions(config, num_frames, 0, 0)
    seconds = lm_steps * max(
        number_bytes * (lm_numbers + kept) / gpu.memory_bandwidth, 2 * rows * lm_numbers / gpu.flops
    ) + dit_steps * max(
        number_bytes * dit_numbers / gpu.memory_bandwidth, 2 * rows * dit_positions * dit_numbers / gpu.flops
    )
    return seconds / (num_songs * num_frames / FRAME_RATE_HZ)


def describe_run(run: RunConfig, world_size: int) -> str:
    """Return memory per GPU, bytes on the wire and expected seconds per step as lines of text, all by arithmetic."""
    trainer = run.trainer
    memory = memory_per_gpu(run, world_size)
    lines = [
        f"arithmetic, not measured: GiB on each of {world_size} GPUs, ZeRO {trainer.zero_stage}, {trainer.precision}, "
        f"checkpoint_activations {str(trainer.checkpoint_activations).lower()}, micro-batches of "
        f"{trainer.describe_micro_batches()}, songs of {run.data.max_crop_s:g} s"
    ]
    lines += [f"  {part:16} {count / 2**30:15,.3f}" for part, count in memory.items()]
    for capacity in CAPACITIES:
        lines += advise(run, world_size, capacity)
    even, most = run.count_micro_batches(world_size)
    lines.append(
        f"micro-batches of a step on each rank: at least {even} with crops of even lengths, {most} of the longest"
    )
    sent = wire_bytes(run, world_size)
    lines.append("arithmetic, not measured: GB that each GPU sends in a step")
    lines += [f"  {part:16} {count / 1e9:15,.3f}" for part, count in sent.items()]
    num_frames = run.data.max_crop_frames // run.model.block_frames * run.model.block_frames
    backward = backward_factors(describe_model(run))
    flops = flops_per_step(run.model, [num_frames] * trainer.batch_size, backward=backward)["total"]
    for name, (mfu, link) in EXPECTED.items():
        gpu = find_data_sheet(name)
        assert gpu is not None
        at_mfu = flops / (world_size * mfu * gpu.flops)
        least = least_step_seconds(run, world_size, gpu, LINKS[link])
        where = f"nodes of {GPUS_PER_NODE} with {link}" if world_size > GPUS_PER_NODE else "one node"
        lines.append(f"arithmetic, not measured: seconds of a step on {world_size} {name}, {where}")
        lines.append(f"  {f'at {100 * mfu:.0f} % MFU':16} {at_mfu:15,.3f}")
        days = expected_days(flops, run.schedule.num_steps, mfu, world_size, gpu.flops)
        lines.append(f"  {f'days of {run.schedule.num_steps} steps'[:24]:24} {days:7,.2f}")
        lines += [f"  {f'least: {part}'[:24]:24} {seconds:7,.3f}" for part, seconds in least.items()]
        lines.append(f"  {'MFU at most, %':16} {100 * flops / (world_size * gpu.flops * least['total']):15,.1f}")
    return "\n".join(lines) + "\n"


def advise(run: RunConfig, world_size: int, capacity: float = CAPACITIES[-1]) -> list[str]:
    """Return in one line whether the run fits GPUs of `capacity` bytes, and what to change where it does not."""
    memory, limit = memory_per_gpu(run, world_size), USABLE * capacity
    size = f"{capacity / 1e9:.0f} GB"
    if memory["total"] <= limit:
        return [f"  fits into {size}, of which {100 * memory['total'] / capacity:.0f} % are taken"]
    over = f"  does not fit into {size}: {(memory['total'] - limit) / 2**30:.1f} GiB too much"
    trainer = run.trainer
    for change, changed in _list_changes(run):
        if memory_per_gpu(changed, world_size)["total"] <= limit:
            return [f"{over}; {change}"]
    held = memory["weights"] + memory["gradients"] + memory["optimizer"]
    if held > limit:
        return [f"{over}; weights, gradients and optimizer alone take {held / 2**30:.1f} GiB: more GPUs"
                + ("" if run.finetune.lora_rank else ", or adapters alone (finetune.lora_rank)")]  # fmt: skip
    return [f"{over}; shorter crops than data.max_crop_s {run.data.max_crop_s:g}, or more GPUs than {world_size} "
            f"(micro-batches are of {trainer.describe_micro_batches()})"]  # fmt: skip


def _list_changes(run: RunConfig) -> list[tuple[str, RunConfig]]:
    """Return what makes a run smaller, the cheapest in time first, each with what stands before it."""
    changes = []
    spelled: list[str] = []
    trainer = run.trainer
    steps: list[tuple[str, dict[str, Any]]] = []
    if trainer.checkpoint_activations is False:
        steps.append(("trainer.checkpoint_activations: cheap", {"checkpoint_activations": "cheap"}))
    songs, longest = math.ceil(run.count_longest_songs()), count_tokens(run.model, run.data.max_crop_frames)
    while songs > 1:
        if trainer.micro_batch_size:
            songs //= 2
            steps.append((f"trainer.micro_batch_size: {songs}", {"micro_batch_size": songs}))
        else:
            songs -= 1
            steps.append((f"trainer.micro_batch_tokens: {songs * longest}", {"micro_batch_tokens": songs * longest}))
    if trainer.zero_stage == 1:
        steps.append(("trainer.zero_stage: 2", {"zero_stage": 2}))
    if trainer.checkpoint_activations in (False, "cheap"):
        steps.append(("trainer.checkpoint_activations: selective", {"checkpoint_activations": "selective"}))
    if trainer.checkpoint_activations is not True:
        steps.append(("trainer.checkpoint_activations: true", {"checkpoint_activations": True}))
    if trainer.zero_stage < 3 and trainer.compile_layers is not True:
        steps.append(("trainer.zero_stage: 3", {"zero_stage": 3}))
    for text, values in steps:
        key = text.split(":")[0]
        spelled = [*(old for old in spelled if not old.startswith(key)), text]
        trainer = replace(trainer, **values)
        changes.append((f"set {' and '.join(spelled)}", replace(run, trainer=trainer)))
    return changes
