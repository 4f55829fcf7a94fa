"""Time and memory of one micro-batch, forward and backward: `python -m model.bench step --config full.yaml`.

Songs are random and at their longest; weights are random. MFU is this project's count of model FLOPs
(`model/training/size.py`, without recomputation) over time and over the datasheet's figure for the device. No
optimizer, no data, no DeepSpeed: those are in `python -m model.bench trainer`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from model.bench.random_songs import make_songs
from model.network.config import ConfigError, ModelConfig
from model.network.noise import Draws, draw
from model.network.recompute import Recompute
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.settings.settings import load_config
from model.training.hardware import peak_flops, peak_memory_bytes
from model.training.size import flops_per_step
from shards.schema import FRAME_RATE_HZ

RECOMPUTE: dict[str, Recompute] = {"none": False, "cheap": "cheap", "selective": "selective", "layers": True}


def make_inputs(config: ModelConfig, num_songs: int, num_frames: int, device: str) -> tuple[SongBatch, Draws]:
    """Return random songs with the longest lyrics and prompts, and what chance decides about them."""
    numbers = range(num_songs)
    batch = make_songs(config, [num_frames] * num_songs, [config.conditions.max_lyric_tokens] * num_songs, numbers)
    draws = draw(numbers, [num_frames // config.block_frames] * num_songs, config, device, with_dropout=False)
    return batch.to(device), draws


def time_steps(model: SongModel, songs: tuple[SongBatch, Draws], repeats: int) -> list[float]:
    """Return the seconds of forward and backward, after one that is not counted."""
    times = []
    for number in range(repeats + 1):
        begun = time.perf_counter()
        model(*songs).loss().backward()
        for parameter in model.parameters():
            parameter.grad = None
        if model.bos_D.is_cuda:
            torch.cuda.synchronize()
        if number:
            times.append(time.perf_counter() - begun)
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bench step", description=__doc__)
    parser.add_argument("--config", default="miniature.yaml", help="(default: miniature.yaml)")
    parser.add_argument("--songs", type=int, default=1, help="of the micro-batch (default: 1)")
    parser.add_argument("--seconds", type=float, help="of each song (default: the configuration's longest)")
    parser.add_argument("--recompute", choices=sorted(RECOMPUTE), default="layers", help="(default: layers)")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)
    try:
        run = load_config(options.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    config = run.model
    num_blocks = int((options.seconds or run.data.max_crop_s) * FRAME_RATE_HZ) // config.block_frames
    num_frames = num_blocks * config.block_frames
    torch.manual_seed(0)
    with torch.device(options.device):
        model = SongModel(config, checkpoint_activations=RECOMPUTE[options.recompute]).to(getattr(torch, options.dtype))
    if options.compile:
        model.compile_layers()
    songs = make_inputs(config, options.songs, num_frames, options.device)
    times = time_steps(model, songs, options.repeats)
    tflops = flops_per_step(config, [num_frames] * options.songs)["total"] / 1e12
    median_s, device = statistics.median(times), model.bos_D.device
    peak = peak_flops(device)
    summary = {
        "config": options.config,
        "songs": options.songs,
        "frames": num_frames,
        "recompute": options.recompute,
        "compiled": options.compile,
        "dtype": options.dtype,
        "step_s": {"median": median_s, "min": min(times), "max": max(times)},
        "model_tflop": tflops,
        "tflops_per_s": tflops / median_s,
        "mfu": 1e12 * tflops / median_s / peak if peak else None,
        "peak_memory_gib": peak_memory_bytes(device) / 2**30,
        "device": torch.cuda.get_device_name() if model.bos_D.is_cuda else "cpu",
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0
