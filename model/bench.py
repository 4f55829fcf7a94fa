"""Measure the model's speed: `python -m model.bench NAME`, where each NAME is a module `model/bench_NAME.py`.

A benchmark prints one JSON object as its last line. Exit code 0: all that was asked for holds; 1: a figure falls
short; 2: wrong use.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

PREFIX = "bench_"


def list_benchmarks() -> list[str]:
    """Return the names that there are."""
    return sorted(path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}*.py"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names with the others."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = list_benchmarks()
    if not given or given[0] not in names:
        found = f"there is no benchmark {given[0]!r}" if given else "no benchmark named"
        sys.stderr.write(f"python -m model.bench: {found}, expected one of {', '.join(names)}\n")
        return 2
    code: int = import_module(f"model.{PREFIX}{given[0]}").main(given[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
