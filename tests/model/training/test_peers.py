"""A process that dies ends the others, which say which one it was. Real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.training.peers import Whereabouts

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys, time
import torch
from model.training.peers import PeerWatch, Whereabouts
from model.training.ranks import Ranks
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
seconds, timeout_s, idle_rank = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
where = Whereabouts()
with PeerWatch(Ranks(rank=rank, world_size=3, device=torch.device("cpu")), where, timeout_s):
    print("ready", flush=True)
    if rank == idle_rank:
        where.note("step 7: reading songs")
    time.sleep(seconds * (1 + rank))  # as deaf as a collective that waits for a dead rank
print("done", flush=True)
"""


def start(seconds: float, timeout_s: float = 0.0, idle_rank: int = -1) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = os.environ | {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(seconds), str(timeout_s), str(idle_rank)],
            env=base | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        while "ready" not in (line := process.stdout.readline()):
            assert line, "a rank ended before it was ready"
    return processes


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_others_by_name(victim: int):
    processes = start(600)
    processes[victim].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    for rank, process in enumerate(processes):
        _, said = process.communicate(timeout=60)
        if rank != victim:
            assert process.returncode == 1
            assert f"rank {rank}: rank {victim} has ended or cannot be reached; ending too" in said
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("victim", [0, 2])
def test_a_stopped_rank_ends_the_others_by_name(victim: int):
    """A machine that swaps or a process that is halted: the kernel keeps its connection open."""
    processes = start(600, timeout_s=3)
    processes[victim].send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    for rank, process in enumerate(processes):
        if rank != victim:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 1
            assert f"rank {victim} has not been heard of for 3 s (last: starting), expected a sign within 3 s" in said
    assert 2 < time.monotonic() - begun < 20
    processes[victim].kill()
    processes[victim].communicate()


@pytest.mark.parametrize("idle", [2])
def test_a_rank_that_does_not_move_on_ends_all_and_says_where_it_is(idle: int):
    for process in start(600, timeout_s=2, idle_rank=idle):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"rank {idle} has not moved on for 2 s (step 7: reading songs), expected a sign within 2 s" in said


def test_patience_is_counted_from_the_last_sign():
    where = Whereabouts()
    assert where.read()[:2] == ("starting", float("inf"))
    where.note("step 1: computing", patience=2.0)
    time.sleep(0.05)
    assert where.read()[2] >= 0.05
    where.touch()
    place, patience, idle_s = where.read()
    assert (place, patience) == ("step 1: computing", 2.0)
    assert idle_s < 0.05


def test_ranks_that_finish_one_after_another_end_in_peace():
    for process in start(0.5):
        said, complaints = process.communicate(timeout=60)
        assert (process.returncode, said.strip()) == (0, "done")
        assert "has ended" not in complaints
