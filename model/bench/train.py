"""How fast a training step is, and how much memory it takes, against a plain trainer: `python -m model.bench train`.

Both start from the same random weights and take the same songs, draws and AdamW. Each runs in a process of its own, so
that peak memory is its own, and they step in turn; medians are compared. CPU, float32, two threads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from model.bench.random_songs import make_songs
from model.data.batches import MicroBatch, RankBatch
from model.network.config import ModelConfig
from model.network.noise import draw
from model.network.song_model import SongModel
from model.settings.settings import RunConfig, config_from_dict
from model.training.hardware import peak_resident_bytes

# The medium model and the ragged batch of the given reference/baseline.json: frames and lyric symbols of eight songs.
MEDIUM = {"dim": 384, "num_heads": 6, "lm_layers": 6, "dit_layers": 3}
NUM_FRAMES = (720, 1360, 1040, 1360, 1216, 960, 960, 928)
NUM_LYRICS = (101, 190, 146, 190, 170, 134, 134, 130)
SMALL = {"dim": 64, "num_heads": 1, "lm_layers": 2, "dit_layers": 1}
NUM_SMALL = 3  # songs of a step of the small size
NUM_THREADS = 2
MICRO_BATCH_SIZE = 1  # the result is the same; less memory
LR = 1e-4
REQUIRED_SPEED = 2.0
REQUIRED_MEMORY = 0.5
LOSS_TOLERANCE = 1e-4  # relative; float32 sums in another order, over a few steps
ROLES = ("ours", "plain")


def make_config(size: str) -> RunConfig:
    """Return a run of the model without dropout, which both sides would have to draw alike."""
    shape, num_songs = (MEDIUM, len(NUM_FRAMES)) if size == "medium" else (SMALL, NUM_SMALL)
    dropout = {"conditions": 0.0, "prompt": 0.0, "hidden": 0.0, "semantic": 0.0}
    tree = {
        "model": {**shape, "dropout": dropout},
        "data": {
            "root": "", "min_crop_s": 20.0, "max_crop_s": 60.0, "seconds_per_tag": 1.0, "sample_latents": False,
            "prefetch_steps": 0, "val_songs": 0,
        },
        "optimizer": {
            "kind": "adamw", "lr": LR, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 0.0,
        },
        "schedule": {"kind": "constant", "num_steps": 1000, "warmup_steps": 0, "final_ratio": 1.0},
        "trainer": {
            "batch_size": num_songs, "micro_batch_size": MICRO_BATCH_SIZE, "precision": "fp32", "zero_stage": 0,
            "checkpoint_activations": False, "flow_weight": 0.1, "seed": 0, "log_every": 1, "val_every": 0,
        },
        "checkpoint": {"folder": "", "every": 1, "keep": 1},
    }  # fmt: skip
    return config_from_dict(tree, "benchmark")


def make_micro_batch(config: ModelConfig, rows: Sequence[int]) -> MicroBatch:
    """Return the songs of the benchmark with these numbers, of random content."""
    batch = make_songs(config, [NUM_FRAMES[row] for row in rows], [NUM_LYRICS[row] for row in rows], rows)
    return MicroBatch(batch=batch, seeds=tuple(rows), slots=tuple(rows), is_repeat=False)


def make_own_step(config: RunConfig) -> Callable[[int], float]:
    """Return a function that makes a step with this project's trainer and returns its loss."""
    from model.training.trainer import Trainer, join_ranks

    torch.manual_seed(0)
    trainer = Trainer(SongModel(config.model), config, join_ranks())
    by_length = sorted(range(config.trainer.batch_size), key=lambda row: NUM_FRAMES[row])  # as Batches orders them
    size = config.trainer.micro_batch_size
    songs = tuple(make_micro_batch(config.model, by_length[k : k + size]) for k in range(0, len(by_length), size))
    batch = RankBatch(micro_batches=songs, num_skipped=Counter())
    return lambda step: trainer.train_step(batch, step).losses.loss


def make_plain_step(config: RunConfig) -> Callable[[int], float]:
    """Return a function that makes a step with the plain trainer and returns its loss."""
    from model.bench.plain_trainer import PlainModel

    torch.manual_seed(0)
    model = PlainModel(SongModel(config.model))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=config.optimizer.betas, eps=config.optimizer.eps, weight_decay=0.0
    )
    songs = make_micro_batch(config.model, range(config.trainer.batch_size))
    num_blocks = (songs.batch.num_frames_B // config.model.block_frames).tolist()

    def step(_: int) -> float:
        loss = model(songs.batch, draw(songs.seeds, num_blocks, config.model), config.trainer.flow_weight)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def serve(role: str, size: str) -> None:
    """Be one side: make a step for every line on stdin, and answer with a line of JSON."""
    torch.set_num_threads(NUM_THREADS)
    step = (make_own_step if role == "ours" else make_plain_step)(make_config(size))
    for number, _ in enumerate(sys.stdin):
        begun = time.perf_counter()
        loss = step(number)
        seconds = time.perf_counter() - begun
        peak_bytes = peak_resident_bytes()
        sys.stdout.write(json.dumps({"seconds": seconds, "loss": loss, "peak_bytes": peak_bytes}) + "\n")
        sys.stdout.flush()


class Side:
    """One of the two trainers, in a process of its own."""

    def __init__(self, role: str, size: str) -> None:
        """Start it."""
        environment = os.environ | {"OMP_NUM_THREADS": str(NUM_THREADS), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "model.bench", "train", "--size", size, "--role", role]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.role = role

    def step(self) -> dict[str, float]:
        """Make one step and return its seconds, loss and the peak memory so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise RuntimeError(f"the {self.role} side ended with exit code {self._process.wait()}")

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def compare(size: str, repeats: int) -> dict[str, Any]:
    """Let both sides step in turn, once to warm up and then `repeats` times."""
    sides = [Side(role, size) for role in ROLES]
    steps: dict[str, list[dict[str, float]]] = {role: [] for role in ROLES}
    for number in range(1 + repeats):
        for side in sides if number % 2 else reversed(sides):
            steps[side.role].append(side.step())
    for side in sides:
        side.close()
    seconds = {role: [step["seconds"] for step in steps[role][1:]] for role in ROLES}
    median = {role: statistics.median(values) for role, values in seconds.items()}
    peak = {role: steps[role][-1]["peak_bytes"] for role in ROLES}
    losses = {role: [step["loss"] for step in steps[role]] for role in ROLES}
    difference = max(abs(ours / plain - 1) for ours, plain in zip(losses["ours"], losses["plain"], strict=True))
    figures: dict[str, Any] = {
        "size": size,
        "threads": NUM_THREADS,
        "repeats": repeats,
        "step_s_median": median,
        "step_s": {role: [round(value, 3) for value in values] for role, values in seconds.items()},
        "peak_gib": {role: round(value / 2**30, 3) for role, value in peak.items()},
        "losses": losses,
        "speed_ratio": median["plain"] / median["ours"],
        "memory_ratio": peak["ours"] / peak["plain"],
        "largest_loss_difference": difference,
    }
    figures["ok"] = (
        figures["speed_ratio"] >= REQUIRED_SPEED
        and figures["memory_ratio"] <= REQUIRED_MEMORY
        and difference <= LOSS_TOLERANCE
    )
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bench train", description="steps against a plain trainer")
    parser.add_argument("--size", choices=("medium", "small"), default="medium", help="small: to try the command out")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps of each side (default: 3)")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}, expected at least 1")
    if options.role:
        serve(options.role, options.size)
        return 0
    figures = compare(options.size, options.repeats)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["ok"] else 1
