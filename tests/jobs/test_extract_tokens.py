"""Extraction under fire: killed, out of disk, started twice. The encoder is made up, the writing is real."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.extract_tokens import PROGRESS, lock
from pipeline.input_file import InputError
from shards.dataset_info import read_dataset_info
from shards.reader import ShardReader
from shards.verify import verify

from .crash_extraction import NUM_SONGS, digests, make_songs, run

KILLS = 10  # the script does 30 when it is run by hand


def test_killed_and_started_again_gives_the_same_bytes(tmp_path: Path):
    script = Path(__file__).parent / "crash_extraction.py"
    command = [sys.executable, str(script), str(tmp_path), "--kills", str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == KILLS
    assert any(0 < count < result["files"] - 2 for count in result["shards_at_kill"]), (
        "killed while shards were written"
    )
    assert verify(tmp_path / "whole").problems == []


def test_full_disk_stops_the_run_and_a_second_one_finishes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel refuses to let a file grow, in the middle of a sample, as a full disk does."""
    songs = make_songs(tmp_path / "raw")
    run(songs, tmp_path / "whole", 0, monkeypatch.setattr)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(songs, tmp_path / "full", 0, monkeypatch.setattr)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    names = [path.name for path in (tmp_path / "full").rglob("*") if path.is_file()]
    assert not any(name.endswith((".tmp", ".parquet")) or name == "dataset.json" for name in names)
    run(songs, tmp_path / "full", 0, monkeypatch.setattr)
    assert digests(tmp_path / "full") == digests(tmp_path / "whole")


@pytest.mark.parametrize("order", [0, 1])
def test_statistics_are_those_of_all_latents_of_the_train_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """Summed shard by shard, whichever song a worker has done first."""
    out = tmp_path / "out"
    run(make_songs(tmp_path / "raw"), out, order, monkeypatch.setattr)
    info, reader = read_dataset_info(out), ShardReader(out)
    names = sorted(path.relative_to(out).as_posix() for path in (out / "train").glob("*.tar"))
    frames = np.concatenate([sample.latents for name in names for sample in reader.iterate(name)]).astype(np.float64)
    np.testing.assert_allclose(info.latent_mean, frames.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(info.latent_std, frames.std(axis=0), rtol=1e-9)


def test_two_extractions_into_one_folder_refuse_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    songs = make_songs(tmp_path / "raw")
    with lock(tmp_path / "out"), pytest.raises(InputError, match="another extraction writes to this folder"):
        run(songs, tmp_path / "out", 0, monkeypatch.setattr)
    assert not list((tmp_path / "out").glob("*.parquet"))
    run(songs, tmp_path / "out", 0, monkeypatch.setattr)


def test_what_no_shard_waits_for_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Half-written files of a killed run, and songs that were encoded for a plan of before."""
    songs, out = make_songs(tmp_path / "raw"), tmp_path / "out"
    run(songs, out, 0, monkeypatch.setattr)
    leftovers = [out / "train" / f".000000.tar.{'0' * 32}.tmp", out / PROGRESS / "train" / "gone.tar"]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    expected = digests(out)
    run(songs[: NUM_SONGS // 2], out, 0, monkeypatch.setattr)
    assert not any(path.exists() for path in leftovers)
    assert len(digests(out)) < len(expected)
    run(songs, out, 0, monkeypatch.setattr)
    assert digests(out) == expected
