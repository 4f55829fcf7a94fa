"""A few hundred inputs for every parser; `make fuzz` runs for as long as it is told to."""

import random
import resource
import time
import zlib

import pytest

from .mutate import mutate
from .targets import MAX_MEMORY_BYTES, MAX_SECONDS, TARGETS, Target

INPUTS = 300


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_leave_a_parser(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in seeds:
        check(target, seed)
    generator = random.Random(zlib.crc32(name.encode()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(INPUTS):
        check(target, mutate(seeds, generator, target.max_bytes))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MAX_MEMORY_BYTES


def check(target: Target, data: bytes) -> None:
    started = time.monotonic()
    try:
        target.run(data)
    except target.errors:
        pass
    except Exception as error:
        raise AssertionError(f"{target.name}: {error!r} left the parser for {data[:2000]!r}") from error
    assert time.monotonic() - started < MAX_SECONDS, f"{target.name}: {data[:2000]!r} takes too long"
