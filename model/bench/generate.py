"""How long a second of audio takes to write, against two plain loops: `python -m model.bench generate`.

Weights are random and songs are of a fixed length, so only speed is measured. All ways of writing are timed in turn,
several times over, and medians are compared.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from model.bench.plain_loop import ConcatenatingBranch, RereadingBranch, write_song
from model.network.config import ModelConfig
from model.network.song_model import SongModel
from model.sampling.sampling import generate
from model.sampling.sampling_config import SamplingConfig
from model.sampling.step_runner import choose_runner, describe_steps
from shards.schema import FRAME_RATE_HZ

SIZES = {
    "medium": ModelConfig(dim=384, num_heads=6, lm_layers=6, dit_layers=3),
    "full": ModelConfig(),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NUM_LYRICS = 40
MANY = 8  # songs at once
REQUIRED = {"one": 2.0, "many": 4.0}  # least speed-up over the plain loop


@dataclass(frozen=True, slots=True)
class Task:
    """What all ways of writing get."""

    model: SongModel
    lyric_ids: list[int]
    prompt: Tensor
    sampling: SamplingConfig
    with_graphs: bool = True

    def write(self, num_songs: int) -> None:
        """Write songs as this project does, all at once."""
        generate(
            self.model,
            [self.lyric_ids] * num_songs,
            [self.prompt] * num_songs,
            range(num_songs),
            self.sampling,
            runner=choose_runner(self.model.bos_D.device, with_graphs=self.with_graphs),
        )

    def write_plainly(self, kind: type[RereadingBranch] | type[ConcatenatingBranch]) -> None:
        """Write one song as a plain loop does."""
        write_song(self.model, kind, self.lyric_ids, self.prompt, 0, self.sampling)


def make_task(config: ModelConfig, num_frames: int, device: str, dtype: torch.dtype) -> Task:
    """Return a random model with a random prompt and random lyrics."""
    torch.manual_seed(0)
    with torch.device(device):
        model = SongModel(config).eval().to(dtype)
    conditions = config.conditions
    return Task(
        model=model,
        lyric_ids=torch.randint(1, conditions.vocabulary_size, (NUM_LYRICS,)).tolist(),
        prompt=torch.randn(conditions.prompt_frames, config.latent_channels),
        sampling=SamplingConfig(max_frames=num_frames, stop_at_eos=False),
    )


def measure(
    ways: dict[str, tuple[Callable[[], None], int]], audio_s: float, repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds that each way takes per second of audio, `repeats` times, the ways in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (write, num_songs) in ways.items():
            begun = clock()
            write()  # returns songs on the CPU: nothing is still being computed
            times[name].append((clock() - begun) / (audio_s * num_songs))
            sys.stderr.write(f"{name}: {times[name][-1]:.3f} s per second of audio\n")
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bench generate", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="medium")
    parser.add_argument("--frames", type=int, default=128, help="of each song, at 25 Hz (default: 128)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: of a CPU that others use too, with one thread"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile, for all ways of writing")
    parser.add_argument("--no-graphs", action="store_false", dest="graphs", help="on a GPU, no CUDA graphs")
    parser.add_argument("--without-plain", action="store_true", help="leave out the slow plain loop; nothing is judged")
    options = parser.parse_args(arguments)
    if options.frames < 1 or options.repeats < 1:
        parser.error(f"--frames {options.frames}, --repeats {options.repeats}: expected 1 or more")
    task = make_task(SIZES[options.size], options.frames, options.device, getattr(torch, options.dtype))
    task = replace(task, with_graphs=options.graphs)
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "plain": (partial(task.write_plainly, RereadingBranch), 1),
        "concatenating": (partial(task.write_plainly, ConcatenatingBranch), 1),
        "one": (partial(task.write, 1), 1),
        "many": (partial(task.write, MANY), MANY),
    }
    if options.without_plain:
        del ways["plain"]
    if options.compile:
        task.model.compile_layers()
    warm_up = replace(task, sampling=replace(task.sampling, max_frames=1))
    for num_songs in (1, MANY):
        warm_up.write(num_songs)
    times = measure(ways, options.frames / FRAME_RATE_HZ, options.repeats, CLOCKS[options.clock])
    summary = summarise(times) | {
        "size": options.size,
        "frames": options.frames,
        "songs_at_once": MANY,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "dtype": options.dtype,
        "clock": options.clock,
        "compiled": options.compile,
        "steps": describe_steps(options.device, with_graphs=options.graphs),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["ok"] else 1


def summarise(times: dict[str, list[float]]) -> dict[str, object]:
    """Return median and spread of every way, the speed-ups over both loops, and whether they suffice."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    speedups = {
        f"{ours}_over_{rival}": medians[rival] / medians[ours]
        for rival in ("plain", "concatenating")
        for ours in REQUIRED
        if rival in medians
    }
    return {
        "seconds_per_audio_second": {
            name: {"median": medians[name], "min": min(values), "max": max(values)} for name, values in times.items()
        },
        "speedup": speedups,
        "required": {f"{ours}_over_plain": least for ours, least in REQUIRED.items()},
        "ok": all(speedups.get(f"{ours}_over_plain", least) >= least for ours, least in REQUIRED.items()),
    }
