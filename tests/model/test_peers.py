"""A process that dies ends the others, which say which one it was. Real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
import torch
from model.peers import PeerWatch
from model.ranks import Ranks
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
with PeerWatch(Ranks(rank=rank, world_size=3, device=torch.device("cpu"))):
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]) * (1 + rank))  # as deaf as a collective that waits for a dead rank
print("done", flush=True)
"""


def start(seconds: float) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = os.environ | {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(seconds)],
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


def test_ranks_that_finish_one_after_another_end_in_peace():
    for process in start(0.5):
        said, complaints = process.communicate(timeout=60)
        assert (process.returncode, said.strip()) == (0, "done")
        assert "has ended" not in complaints
