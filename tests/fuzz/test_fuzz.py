"""A few hundred inputs for every parser, and every input that fuzzing has found; `make fuzz` runs longer."""

import json
import os
import random
import resource
import signal
import time
import traceback
import zlib
from pathlib import Path

import pytest

from pipeline.model_files.hub import HubError

from .counting import Count, count_inputs
from .mutate import mutate
from .target import MAX_MEMORY_BYTES, MAX_SECONDS, Target
from .targets import TARGETS

INPUTS = 200
FOUND = Path(__file__).parent / "found"  # a folder for each target


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


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_is_mended(path: Path) -> None:
    """In a process of its own: some of these ended it."""
    child = os.fork()
    if child == 0:
        try:
            check(TARGETS[path.parent.name], path.read_bytes())
        except BaseException:  # noqa: BLE001 - a fork must not go on with the tests
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def check(target: Target, data: bytes) -> None:
    started = time.monotonic()
    try:
        target.run(data)
    except target.errors:
        pass
    except Exception as error:
        raise AssertionError(f"{target.name}: {error!r} left the parser for {data[:2000]!r}") from error
    assert time.monotonic() - started < MAX_SECONDS, f"{target.name}: {data[:2000]!r} takes too long"


def _fails(data: bytes) -> None:
    """Read bytes as a parser with every kind of fault does."""
    if data[:1] == b"x":
        raise KeyError("x")
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if data[:1] == b"e":
        raise ValueError("documented")


def test_inputs_are_counted_once_and_what_ends_the_process_is_kept(tmp_path: Path) -> None:
    target = Target(
        name="t", run=_fails, errors=(ValueError,), seeds=lambda: [b"xyz", b"crash", b"error", b"fine"], modules=()
    )
    count = count_inputs(target, tmp_path, 300, time.monotonic() + 60)
    assert (count.plain, count.covered) == (300, 0)
    found = [path.read_bytes() for path in (tmp_path / "found").glob("*.bin")]
    assert {data[:1] for data in found} == {b"x", b"c"}
    assert Count.read(tmp_path) == count
    assert count_inputs(target, tmp_path, 300, time.monotonic() + 60) == count, "what was counted is not run again"
    assert count_inputs(target, tmp_path, 10**9, time.monotonic() - 1) == count, "the time is over"


def test_a_hub_that_says_something_else_is_none() -> None:
    """Sizes are added up and hashes are names of files, later and elsewhere."""
    for wrong in ({"size": "10"}, {"size": -1}, {"blobId": 3}, {"lfs": {"sha256": 1, "size": 1, "pointerSize": 1}}):
        files = [{"rfilename": "config.json"} | wrong, {"rfilename": "model.safetensors"}]
        with pytest.raises(HubError, match="what answers is no model hub"):
            TARGETS["hub.json"].run(json.dumps({"id": "a/b", "siblings": files}).encode())
