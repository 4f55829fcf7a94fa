"""What goes wrong with machines: a small disk that a test can fill, enlarge or make read-only; too little memory."""

import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from threadpoolctl import threadpool_limits

from jobs.command import run_command
from tests.model.conftest import rank_environment, ranks  # noqa: F401  # fixtures of a training run


class Disk:
    """A file system in memory, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        """Change its size ("size=100m") or whether it may be written ("ro", "rw")."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a disk of 256 kB, or skip the test where mounting is not allowed."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over other numbers of threads differ in their last bits, and a fork has no threads of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def limits() -> Iterator[Callable[[int, int], None]]:
    """Lower a limit of this process, and put it back."""
    saved: dict[int, tuple[int, int]] = {}

    def lower(what: int, limit: int) -> None:
        saved.setdefault(what, resource.getrlimit(what))
        resource.setrlimit(what, (limit, saved[what][1]))

    yield lower
    for what, before in saved.items():
        resource.setrlimit(what, before)


def starve(extra_bytes: int, work: Callable[[], object], log: Path) -> int:
    """Run a command in a process that may take so much more memory than it has, and return its exit code.

    It must end well, in one line, or be ended by a library.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            sys.stdout = sys.stderr = log.open("w")
            limit = psutil.Process().memory_info().vms + extra_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            run_command(lambda: ({"done": str(work())}, 0))
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - as an interpreter ends
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text()
    assert code in (0, 1, -signal.SIGABRT), said
    if code == 1:
        assert said.splitlines()[-1].startswith("error: "), said
        assert "Traceback" not in said
    return code
