"""Results in the order of the tasks; a process that dies loses its task by name and nothing else."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from shards.schema import ShardError
from shards.worker_processes import run_in_order


def make_work() -> Callable[[int], str]:
    return work


def work(task: int) -> str:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if task >= 100:
        os._exit(7)
    time.sleep(0.05 * (task % 2))  # so that later tasks are done first
    return f"done {task}"


def explain(task: int, how: str) -> str:
    return f"lost {task}: {' '.join(how.split()[3:])}"


def test_killed_process_loses_only_its_task() -> None:
    found = list(run_in_order(iter(range(12)), make_work, explain, 2))
    expected = [f"done {task}" for task in range(12)]
    expected[3] = "lost 3: was killed by SIGKILL"
    assert found == expected


def test_processes_that_all_die_are_an_error() -> None:
    with pytest.raises(
        ShardError, match=r"7 workers died one after the other, the last one: .* ended with exit code 7"
    ):
        list(run_in_order(range(100, 120), make_work, explain, 2))
