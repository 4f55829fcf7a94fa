"""Memory, cores, shared memory and open files of the machine, and what a container allows of them."""

import os
import resource
import shutil
from pathlib import Path

import psutil

from jobs.checks.finding import Finding, format_bytes

CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
# A process that reads, decodes and encodes an hour of audio took 3.3 to 3.6 GB with the miniatures, its libraries
# included (pipeline/README.md, "Speed and memory of the encoders"). Weights on a CPU come on top.
WORKER_BYTES = 4_000_000_000
# Ray's object store and the trainer's loaders put batches there, tens of MB each; Docker gives 64 MB where nobody asks
# for more, and a loader that finds it full dies with a bus error.
MIN_SHARED_BYTES = 1 << 30
MIN_OPEN_FILES, CLUSTER_OPEN_FILES = 4096, 65_535  # Ray warns below the first; the second: its advice for clusters
# What a job's driver and Ray's own process map, little of it ever touched: libraries, stacks and Ray's object store.
MAPPED_BYTES, STORE_SHARE = 5_000_000_000, 0.3
_UNLIMITED = 1 << 60  # cgroup v1 says no limit by a number near 2**63


def usable_cores() -> float:
    """Return how many cores this process may use: those it is bound to, or less where a container has a quota."""
    cores = float(len(os.sched_getaffinity(0)))
    quota, _, period = _read_line(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return min(cores, int(quota) / int(period))
    return cores


def usable_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or less where a container has a limit."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        limit = _read_line(CGROUP / name)
        if limit.isdigit() and 0 < int(limit) < _UNLIMITED:
            return min(total, int(limit))
    return total


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def count_workers(num_gpus: int, workers_per_gpu: int) -> int:
    """Return how many workers with weights a job starts here by itself, as `jobs.cluster.Cluster.encoders` does."""
    return workers_per_gpu * num_gpus or max(1, int(usable_cores()))


def check_cores(num_workers: int) -> Finding:
    """Compare the cores with the workers of a job: each of them decodes, resamples and aligns on one."""
    cores = usable_cores()
    found = f"{cores:g} usable" if cores == (os.cpu_count() or 0) else f"{cores:g} usable of {os.cpu_count()}"
    if cores < num_workers:
        return Finding(
            name="cores",
            status="warn",
            found=found,
            needed=f"{num_workers}, one per worker, or the GPUs wait",
            remedy="give the container more cores (docker run --cpus)",
        )
    return Finding(name="cores", status="ok", found=found)


def check_memory(num_workers: int, weights_bytes: int) -> Finding:
    """Compare the memory with what the workers of a job take at most.

    Args:
        num_workers: of a job, at once.
        weights_bytes: that each of them holds in the machine's memory; 0 where a GPU holds them.
    """
    total = usable_memory()
    per_worker = WORKER_BYTES + weights_bytes
    needed = f"{format_bytes(num_workers * per_worker)} for {num_workers} workers with hour-long files"
    found = f"{format_bytes(total)}, {format_bytes(psutil.virtual_memory().available)} free"
    fitting = max(1, int(total / per_worker))
    if total < per_worker:
        remedy = "a machine with more memory, or --max-duration with shorter songs only"
        return Finding(name="memory", status="warn", found=found, needed=needed, remedy=remedy)
    if fitting < num_workers:
        remedy = f"add --workers {fitting} to the jobs; songs of 5 minutes take less than half of it"
        return Finding(name="memory", status="warn", found=found, needed=needed, remedy=remedy)
    return Finding(name="memory", status="ok", found=f"{found} (needed: {needed})")


def check_shared_memory(path: Path = SHARED_MEMORY) -> Finding:
    """Check the size of /dev/shm."""
    try:
        total = shutil.disk_usage(path).total
    except OSError as error:
        return Finding(
            name=str(path),
            status="warn",
            found=f"{error.strerror}",
            needed="a tmpfs",
            remedy=f"mount a tmpfs on {path}",
        )
    if total < MIN_SHARED_BYTES:
        return Finding(
            name=str(path),
            status="warn",
            found=format_bytes(total),
            needed=f"{format_bytes(MIN_SHARED_BYTES)}, or loaders of the trainer die and Ray keeps its objects on disk",
            remedy="docker run --shm-size=8g",
        )
    return Finding(name=str(path), status="ok", found=format_bytes(total))


def check_open_files() -> Finding:
    """Check how many files a process may open; Ray raises the soft limit to the hard one by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = CLUSTER_OPEN_FILES if resource.RLIM_INFINITY in (soft, hard) else max(soft, min(hard, CLUSTER_OPEN_FILES))
    if limit < MIN_OPEN_FILES:
        return Finding(
            name="open files",
            status="warn",
            found=f"{soft} a process, {hard} at most",
            needed=f"{MIN_OPEN_FILES}; {CLUSTER_OPEN_FILES} on a large cluster",
            remedy=f"ulimit -n {CLUSTER_OPEN_FILES} before `ray start` (docker --ulimit nofile={CLUSTER_OPEN_FILES})",
        )
    return Finding(name="open files", status="ok", found=f"up to {limit} a process")


def check_address_space() -> Finding:
    """Check how much a process may map: Ray is ended by its own libraries where it may not map what it wants."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return Finding(name="ulimit -v", status="ok", found="no limit")
    needed = MAPPED_BYTES + STORE_SHARE * usable_memory()
    if limit < needed:
        return Finding(
            name="ulimit -v",
            status="FAIL",
            found=f"{format_bytes(limit)} a process",
            needed=f"{format_bytes(needed)} on this machine, most of which Ray maps and never uses",
            remedy="ulimit -v unlimited; --max-worker-memory limits the memory that is used",
        )
    return Finding(name="ulimit -v", status="ok", found=f"{format_bytes(limit)} a process")
