"""Measure the model's speed: `python -m model.bench NAME`, where each NAME is a module of this folder.

A benchmark prints one JSON object as its last line. Exit code 0: all that was asked for holds; 1: a figure falls
short; 2: wrong use.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = ("bytes", "generate", "gpu", "step", "train", "trainer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names with the others."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in BENCHMARKS:
        found = f"there is no benchmark {given[0]!r}" if given else "no benchmark named"
        sys.stderr.write(f"python -m model.bench: {found}, expected one of {', '.join(BENCHMARKS)}\n")
        return 2
    code: int = import_module(f"model.bench.{given[0]}").main(given[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
