"""Measure the trainer itself on this machine: `python -m model.bench trainer --config full.yaml`.

Trains a few steps of a configuration on random songs, and prints seconds per step, tokens per second, MFU, peak memory
and the share of time that steps wait for data. Takes `--set`, such as trainer.batch_size=8: one GPU's share of the
configuration's 128. Several GPUs: `torchrun --nproc-per-node 8 -m model.bench trainer ...`; rank 0 prints its own
figures, those of the whole step, and how fast the ranks add up a large tensor.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.data.batches import Batches, Prefetcher
from model.network.config import ConfigError
from model.network.song_model import SongModel
from model.settings.settings import RunConfig, load_config
from model.training.hardware import peak_flops, peak_memory_bytes
from model.training.profiling import StepProfiler
from model.training.ranks import Ranks
from model.training.trainer import Trainer, join_ranks, leave_ranks
from model.weights.finetune import choose_trained
from shards.bench_data import write_bench_dataset
from shards.index import read_index
from shards.reader import ShardReader

NUM_WARM_STEPS = 2  # allocate memory and choose kernels
SPARE_S = 30  # songs are up to this much longer than the longest crop, so that crops are cut from them
SHORTEST_S = 40
LINK_NUMBERS = {"cuda": 2**28, "cpu": 2**20}  # float32 numbers that ranks add up: 1 GiB, 4 MiB
LINK_REPEATS = 5
PHONEMES_PER_LINE = 14  # of 4 s: sung lyrics have about 0.14 symbols a frame (the given reference/baseline.json)


def measure(config: RunConfig, ranks: Ranks, num_steps: int, profile: Path | None) -> dict[str, Any]:
    """Train and return the figures; `config` reads an existing dataset, and all ranks must take part."""
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ranks.device)
    root = Path(config.data.root)
    batches = Batches(read_index(root), ShardReader(root), config, "train")
    torch.manual_seed(config.trainer.seed)
    with ranks.device:
        model = SongModel(config.model, checkpoint_activations=config.trainer.checkpoint_activations)
    if config.compiles_layers(ranks.device.type):
        model.compile_layers()
    choose_trained(model, config.finetune)
    trainer = Trainer(model, config, ranks)
    last = NUM_WARM_STEPS + num_steps
    make_batch = partial(batches.train_batch, rank=ranks.rank, world_size=ranks.world_size)
    prefetcher = Prefetcher(make_batch, range(last), config.data.prefetch_steps)
    profiler = StepProfiler(profile, ranks) if profile else None
    seconds, waits, tokens, flops, losses = [], [], [], [], []
    try:
        for step in range(last):
            begun = time.perf_counter()
            batch = prefetcher.next()
            waits.append(time.perf_counter() - begun)
            result = trainer.train_step(batch, step)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
            tokens.append(result.losses.num_tokens)
            flops.append(result.flops)
            losses.append(result.losses.loss)
            if profiler is not None:
                profiler.add_step()
    finally:
        prefetcher.close()
        trainer.close()
    measured = slice(NUM_WARM_STEPS, None)
    total_s = sum(seconds[measured])
    peak = peak_flops(ranks.device)
    return {
        "world_size": ranks.world_size,
        "device": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu",
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "songs_per_step": config.trainer.batch_size,
        "micro_batch_size": config.trainer.micro_batch_size,
        "micro_batch_tokens": config.trainer.micro_batch_tokens,
        "zero_stage": config.trainer.zero_stage,
        "checkpoint_activations": config.trainer.checkpoint_activations,
        "compile_layers": config.compiles_layers(ranks.device.type),
        "step_s_median": statistics.median(seconds[measured]),
        "step_s": [round(value, 4) for value in seconds],
        "num_tokens": tokens,
        "tokens_per_s": sum(tokens[measured]) / total_s,
        "tflop": [count / 1e12 for count in flops],
        "tflops_per_s": sum(flops[measured]) / total_s / 1e12,
        "mfu": None if peak is None else sum(flops[measured]) / total_s / peak / ranks.world_size,
        "data_wait_share": sum(waits[measured]) / total_s,
        "peak_memory_gib": peak_memory_bytes(ranks.device) / 2**30,
        "losses": losses,
        "link_gb_per_s": measure_link(ranks) if ranks.world_size > 1 else None,
    }


def measure_link(ranks: Ranks) -> float:
    """Return how many GB a second each rank sends while all of them add up one large tensor, the best of a few.

    That is the bus bandwidth of NCCL's own tests (nccl-tests, PERFORMANCE.md): a ring sends twice (n - 1) / n of it.
    """
    tensor = torch.ones(LINK_NUMBERS[ranks.device.type], device=ranks.device)
    seconds = []
    for _ in range(1 + LINK_REPEATS):
        begun = time.perf_counter()
        torch.distributed.all_reduce(tensor)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
        tensor.fill_(1.0)
    sent = 2 * (ranks.world_size - 1) / ranks.world_size * tensor.numel() * tensor.element_size()
    return sent / min(seconds[1:]) / 1e9


def write_songs(config: RunConfig, folder: Path, num_songs: int) -> None:
    """Write a dataset of noise whose songs are long enough for the configuration's crops."""
    shortest_s = max(SHORTEST_S, math.ceil(config.data.min_crop_s))
    longest_s = max(SHORTEST_S, math.ceil(config.data.max_crop_s)) + SPARE_S
    write_bench_dataset(folder, num_songs, seconds=(shortest_s, longest_s), phonemes_per_line=PHONEMES_PER_LINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bench trainer", description="measure the trainer's steps")
    parser.add_argument("--config", required=True, help="a path, else a file of model/configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, as in train.py")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="as of train.py")
    parser.add_argument("--steps", type=int, default=8, help="measured steps (default: 8)")
    parser.add_argument("--songs", type=int, default=48, help="songs of the dataset (default: 48)")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="record steps 3 and 4 there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = load_config(options.config, [*options.set, f"data.root={json.dumps(folder)}"])
            ranks = join_ranks(options.device)
        except ConfigError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        write_songs(config, Path(folder), options.songs)  # every rank writes the same songs
        try:
            figures = measure(config, ranks, options.steps, options.profile)
        except ConfigError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    leave_ranks()
    if ranks.is_main:
        sys.stdout.write(json.dumps(figures) + "\n")
    return 0
