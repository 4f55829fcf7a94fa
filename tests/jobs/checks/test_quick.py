"""What every job looks at before it starts."""

import time
from collections import namedtuple

import pytest

from jobs.checks import machine, quick
from jobs.cluster import JobError
from tests.jobs.checks.fakes import FakeGpu, give_gpus

Usage = namedtuple("Usage", "total used free")


def test_quick_checks_are_quick_and_say_nothing_on_a_healthy_machine(tmp_path, monkeypatch, caplog):
    give_gpus(monkeypatch)
    started = time.monotonic()
    found = quick.check_quickly(tmp_path / "clean")
    assert time.monotonic() - started < 1
    assert {item.status for item in found} == {"ok"}
    quick.require_fit(found)
    assert caplog.records == []


def test_quick_checks_stop_a_job_with_one_line(tmp_path, monkeypatch, caplog):
    give_gpus(monkeypatch, FakeGpu(), unusable="NVIDIA A100 cannot be used; update the driver")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    found = quick.check_quickly(tmp_path)
    with pytest.raises(JobError, match="GPU: NVIDIA A100 cannot be used") as stopped:
        quick.require_fit(found)
    assert "\n" not in str(stopped.value)
    assert "--shm-size" in caplog.records[0].getMessage()
    quick.require_fit(quick.check_quickly(tmp_path, uses_gpu=False))  # --device cpu
