"""The whole path on the bundled songs and miniature models: noisy lyrics to clean ones, shards, a trained model, audio.

Runs the commands that a user runs, one after the other, times each, and writes everything below --out. No GPU, no hub.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, run_command
from jobs.demo_report import write_demo_report

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
SONGS = ROOT / "jobs" / "demo_songs"
PROGRESS = re.compile(r"\d\d:\d\d:\d\d |step \d+/")  # the lines of a command that tell how it is going
TRUTH_FILES = ("truth.json", "noise.json")


def lay_out(raw: Path) -> int:
    """Copy the bundled songs as a user has them: audio and lyrics, no truth; return how many there are."""
    folders = sorted(path for path in SONGS.iterdir() if path.is_dir())
    for folder in folders:
        target = raw / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name not in TRUTH_FILES:
                shutil.copy(path, target / path.name)
    return len(folders)


class Steps:
    """Runs commands and keeps their times and totals."""

    def __init__(self, out: Path) -> None:
        """Remember where the logs go."""
        self._logs = out / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        # The demo is offline by design; a working Ray of the user's is left alone.
        self._environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "SONGBLOOM_PROFILE": "miniature",
            "PYTHONUNBUFFERED": "1",
            "RAY_ADDRESS": "local",
        }

    def run(self, name: str, *command: str | Path) -> dict[str, Any]:
        """Run one command, show it, and return the JSON object of its last line; a failure ends the demo."""
        words = [str(word) for word in command]
        logger.info("%s: %s", name, " ".join([Path(words[0]).name, *words[1:]]))
        started = time.monotonic()
        log = self._logs / f"{name}.log"
        lines = []
        process = subprocess.Popen(
            words, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        with process, log.open("w") as stream:
            for line in process.stdout:
                stream.write(line)
                if line.startswith("{"):
                    lines.append(line)
                elif PROGRESS.match(line):
                    sys.stderr.write(f"    {line}")
        self.seconds[name] = round(time.monotonic() - started, 1)
        if process.returncode != 0 or not lines:
            tail = "\n".join(log.read_text().splitlines()[-15:])
            raise SystemExit(f"{name} ended with exit code {process.returncode}; the end of {log}:\n{tail}")
        logger.info("%s: done in %.0f s", name, self.seconds[name])
        totals: dict[str, Any] = json.loads(lines[-1])
        return totals


def main() -> tuple[dict[str, Any], int]:
    """Run the demo."""
    parser = CommandParser(prog="demo.py", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder for everything (default: demo/, emptied first)"
    )
    parser.add_argument("--steps", type=int, default=120, help="training steps (default: 120)")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if out.exists():
        if any(out.iterdir()) and not (out / "logs").is_dir():
            raise SystemExit(f"error: {out} is not empty and not a demo's folder; choose another --out")
        shutil.rmtree(out)
    python = sys.executable
    num_songs = lay_out(out / "raw")
    steps = Steps(out)
    logger.info("%d bundled songs in %s", num_songs, out / "raw")
    clean = steps.run("clean", python, "jobs/clean_lyrics.py", "--in", out / "raw", "--out", out / "clean")
    extract = steps.run(
        "extract",
        python,
        "jobs/extract_tokens.py",
        "--in",
        out / "raw",
        "--out",
        out / "shards",
        "--val-fraction",
        "0.01",
    )
    verify = steps.run("verify", python, "-m", "shards", "verify", out / "shards")
    run = ("--data", out / "shards", "--out", out / "run", "--max-steps", str(arguments.steps))
    deepspeed = (Path(python).with_name("deepspeed"), "--quiet", "--num_accelerators", "1")
    train = steps.run("train", *deepspeed, "model/train.py", "--config", "miniature.yaml", *run)
    prompt = next(path for path in sorted((out / "raw").rglob("*")) if path.suffix in {".opus", ".ogg", ".flac"})
    lyrics = write_demo_lyrics(out)
    generate = steps.run(
        "generate", python, "jobs/generate.py", "--checkpoint", out / "run", "--lyrics", lyrics, "--prompt", prompt,
        "--out", out / "song.flac", "--seconds", "10", "--min-seconds", "10", "--steps", "10",
    )  # fmt: skip
    totals = {
        "seconds": steps.seconds,
        "total_seconds": round(sum(steps.seconds.values()), 1),
        "clean": clean,
        "extract": extract,
        "verify": verify,
        "train": train,
        "generate": generate,
        "report": str(out / "report.html"),
    }
    write_demo_report(out, totals)
    for name, seconds in steps.seconds.items():
        logger.info("%-10s %6.1f s", name, seconds)
    loss_fell = train["last_loss"] < train["first_loss"]
    return totals, EXIT_FINE if loss_fell and generate["songs"][0]["out"] else EXIT_SHORT


def write_demo_lyrics(out: Path) -> Path:
    """Write the lyrics that the demo's song is to sing."""
    path = out / "lyrics.txt"
    path.write_text(
        "[intro] [intro] , [verse] The morning walks along the shore. The river opens every door , "
        "[chorus] Sing me a morning. sing me a sea , [outro]",
        encoding="utf-8",
    )
    return path


if __name__ == "__main__":
    run_command(main)
