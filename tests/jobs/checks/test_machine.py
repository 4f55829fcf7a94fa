"""Memory, cores, shared memory and open files, and what a container allows of them."""

import os
import resource
from collections import namedtuple
from types import SimpleNamespace

from jobs.checks import machine
from jobs.cluster import WORKERS_PER_GPU
from tests.jobs.checks.fakes import GB

Usage = namedtuple("Usage", "total used free")


def test_memory_and_workers(monkeypatch):
    monkeypatch.setattr(machine, "usable_memory", lambda: 30 * GB)
    assert machine.check_memory(4, 0).status == "ok"
    found = machine.check_memory(16, 0)
    assert (found.status, found.remedy.split(" to ")[0]) == ("warn", "add --workers 7")
    monkeypatch.setattr(machine, "usable_memory", lambda: 2 * GB)
    assert "more memory" in machine.check_memory(1, 0).remedy


def test_a_container_s_limits_count(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GB, available=60 * GB))
    assert (machine.usable_cores(), machine.usable_memory()) == (16, 64 * GB)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{8 * GB}\n")
    assert (machine.usable_cores(), machine.usable_memory()) == (1.5, 8 * GB)
    assert machine.check_cores(4).status == "warn"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.usable_cores(), machine.usable_memory()) == (16, 64 * GB)
    assert machine.check_cores(16).status == "ok"


def test_workers_are_those_of_the_jobs(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 12.5)
    assert machine.count_workers(0, WORKERS_PER_GPU) == 12
    assert machine.count_workers(4, WORKERS_PER_GPU) == 4 * WORKERS_PER_GPU


def test_small_shared_memory_warns(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    found = machine.check_shared_memory()
    assert (found.status, found.found) == ("warn", "67 MB")
    assert "--shm-size" in found.remedy
    monkeypatch.undo()
    assert machine.check_shared_memory(tmp_path).status == "ok"
    assert machine.check_shared_memory(tmp_path / "nothing").status == "warn"


def test_the_limit_of_open_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 524_288))  # Ray raises the first to the second
    assert machine.check_open_files().status == "ok"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    found = machine.check_open_files()
    assert found.status == "warn"
    assert "ulimit -n 65535" in found.remedy
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert machine.check_open_files().status == "ok"


def test_the_limit_of_mapped_memory(monkeypatch):
    monkeypatch.setattr(machine, "usable_memory", lambda: 20 * GB)
    for limit, status in ((10 * GB, "FAIL"), (12 * GB, "ok"), (resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert machine.check_address_space().status == status
