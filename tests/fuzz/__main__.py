"""Fuzz the parsers: `python -m tests.fuzz [TARGET ...] --minutes N`, or `make fuzz MINUTES=N`.

Each target runs for its share of the time with coverage (atheris), in a process of its own, from the corpus that
earlier runs have left in --out. With --inputs N it runs --coverage-seconds that way, and then without coverage on
mutations of the corpus, no two alike, until N inputs have been counted in all runs: ten times as many in the same time.

An input that makes something undocumented leave a parser, takes 5 s or 1 GB is written to --out/TARGET/found, with
its traceback: it becomes an ordinary test. The last line is one JSON object with the counts of each target; exit code 0
if nothing was found, 1 otherwise.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

from .counting import Count, count_inputs, save
from .target import MAX_MEMORY_BYTES, MAX_SECONDS, SCRATCH, scratch

_GRACE_S = 120  # for imports and seeds


def fuzz_one(name: str, modules: list[str], seconds: int, inputs: int, out: Path) -> None:
    """Fuzz one target with coverage of some modules in this process; the engine ends it."""
    import atheris

    with atheris.instrument_imports(include=modules):
        from .targets import TARGETS
    logging.disable(logging.CRITICAL)
    target = TARGETS[name]
    folder = out / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(seed[: target.max_bytes])

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except target.errors:
            pass
        except Exception:  # noqa: BLE001 - that is what is looked for; the engine goes on
            save(folder, data, traceback.format_exc())

    flags = {
        "max_total_time": seconds,
        "runs": inputs,
        "max_len": target.max_bytes,
        "timeout": int(MAX_SECONDS),
        "rss_limit_mb": MAX_MEMORY_BYTES // (1 << 20) + 1024,  # on top of the libraries
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)], run)
    atheris.Fuzz()


def cover(name: str, modules: tuple[str, ...], seconds: float, inputs: int, out: Path) -> None:
    """Fuzz one target with coverage in a process of its own, and add what it did to the target's count."""
    command = [sys.executable, "-m", "tests.fuzz", *modules, "--only", name, "--minutes", str(seconds / 60)]
    command += ["--inputs", str(inputs), "--out", str(out)]
    environment = os.environ | {SCRATCH: str(scratch())}
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + _GRACE_S,
            check=False,
        )
        code, said = done.returncode, done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        code, said = 1, (error.stdout or b"").decode("utf-8", "replace")
    executed = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)
    if code:
        sys.stderr.write(said[-6000:])
    count = Count.read(out / name)
    replace(
        count,
        covered=count.covered + (int(executed[-1]) if executed else 0),
        seconds=count.seconds + time.monotonic() - started,
        findings=count.findings + (code != 0),
    ).write(out / name)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--minutes", type=float, help="for all targets together (default: 10, no limit with --inputs)")
    parser.add_argument("--inputs", type=int, help="count up to so many inputs per target, over all runs into --out")
    parser.add_argument(
        "--coverage-seconds", type=float, default=30.0, help="with --inputs, of each target (default: 30)"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder for corpora, counts and what was found")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process of one target
    options = parser.parse_args()
    if options.only:
        fuzz_one(options.only, options.targets, round(options.minutes * 60), options.inputs, options.out)
        return 0
    from .targets import TARGETS

    logging.disable(logging.CRITICAL)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    names = options.targets or list(TARGETS)
    minutes = options.minutes or (float("inf") if options.inputs else 10.0)
    deadline = time.monotonic() + 60 * minutes
    for number, name in enumerate(names):
        folder, modules = options.out / name, TARGETS[name].modules
        seconds = (deadline - time.monotonic()) / (len(names) - number)  # what is left is shared by those that are left
        own_deadline = time.monotonic() + seconds
        if options.inputs is None:
            cover(name, modules, seconds, -1, options.out)
        else:
            left = options.inputs - Count.read(folder).inputs
            if left > 0 and modules and options.coverage_seconds >= 1:
                cover(name, modules, min(options.coverage_seconds, seconds), left, options.out)
            count_inputs(TARGETS[name], folder, options.inputs, own_deadline)
        sys.stderr.write(f"{name}: {json.dumps(asdict(Count.read(folder)))}\n")
    counts = {name: asdict(Count.read(options.out / name)) for name in names}
    found = [name for name in names if counts[name]["findings"] or (options.out / name / "found").exists()]
    sys.stdout.write(json.dumps({"ok": not found, "inputs": counts, "faults_in": found}) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
