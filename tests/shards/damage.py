"""Damaged files, and what reading them takes; for every test of a reader."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def damage(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` damaged versions of `data`: bits flipped, bytes replaced, cut, and pieces moved or repeated."""
    random_ = random.Random(seed)

    def place(extra: int = 0) -> int:
        return random_.randrange(len(data) + extra)

    for _ in range(count):
        changed = bytearray(data)
        kind = random_.randrange(5)
        if kind == 0:
            for _ in range(random_.choice((1, 1, 2, 8))):
                changed[place()] ^= 1 << random_.randrange(8)
        elif kind == 1:
            start = place()
            changed[start : start + random_.choice((1, 2, 4, 8))] = random_.randbytes(random_.choice((1, 2, 4, 8)))
        elif kind == 2:
            del changed[place() :]
        elif kind == 3:  # a piece is left out
            start = place()
            del changed[start : start + random_.choice((1, 4, 64, 512))]
        else:  # a piece stands where another was, or between others
            start, size, target = place(), random_.choice((1, 4, 64, 512)), place(1)
            changed[target : target + random_.choice((0, size))] = data[start : start + size]
        yield bytes(changed)


def measure(code: str, *arguments: str | Path, timeout_s: float = 60) -> list[dict[str, Any]]:
    """Read files in a process of their own and return what came of it, the seconds and the memory of each.

    Args:
        code: imports, and a function `read(path)`.
        arguments: the files.
        timeout_s: for all of them.

    Returns:
        for each file `error`, the type and the message of what left `read`, or None; `seconds`; and `mb`, how much the
        most memory that the process has had rose meanwhile, in MiB. (getrusage would count the tests' own process.)
    """
    script = f"""
import json, sys, time
from pathlib import Path
{code}
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
for argument in sys.argv[1:]:
    before, started, error = peak(), time.perf_counter(), None
    try:
        read(Path(argument))
    except Exception as raised:
        error = type(raised).__name__ + ": " + str(raised)
    print(json.dumps({{"error": error, "seconds": time.perf_counter() - started, "mb": peak() - before}}), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout_s, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
