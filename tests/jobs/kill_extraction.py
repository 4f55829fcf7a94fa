"""Kills extract_tokens.py at random moments and starts it again until it is done; are the bytes the same?

    python tests/jobs/kill_extraction.py --in raw/ --clean clean/ --kills 30

The last line of output is one JSON object; exit code 0 if shards, index and dataset.json equal those of a run that
nobody disturbed, 1 if not.
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


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a dataset."""
    files = [*sorted(folder.glob("*/*.tar")), folder / "index.parquet", folder / "dataset.json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(source: Path, clean: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, str(ROOT / "jobs" / "extract_tokens.py"), "--in", str(source), "--clean", str(clean),
        "--out", str(out), "--profile", "miniature", "--workers", str(workers), "--shard-bytes", "1000000",
    ]  # fmt: skip
    with (out.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="source", type=Path, required=True, help="folder of songs")
    parser.add_argument("--clean", type=Path, required=True, help="what clean_lyrics.py made of it")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="folder for what is written")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        started = time.monotonic()
        if start(options.source, options.clean, scratch / "whole", 1).wait():
            sys.stdout.write((scratch / "log").read_text()[-3000:])
            return 1
        whole_s = time.monotonic() - started
        expected = digests(scratch / "whole")
        num_kills, num_runs = 0, 0
        while num_kills < options.kills:
            process = start(options.source, options.clean, scratch / "killed", 1 + num_kills % 2)
            try:
                process.wait(generator.uniform(0, whole_s))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                num_kills += 1
                process.wait()
                continue
            num_runs += 1  # done before it could be killed: once more from nothing
            if process.returncode or digests(scratch / "killed") != expected:
                break
            (scratch / "killed").rename(scratch / f"done-{num_runs}")
        code = start(options.source, options.clean, scratch / "killed", 2).wait()
        is_same = code == 0 and digests(scratch / "killed") == expected
        leftovers = [path.name for path in (scratch / "killed").rglob("*.tmp")]
        result = {
            "ok": is_same and not leftovers, "kills": num_kills, "runs_finished_in_between": num_runs,
            "undisturbed_s": round(whole_s, 1), "wall_s": round(time.monotonic() - started, 1),
            "files": len(expected), "temporary_files_left": len(leftovers),
        }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
