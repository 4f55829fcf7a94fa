"""Cleaning, extraction and training, killed again and again: `python tests/faults/soak.py --minutes 30 --scratch DIR`.

Songs are made of the bundled ones at other speeds. Each command runs once undisturbed. Then all three run in turn, each
killed with its whole process group about once a minute and started again until it ends; after its third kill in a round
it is let alone, since each start costs time. What it leaves is compared byte for byte (checkpoints by their tensors).
The last line is one JSON object: kills, rounds, peak memory of each run that ended and its growth; exit code 0 if all
bytes are equal and memory stays flat. Where bytes differ, the folder of that round and the undisturbed one stay.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import soundfile
from safetensors import safe_open

from pipeline.audio.decode import decode_audio

ROOT = Path(__file__).resolve().parents[2]
SONGS = ROOT / "jobs" / "demo_songs"
SPEEDS = (0.9, 1.0, 1.1)
KILL_AFTER_S = (5.0, 115.0)  # once a minute on average; a start alone may take half of that on a busy machine
MAX_KILLS = 3  # of one command in one round
MAX_GROWTH = 1.2  # of peak memory over all runs, by a straight line: workers keep up to 512 MB that they have freed
STEPS = "--set schedule.num_steps=40 --set checkpoint.every=10 --set trainer.val_every=0"
COMMANDS = {
    "clean": "jobs/clean_lyrics.py --in {raw} --out {out}/clean --profile miniature",
    "extract": "jobs/extract_tokens.py --in {raw} --clean {out}/clean --out {out}/shards --profile miniature",
    "train": f"model/train.py --config miniature.yaml --data {{out}}/shards --out {{out}}/run {STEPS}",
}
RESULTS = {
    "clean": ("clean/songs.parquet", "clean/quarantine.parquet", "clean/failed.parquet", "clean/lyrics/*"),
    "extract": ("shards/*/*.tar", "shards/index.parquet", "shards/dataset.json"),
    "train": ("run/step_000040/*.safetensors",),
}


def make_songs(raw: Path, wanted: int) -> int:
    """Write bundled songs at each speed, so many at most, and return how many there are."""
    count = 0
    for folder in sorted(path for path in SONGS.iterdir() if path.is_dir()):
        decoded = decode_audio(folder / "mixture.opus")
        for speed in SPEEDS[: wanted - count]:
            target = raw / f"{folder.name}-{speed}"
            target.mkdir(parents=True)
            soundfile.write(target / "mixture.flac", decoded.samples.T, round(decoded.sample_rate * speed))
            shutil.copy(folder / "lyrics.txt", target / "lyrics.txt")
            count += 1
    return count


def digests(out: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of what a command leaves."""
    files = sorted(path for pattern in RESULTS[name] for path in out.glob(pattern))
    read = _tensor_bytes if name == "train" else Path.read_bytes
    return {str(path.relative_to(out)): hashlib.sha256(read(path)).hexdigest() for path in files}


def _tensor_bytes(path: Path) -> bytes:
    """Return the tensors of a checkpoint, in their order: its metadata name the folders of the run."""
    with safe_open(path, "np") as file:
        return b"".join(key.encode() + file.get_tensor(key).tobytes() for key in sorted(file.keys()))


def run(name: str, raw: Path, out: Path, log: Path, kill_after_s: float | None = None) -> tuple[int | None, float]:
    """Run a command, or kill it and its processes after a time; return its exit code and its peak memory in GB."""
    command = [sys.executable, *COMMANDS[name].format(raw=raw, out=out).split()]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
    started, peak = time.monotonic(), 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        if kill_after_s is not None and time.monotonic() - started > kill_after_s:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, peak / 1e9
        time.sleep(1)
    return process.returncode, peak / 1e9


def _memory(pid: int) -> int:
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.Error:  # one has just ended
        pass
    return total


def _growth(values: Sequence[float]) -> float:
    """Return the last value over the first one, both on the straight line through all."""
    if len(values) < 3:
        return values[-1] / values[0]
    slope, start = np.polyfit(range(len(values)), values, 1)
    return float((start + slope * (len(values) - 1)) / start)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--scratch", type=Path, required=True, help="folder that is written; new, but for --resume")
    parser.add_argument("--resume", action="store_true", help="take songs and undisturbed run of an earlier soak there")
    parser.add_argument("--songs", type=int, default=12, help="at most so many (default: 12, all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    raw, whole, log = options.scratch / "raw", options.scratch / "whole", options.scratch / "log"
    num_songs = len(list(raw.iterdir())) if options.resume else make_songs(raw, options.songs)
    peaks: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for name in () if options.resume else COMMANDS:
        code, peak = run(name, raw, whole, log)
        if code:
            sys.stderr.write(log.read_text()[-3000:])
            return 1
        peaks[name].append(peak)
    expected = {name: digests(whole, name) for name in COMMANDS}
    kills, rounds, differing = dict.fromkeys(COMMANDS, 0), 0, []
    deadline = time.monotonic() + 60 * options.minutes
    while time.monotonic() < deadline and not differing:
        rounds += 1
        out = options.scratch / f"round{rounds}"
        for name in COMMANDS:
            for attempt in range(MAX_KILLS + 1):
                is_let_alone = attempt == MAX_KILLS or time.monotonic() > deadline
                code, peak = run(name, raw, out, log, None if is_let_alone else generator.uniform(*KILL_AFTER_S))
                if code is not None:
                    break
                kills[name] += 1
            peaks[name].append(peak)
            if code or digests(out, name) != expected[name]:
                differing.append(f"{name} of round {rounds} (exit code {code})")
                break
        else:
            shutil.rmtree(out)
    growth = {name: round(_growth(values), 2) for name, values in peaks.items() if values}
    result = {
        "ok": not differing and max(growth.values(), default=0.0) <= MAX_GROWTH,
        "songs": num_songs,
        "rounds": rounds,
        "kills": kills,
        "files": {name: len(files) for name, files in expected.items()},
        "differing": differing,
        "peak_gb": {name: [round(value, 2) for value in values] for name, values in peaks.items()},
        "peak_growth": growth,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
