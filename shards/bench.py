"""`python -m shards.bench`: how fast shards are read, beside stock WebDataset and `cat`, and how soon training starts.

Rounds are interleaved: every contender runs once in each round, in one process, on files that are in memory already.
A ratio is the median over rounds of the ratio within a round. The last line of output is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.bench_data import write_bench_dataset, write_bench_index
from shards.index import read_index
from shards.plan import Plan
from shards.reader import ShardReader
from shards.schema import ShardError

TARGETS = {  # from the project's plan: at least, or for seconds at most
    "samples_vs_webdataset": 2.0,
    "bytes_vs_cat": 0.6,
    "random_vs_sequential": 0.5,
    "first_batch_s": 2.0,
    "resume_s": 1.0,
}
_BATCH_SIZE = 128  # songs of a step of the released recipe
_MIN_FRAMES = 1_500  # 60 s, its shortest crop
_RESUME_STEP = 123_456


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the figures and return 0 if every target is met, 1 if not."""
    options = _parse(arguments)
    try:
        return _measure(options)
    except (ShardError, OSError) as error:
        sys.stderr.write(f"shards.bench: {error}\n")
        return 2


def _measure(options: argparse.Namespace) -> int:
    if options.probe_index is not None:
        sys.stdout.write(json.dumps(probe_index(options.probe_index, options.step)) + "\n")
        return 0
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        root = options.dir or Path(scratch) / "dataset"
        if options.dir is None:
            write_bench_dataset(root, options.songs)
        result = compare_readers(root, options.rounds)
        if options.index_rows:
            result |= measure_index(Path(scratch) / "index", options.index_rows, options.rounds)
    missed = [name for name, target in TARGETS.items() if name in result and not _is_met(name, result[name], target)]
    for name, value in result.items():
        sys.stdout.write(f"{name:<24} {json.dumps(value)}\n")
    sys.stdout.write(json.dumps({"ok": not missed, "missed": missed, **result}) + "\n")
    return 1 if missed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m shards.bench",
        description=__doc__,
        epilog="exit codes: 0 every target is met, 1 one is missed, 2 wrong use",
    )
    parser.add_argument("--dir", type=Path, help="a dataset to read (default: one is made up, and deleted again)")
    parser.add_argument("--songs", type=int, default=600, help="songs of 200 s to make up (default: 600, 0.9 GB)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument(
        "--index-rows", type=int, default=10_000_000, help="rows of the made-up index (0: leave it out)"
    )
    parser.add_argument("--scratch", type=Path, help="where made-up files go (default: the system's folder for them)")
    parser.add_argument("--probe-index", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def compare_readers(root: Path, rounds: int) -> dict[str, Any]:
    """Return samples and bytes per second of each contender, and their ratios.

    `sequential` and `random` return samples with every member decoded and checked, `bytes` the same bytes with
    checksum and headers checked but not decoded, which is what `cat` does less.
    """
    import webdataset  # brings torch along where that is installed: seconds, which a probe of the index need not wait

    index, reader = read_index(root), ShardReader(root)
    rows = list(index)
    files = [str(root / shard) for shard in dict.fromkeys(row.shard for row in rows)]
    shuffled = np.random.default_rng(0).permutation(len(rows)).tolist()
    num_bytes = sum(Path(file).stat().st_size for file in files)

    def read_webdataset() -> int:
        return sum(1 for _ in webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode())

    def read_random() -> int:
        return sum(reader.read(index.row(number)).num_frames > 0 for number in shuffled)

    contenders: dict[str, Callable[[], int]] = {
        "cat": lambda: subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True).returncode + len(rows),
        "bytes": lambda: sum(len(reader.read_raw(row).data) > 0 for row in index),
        "sequential": lambda: sum(reader.read(row).num_frames > 0 for row in index),
        "random": read_random,
        "webdataset": read_webdataset,
    }
    for file in files:
        Path(file).read_bytes()  # from here on the files are in memory
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            num_samples = contender()
            seconds[name].append(time.perf_counter() - started)
            assert num_samples == len(rows), f"{name} read {num_samples} of {len(rows)} samples"
    taken = {name: np.array(values) for name, values in seconds.items()}
    ratios = {
        "samples_vs_webdataset": taken["webdataset"] / taken["sequential"],
        "bytes_vs_cat": taken["cat"] / taken["bytes"],
        "decoded_bytes_vs_cat": taken["cat"] / taken["sequential"],
        "random_vs_sequential": taken["sequential"] / taken["random"],
    }
    result: dict[str, Any] = {"num_samples": len(rows), "num_bytes": num_bytes, "rounds": rounds}
    for name, values in taken.items():
        result[f"{name}_samples_per_s"] = round(len(rows) / float(np.median(values)), 1)
        result[f"{name}_mb_per_s"] = round(num_bytes / float(np.median(values)) / 1e6, 1)
    for name, values in ratios.items():
        result |= _summarize(name, values.tolist())
    return result


def measure_index(root: Path, num_rows: int, rounds: int) -> dict[str, Any]:
    """Return how long a fresh process takes to the rows of its first batch, at step 0 and at a later one."""
    write_bench_index(root, num_rows)
    probes: dict[int, list[dict[str, float]]] = {0: [], _RESUME_STEP: []}
    for _ in range(rounds):
        for step, found in probes.items():
            command = [sys.executable, "-m", "shards.bench", "--probe-index", str(root), "--step", str(step)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout))
    return {
        "index_rows": num_rows,
        **_summarize("first_batch_s", [probe["seconds"] for probe in probes[0]]),
        **_summarize("resume_s", [probe["seconds"] for probe in probes[_RESUME_STEP]]),
        "index_peak_mb": round(max(probe["peak_mb"] for found in probes.values() for probe in found)),
    }


def probe_index(root: Path, step: int) -> dict[str, float]:
    """Return seconds to open the index, plan, and find the rows of step `step`, and the memory of the process."""
    started = time.perf_counter()
    index = read_index(root).select("train")
    plan = Plan(index, seed=0, min_frames=_MIN_FRAMES)
    rows = [index.row(plan.song(step * _BATCH_SIZE + slot)) for slot in range(_BATCH_SIZE)]
    assert len({row.key for row in rows}) == _BATCH_SIZE, "a song twice in a batch"
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": _peak_kib() / 1024}


def _peak_kib() -> int:
    """Return the most memory that this process has had; getrusage would count the process that started it as well."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def _summarize(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the median under `name`, and the smallest and largest value as its spread."""
    return {
        name: round(float(np.median(values)), 3),
        f"{name}_spread": [round(min(values), 3), round(max(values), 3)],
    }


def _is_met(name: str, value: float, target: float) -> bool:
    return value <= target if name.endswith("_s") else value >= target


if __name__ == "__main__":
    sys.exit(main())
