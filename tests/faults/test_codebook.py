"""A codebook that is fitted while disks, files, memory and processes go wrong is that of a run nobody disturbed."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from jobs import fit_codebook
from jobs.output_folder import claim_folder
from pipeline.audio.decode import decode_audio
from pipeline.encoding.encode_song import FeatureSampler
from pipeline.input_file import InputError
from tests.jobs import crash_codebook
from tests.jobs.conftest import ROOT

from .conftest import Disk, starve

NUM_SONGS = 4
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for number in range(NUM_SONGS):
        write_song(tmp_path / "raw" / f"{number}.wav", number)
    return tmp_path / "raw"


def write_song(path: Path, seed: int) -> None:
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(24_000), 24_000)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let features be random numbers that a file's samples decide, for MuQ takes a second to load."""

    def sample(self: FeatureSampler, path: Path, num_vectors: int, seed: int) -> np.ndarray:
        digest = hashlib.sha256(decode_audio(path).samples.tobytes()).digest()
        return np.random.default_rng(list(digest)).standard_normal((64, 8)).astype(np.float32)

    monkeypatch.setattr(FeatureSampler, "setup", lambda self: None)
    monkeypatch.setattr(FeatureSampler, "sample", sample)


@pytest.fixture
def fit(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, bytes]]:
    """Return a function that fits a codebook of `raw` in this process and returns what it wrote."""

    def run(out: Path) -> dict[str, bytes]:
        crash_codebook.run(raw, out, patch=monkeypatch.setattr)
        return codebook(out)

    return run


def codebook(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.mark.usefixtures("quick")
def test_a_full_disk(fit, tmp_path: Path, disk: Disk) -> None:
    whole = fit(tmp_path / "whole")
    disk.remount("size=20k")
    for _ in range(2):
        with pytest.raises(OSError, match="space"):
            fit(disk.path / "out")
        assert not (disk.path / "out" / "model.safetensors").exists()
    disk.remount("size=100m")
    assert fit(disk.path / "out") == whole


@pytest.mark.usefixtures("quick")
def test_a_read_only_disk(fit, raw: Path, tmp_path: Path, disk: Disk) -> None:
    disk.remount("size=100m")
    before = fit(disk.path / "out")
    write_song(raw / "0.wav", 100)
    disk.remount("ro")
    with pytest.raises(OSError, match="Read-only"):
        fit(disk.path / "out")
    assert codebook(disk.path / "out") == before, "the codebook of before is there, whole"
    disk.remount("rw")
    assert fit(disk.path / "out") == fit(tmp_path / "whole") != before


@pytest.mark.usefixtures("quick")
def test_few_open_files_are_enough(fit, tmp_path: Path, limits) -> None:
    whole = fit(tmp_path / "whole")
    limits(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 8)
    assert fit(tmp_path / "few") == whole


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_killed", [False, True])
def test_songs_that_go_or_change_meanwhile(
    fit, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """One is deleted and one rewritten while the first is looked at, whichever that is; the next run sees the rest."""
    whole = fit(tmp_path / "whole")
    sample = FeatureSampler.sample

    def disturb(self: FeatureSampler, path: Path, *arguments: int, **named: int) -> np.ndarray:
        found = sample(self, path, *arguments, **named)
        others = sorted(raw.glob("*.wav"))
        if len(others) == NUM_SONGS:
            others.remove(path)
            others[0].unlink()
            write_song(others[1], 100)
        return found

    monkeypatch.setattr(FeatureSampler, "sample", disturb)
    if is_killed:
        assert crash_codebook.fork(raw, tmp_path / "out", after_songs=NUM_SONGS - 1) == signal.SIGKILL
    else:
        totals = crash_codebook.run(raw, tmp_path / "out", patch=monkeypatch.setattr)
        assert (totals["songs"], len(totals["failed"])) == (NUM_SONGS - 1, 1)
    monkeypatch.setattr(FeatureSampler, "sample", sample)
    assert fit(tmp_path / "out") == fit(tmp_path / "new") != whole


@pytest.mark.usefixtures("quick")
def test_a_song_that_failed_and_is_back_counts_from_the_first_epoch(
    fit, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that went without it was killed in its second epoch."""
    whole = fit(tmp_path / "whole")
    sample = FeatureSampler.sample

    def fail(self: FeatureSampler, path: Path, *arguments: int, **named: int) -> np.ndarray:
        if path.name == "2.wav":
            raise MemoryError
        return sample(self, path, *arguments, **named)

    monkeypatch.setattr(FeatureSampler, "sample", fail)
    assert crash_codebook.fork(raw, tmp_path / "out", after_updates=NUM_SONGS) == signal.SIGKILL
    assert list((tmp_path / "out").rglob(fit_codebook.STATE)), "it got that far"
    monkeypatch.setattr(FeatureSampler, "sample", sample)
    assert fit(tmp_path / "out") == whole


def test_a_second_driver_is_refused(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = ["fit_codebook.py", "--in", str(raw), "--out", str(out), "--profile", "miniature"]
    monkeypatch.setattr(sys, "argv", command)
    with claim_folder(out, out / fit_codebook.PROGRESS / "lock", "fit"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match="another fit writes to this folder"):
            fit_codebook.main()
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.demo_weights
def test_no_memory(raw: Path, fit, tmp_path: Path) -> None:
    assert starve(1 << 20, lambda: crash_codebook.run(raw, tmp_path / "out"), tmp_path / "log") != 0
    assert "model.safetensors" not in (tmp_path / "log").read_text(), "no file is blamed"
    assert fit(tmp_path / "out") == fit(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.demo_weights
def test_a_worker_that_is_killed_is_started_again(raw: Path, fit, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = f"{sys.executable} {ROOT}/jobs/fit_codebook.py --in {raw} --out {tmp_path}/out --profile miniature"
    command += " --max-vectors 10000 --codebook-dim 8 --epochs 3 --workers 1"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command.split(), env=variables | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, stderr=stream,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (workers := _workers(process.pid)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    workers[0].kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, log.read_text()
    assert json.loads(output.splitlines()[-1])["failed"] == {}
    assert codebook(tmp_path / "out") == fit(tmp_path / "whole")


def _workers(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if any("ray::_Worker" in word for word in child.cmdline()[:1])]
