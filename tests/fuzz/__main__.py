"""Fuzz the parsers with coverage (atheris): `python -m tests.fuzz [TARGET ...] --minutes N`, or `make fuzz MINUTES=N`.

Each target runs in a process of its own for its share of the time. An input that makes something undocumented leave a
parser, takes 5 s or 1 GB is written to --out, with the traceback on the terminal: it becomes an ordinary test. The last
line is one JSON object with the inputs of each target; exit code 0 if nothing was found, 1 otherwise.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

PACKAGES = ["pipeline", "shards", "model"]


def fuzz_one(name: str, seconds: int, out: Path) -> None:
    """Fuzz one target in this process; the engine ends it."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import MAX_MEMORY_BYTES, MAX_SECONDS, TARGETS
    target = TARGETS[name]
    corpus = out / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(seed)

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except target.errors:
            pass

    flags = {
        "max_total_time": seconds,
        "max_len": target.max_bytes,
        "timeout": int(MAX_SECONDS),
        "rss_limit_mb": MAX_MEMORY_BYTES // (1 << 20) + 1024,  # on top of the libraries
        "artifact_prefix": f"{out / name}/",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)], run)
    atheris.Fuzz()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder for corpora and what was found")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process of one target
    options = parser.parse_args()
    if options.only:
        fuzz_one(options.only, int(options.minutes * 60), options.out)
        return 0
    from tests.fuzz.targets import TARGETS

    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    names = options.targets or list(TARGETS)
    inputs, found = {}, []
    for name in names:
        share = ["--only", name, "--minutes", str(options.minutes / len(names)), "--out", str(options.out)]
        command = [sys.executable, "-m", "tests.fuzz", *share]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        counted = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
        inputs[name] = int(counted[-1]) if counted else 0
        if done.returncode:
            found.append(name)
            sys.stderr.write(done.stdout[-6000:])
        sys.stderr.write(f"{name}: {inputs[name]} inputs{', a fault was found' if done.returncode else ''}\n")
    sys.stdout.write(json.dumps({"ok": not found, "inputs": inputs, "faults_in": found}) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
