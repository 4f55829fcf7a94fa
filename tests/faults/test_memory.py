"""No memory (`ulimit -v`): no file is blamed for it, the process ends in one line, and the next run ends as if there had
been enough. Arrow, whose destructors may not throw, ends the process instead; that, too, loses nothing."""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from threadpoolctl import threadpool_limits

from jobs import clean_lyrics
from jobs.command import run_command
from pipeline.input_file import MachineReadError
from shards.merge import merge
from shards.repair import repair
from shards.verify import verify
from tests.jobs import crash_codebook, crash_extraction, fake_cleaning

MB = 1 << 20
pytestmark = pytest.mark.demo_weights


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A fork has no threads of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="module")
def raw_with_a_long_song(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean_lyrics, "check_quickly", lambda *_, **__: [])
        raw = fake_cleaning.lay_out(tmp_path_factory.mktemp("starved") / "raw", patch.setattr)
        soundfile.write(raw / "long.wav", 0.1 * np.random.default_rng(0).standard_normal((60 * 48_000, 2)), 48_000)
        (raw / "long.txt").write_text("a long song")
        yield raw


@pytest.fixture(scope="module")
def cleaned(raw_with_a_long_song: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("cleaned") / "whole"
    fake_cleaning.clean(raw_with_a_long_song, out)
    return fake_cleaning.results(out)


@pytest.mark.parametrize("extra_mb", [1, 16, 48])
def test_cleaning(raw_with_a_long_song: Path, cleaned: dict[str, bytes], tmp_path: Path, extra_mb: int) -> None:
    raw, out = raw_with_a_long_song, tmp_path / "out"
    starve(extra_mb * MB, lambda: fake_cleaning.clean(raw, out), tmp_path / "log")
    if (out / "quarantine.parquet").exists():
        assert pq.read_table(out / "quarantine.parquet")["song_id"].to_pylist() == ["text"], "the one that is no audio"
    for record in out.glob(".records/*/*.json"):
        assert '"quarantine"' not in record.read_text() or '"song_id": "text"' in record.read_text()
    fake_cleaning.clean(raw, out)
    assert fake_cleaning.results(out) == cleaned


@pytest.mark.parametrize("extra_mb", [1, 8])
def test_extraction_merging_and_repairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra_mb: int) -> None:
    songs = crash_extraction.make_songs(tmp_path / "raw")
    crash_extraction.run(songs, tmp_path / "whole", 0, monkeypatch.setattr)
    whole = crash_extraction.digests(tmp_path / "whole")
    starve(extra_mb * MB, lambda: crash_extraction.run(songs, tmp_path / "out", 0), tmp_path / "log")
    crash_extraction.run(songs, tmp_path / "out", 1, monkeypatch.setattr)
    assert crash_extraction.digests(tmp_path / "out") == whole
    starve(extra_mb * MB, lambda: merge(tmp_path / "merged", [tmp_path / "out"]), tmp_path / "log")
    assert crash_extraction.digests(tmp_path / "out") == whole, "what is merged is only read"
    if not (tmp_path / "merged" / "index.parquet").exists():
        merge(tmp_path / "merged", [tmp_path / "out"])
    (tmp_path / "merged" / "index.parquet").unlink()
    starve(extra_mb * MB, lambda: repair(tmp_path / "merged"), tmp_path / "log")
    repair(tmp_path / "merged")
    assert verify(tmp_path / "merged").problems == []
    assert verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("extra_mb", [1, 32])
def test_fitting_a_codebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra_mb: int) -> None:
    raw = make_noise(tmp_path / "raw", 3)
    crash_codebook.run(raw, tmp_path / "whole", patch=monkeypatch.setattr)
    starve(extra_mb * MB, lambda: crash_codebook.run(raw, tmp_path / "out"), tmp_path / "log")
    crash_codebook.run(raw, tmp_path / "out", patch=monkeypatch.setattr)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def make_noise(folder: Path, num_songs: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(num_songs):
        soundfile.write(folder / f"{number}.wav", 0.1 * random.standard_normal(3 * 24_000), 24_000)
    return folder
