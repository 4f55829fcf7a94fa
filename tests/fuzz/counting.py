"""Inputs counted one by one, without an engine: mutations of the corpus that coverage has found.

The process that runs a parser keeps its input and its count in memory that the one that watches it sees too: what
ends the process, makes it hang or fills its memory is then known to the byte.
"""

import contextlib
import json
import mmap
import os
import random
import re
import resource
import signal
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .mutate import mutate
from .target import MAX_MEMORY_BYTES, MAX_SECONDS, Target, scratch

_HEAD = struct.Struct("<QQQ")  # inputs begun, inputs that count, bytes of the input that is being read
_POLL_S = 0.1
_PLACES = re.compile(r"line \d+, in \w+")
_PROGRESS_S = 30.0
_START_S = 120.0  # for imports and seeds, before the first input
_MAX_INPUT_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Count:
    """What has been done for one target, over all runs."""

    covered: int = 0  # inputs that the engine made, with coverage
    plain: int = 0  # different inputs of this module, without
    seconds: float = 0.0
    peak_bytes: int = 0  # above what the process had at its start
    slowest_s: float = 0.0
    findings: int = 0

    @classmethod
    def read(cls, folder: Path) -> "Count":
        """Return what `write` left in a target's folder; nothing done where there is none."""
        try:
            return cls(**json.loads((folder / "count.json").read_text()))
        except FileNotFoundError:
            return cls()

    def write(self, folder: Path) -> None:
        """Keep it in a target's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "count.part"
        part.write_text(json.dumps(asdict(self)))
        part.replace(folder / "count.json")

    @property
    def inputs(self) -> int:
        """Inputs of both kinds."""
        return self.covered + self.plain


def count_inputs(target: Target, folder: Path, wanted: int, deadline: float) -> Count:
    """Run a target on new inputs until `wanted` have been counted in all or the time is over.

    Each is a mutation of a seed or of the corpus, and no two of one run are equal. What was found lies in `folder`
    afterwards, an input and its traceback each; an input that ends the process is followed by a new process.

    Args:
        target: the parser.
        folder: of the target, with its corpus and its count.
        wanted: inputs in all, those of earlier runs and of the engine too.
        deadline: by `time.monotonic`.
    """
    count = Count.read(folder)
    shared = mmap.mmap(-1, _HEAD.size + _MAX_INPUT_BYTES)
    scratch()  # one for all processes of this target
    while count.inputs < wanted and time.monotonic() < deadline:
        started = time.monotonic()
        shared[: _HEAD.size] = bytes(_HEAD.size)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                _run(target, folder, count, wanted - count.inputs, deadline, shared)
            os._exit(1)
        status = _watch(child, shared, f"{target.name}: {{}} of {wanted} inputs\n", count.inputs)
        _, done, size = _HEAD.unpack_from(shared)
        previous, count = count, Count.read(folder)
        if status:  # it did not end by itself
            data = shared[_HEAD.size : _HEAD.size + size]
            save(folder, data, f"the process ended with status {status}: killed, crashed, or over {MAX_SECONDS:g} s\n")
            count = replace(
                previous,
                plain=previous.plain + done,
                seconds=previous.seconds + time.monotonic() - started,
                findings=previous.findings + 1,
            )
            count.write(folder)
    return count


def _watch(child: int, shared: mmap.mmap, message: str, before: int) -> int:
    """Wait for a process, end it once one input takes too long, and return its status as `os.waitpid` has it."""
    begun, since = -1, time.monotonic()
    said = since
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        now, done, _ = _HEAD.unpack_from(shared)
        if time.monotonic() - said > _PROGRESS_S:
            said = time.monotonic()
            sys.stderr.write(message.format(before + done))
        if now != begun:
            begun, since = now, time.monotonic()
        elif time.monotonic() - since > (MAX_SECONDS + _POLL_S if now else _START_S):
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_S)


def _run(target: Target, folder: Path, count: Count, wanted: int, deadline: float, shared: mmap.mmap) -> None:
    """Run inputs in this process, write what is found and the count, and end the process."""
    corpus = [path.read_bytes()[: target.max_bytes] for path in sorted((folder / "corpus").glob("*"))]
    seeds = [*target.seeds(), *corpus]
    findings = plain = 0
    slowest_s = 0.0
    before = peak = _peak_bytes()
    started = time.monotonic()
    for number, data in enumerate(_inputs(target, seeds, count.inputs, wanted)):
        shared[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(shared, 0, number + 1, plain, len(data))
        begun = time.perf_counter()
        try:
            target.run(data)
        except target.errors:
            pass
        except Exception:  # noqa: BLE001 - that is what is looked for
            findings += save(folder, data, traceback.format_exc())
        took = time.perf_counter() - begun
        plain += 1
        slowest_s = max(slowest_s, took)
        if took > MAX_SECONDS:
            findings += save(folder, data, f"it takes {took:.1f} s\n")
        now = _peak_bytes()
        if now - peak > MAX_MEMORY_BYTES // 4:  # of one input; the inputs' hashes grow slowly
            findings += save(folder, data, f"it takes {now - peak} bytes\n")
        peak = max(peak, now)
        if number % 64 == 0 and time.monotonic() > deadline:
            break
    done = Count(
        covered=count.covered,
        plain=count.plain + plain,
        seconds=count.seconds + time.monotonic() - started,
        peak_bytes=max(count.peak_bytes, peak - before),
        slowest_s=max(count.slowest_s, slowest_s),
        findings=count.findings + findings,
    )
    done.write(folder)
    os._exit(0)


def _inputs(target: Target, seeds: list[bytes], start: int, wanted: int) -> Iterator[bytes]:
    """Yield as many inputs as are wanted, no two equal; other ones for each count that they start from."""
    generator = random.Random(f"{target.name} {start}")
    seen: set[int] = set()
    while len(seen) < wanted:
        data = mutate(seeds, generator, target.max_bytes)
        if (digest := hash(data)) not in seen:
            seen.add(digest)
            yield data


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def save(folder: Path, data: bytes, text: str) -> bool:
    """Write an input that found something, with what it did; the first ten of each kind of end are kept."""
    kind = f"{zlib.crc32(repr(_PLACES.findall(text)).encode()):08x}"
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    place = found / f"{kind}-{len(list(found.glob(f'{kind}-*.bin')))}"
    if place.name.endswith("-10"):
        return False
    place.with_suffix(".bin").write_bytes(data)
    place.with_suffix(".txt").write_text(text)
    return True
