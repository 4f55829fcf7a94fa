"""Starting the ranks of a test as real processes."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from .conftest import OF_RANKS

ROOT = Path(__file__).resolve().parents[2]


def find_ports(count: int) -> list[str]:
    """Return free ports of this machine."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


def run_ranks(script: str, dataset: Path, out: Path, world_size: int, num_ports: int, **variables: str) -> None:
    """Run `script`, beside this file, as so many processes until all have ended well."""
    base = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    base |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    ports = find_ports(num_ports)
    path = str(Path(__file__).with_name(script))
    processes = [
        subprocess.Popen(
            [sys.executable, path, str(dataset), str(out), str(rank), *ports],
            env=base | {"PATH": str(out)},  # no compiler, no ninja
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
