"""Kills a whole job, with its Ray and its models, at random moments and starts it again until it is done.

    python tests/jobs/kill_job.py clean --in raw/
    python tests/jobs/kill_job.py extract --in raw/ --clean clean/

Is the result that of a run that nobody disturbed, byte by byte, and was no finished song done again? The last line of
output is one JSON object; exit code 0 if so, 1 if not.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a finished song leaves behind at once, and what the job leaves at its end.
RECORDS = {"clean": ".records/**/*.json", "extract": ".progress/**/*.tar"}
RESULTS = {
    "clean": ("songs.parquet", "quarantine.parquet", "lyrics/*", "vocals/*"),
    "extract": ("*/*.tar", "index.parquet", "dataset.json"),
}


def digests(folder: Path, job: str) -> dict[str, str]:
    """Return the SHA-256 of every file that a job leaves."""
    files = sorted(path for pattern in RESULTS[job] for path in folder.glob(pattern))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def finished(folder: Path, job: str) -> dict[Path, int]:
    """Return when each finished song was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(RECORDS[job]) if path.is_file()}


def start(options: argparse.Namespace, out: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        str(ROOT / "jobs" / ("clean_lyrics.py" if options.job == "clean" else "extract_tokens.py")),
    ]
    command += ["--in", str(options.source), "--out", str(out), "--profile", "miniature", "--workers", str(workers)]
    if options.job == "clean":
        command += ["--keep-vocals", *(["--asr", options.asr] if options.asr else [])]
    else:
        command += ["--clean", str(options.clean), "--shard-bytes", "1000000"]
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(RESULTS))
    parser.add_argument("--in", dest="source", type=Path, required=True, help="folder of songs")
    parser.add_argument("--clean", type=Path, help="of extract: what clean_lyrics.py made of the songs")
    parser.add_argument("--asr", help="of clean: the recogniser, such as base")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="folder for what is written")
    options = parser.parse_args()
    if options.job == "extract" and options.clean is None:
        parser.error("extract needs --clean")
    return options


def main() -> int:
    options = parse()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        killed = scratch / "killed"
        started = time.monotonic()
        if start(options, scratch / "whole", 1).wait():
            sys.stdout.write((scratch / "log").read_text()[-3000:])
            return 1
        whole_s = time.monotonic() - started
        expected = digests(scratch / "whole", options.job)
        num_kills = num_runs = num_repeated = num_kept = 0
        is_same = True
        while is_same and num_kills < options.kills:
            before = finished(killed, options.job)
            process = start(options, killed, 1 + num_kills % 2)
            try:
                process.wait(generator.uniform(0, whole_s))
                num_runs += 1  # done before it could be killed: once more from nothing
                is_same = process.returncode == 0 and digests(killed, options.job) == expected
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                num_kills += 1
            after = finished(killed, options.job)
            num_kept += len(before)
            num_repeated += sum(after.get(path, mtime) != mtime for path, mtime in before.items())
            if process.returncode == 0:
                killed.rename(scratch / f"done-{num_runs}")
        code = start(options, killed, 2).wait()
        is_same = is_same and code == 0 and digests(killed, options.job) == expected
        leftovers = [path.name for path in killed.rglob("*.tmp")]
        result = {
            "ok": is_same and not leftovers and not num_repeated,
            "kills": num_kills,
            "runs_finished_in_between": num_runs,
            "finished_songs_met": num_kept,  # by runs that followed a kill
            "finished_songs_repeated": num_repeated,
            "files": len(expected),
            "temporary_files_left": len(leftovers),
            "undisturbed_s": round(whole_s, 1),
            "wall_s": round(time.monotonic() - started, 1),
        }
        if not is_same:
            sys.stdout.write((scratch / "log").read_text()[-3000:])
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
