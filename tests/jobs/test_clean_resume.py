"""A cleaning run that is stopped at any point goes on where it was, and ends as if nothing had happened.

The real run with its Ray and models is replaced by a loop over a scripted stage, so that every point can be tried.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from jobs import clean_lyrics
from jobs.clean_steps import SongWorker
from jobs.cluster import Crew, Died
from jobs.output_folder import claim_folder
from pipeline.catalogue.inputs import RECORDS

from .fake_cleaning import SingOneLine, clean, lay_out, results

pytestmark = pytest.mark.demo_weights


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    return lay_out(tmp_path / "raw", monkeypatch.setattr)


def test_killed_at_any_point_and_run_again_it_ends_the_same(raw, tmp_path, monkeypatch):
    """Every file appears by a rename, so a run killed before the k-th rename is every state that a kill can leave."""
    stats = clean(raw, tmp_path / "whole")
    whole = results(tmp_path / "whole")
    assert (stats["seen"], stats["kept"], stats["rejected"], stats["quarantined"]) == (4, 2, {"too_short": 1}, 1)
    replace = os.replace
    for point in range(1, 100):
        left = point

        def replace_or_die(source: str, target: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_or_die)
        out = tmp_path / f"{point}"
        try:
            clean(raw, out)
            break  # fewer files than that are written
        except Killed:
            pass
        finally:
            monkeypatch.setattr(os, "replace", replace)
        finished = [json.loads(path.read_text()) for path in out.glob(".records/*/*.json")]
        kept = {record["song_id"] for record in finished if record.get("row", {}).get("verdict") == "keep"}
        stats = clean(raw, out)
        assert results(out) == whole
        assert set(SingOneLine.done) == set("ab") - kept, "no finished song is done again, every other one is"
        assert stats["finished_before"] == len(finished)
    assert point > 12


def test_a_run_that_does_nothing_keeps_what_the_songs_cost(raw, tmp_path):
    first = clean(raw, tmp_path / "out")
    again = clean(raw, tmp_path / "out")
    assert not SingOneLine.done
    assert again["seconds_per_stage"] == first["seconds_per_stage"]
    assert list(again["seconds_per_stage"]) == ["check_audio", "sing_one_line"]
    assert again["finished_before"] == again["seen"] == 4
    assert json.loads((tmp_path / "out" / "stats.json").read_text()) == again


@pytest.fixture
def deadly(monkeypatch) -> None:
    """Workers that do not survive song b, as Ray tells it."""

    def stream(self: Crew, rows: list, make_worker: Callable, *_: object) -> Iterator[dict | Died]:
        worker = make_worker()
        for row in rows:
            is_deadly = isinstance(worker, SongWorker) and row["source"].song_id == "b"
            yield Died(row, "its worker process died 3 times") if is_deadly else worker(row)

    monkeypatch.setattr(Crew, "stream", stream)


def test_a_song_that_kills_its_worker_is_recorded_and_the_others_go_on(raw, tmp_path, deadly):
    out = tmp_path / "out"
    stats = clean(raw, out)
    assert (stats["kept"], stats["failed"], stats["quarantined"], stats["seen"]) == (1, 1, 1, 4)
    assert pq.read_table(out / "failed.parquet").to_pylist() == [
        {"song_id": "b", "audio": "b.wav", "reason": "its worker process died 3 times", "traceback": ""}
    ]
    assert "its worker process died 3 times" in (out / "report.html").read_text()
    assert pq.read_table(out / "songs.parquet")["song_id"].to_pylist() == ["a", "short"]


def test_what_failed_is_tried_again_after_all_others(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(SingOneLine, "fails", {"a"})
    assert clean(raw, out)["failed"] == 1
    for name in "cd":
        soundfile.write(raw / f"{name}.wav", np.random.default_rng(ord(name)).standard_normal(8_000) / 9, 8_000)
        (raw / f"{name}.txt").write_text(f"the song of {name}")
    monkeypatch.setattr(SingOneLine, "fails", set())
    stats = clean(raw, out)
    assert list(SingOneLine.done) == ["c", "d", "a"], "a is the longest, and still the last"
    assert (stats["failed"], stats["kept"], stats["finished_before"]) == (0, 4, 3)
    assert pq.read_table(out / "failed.parquet").num_rows == 0


@pytest.mark.parametrize(("rate", "code"), [("0.3", 0), ("0.2", 1)])
def test_the_exit_code_tells_of_too_many_failures(raw, tmp_path, monkeypatch, deadly, rate, code):
    monkeypatch.setattr(sys, "argv", ["clean_lyrics.py", "--in", str(raw), "--out", str(tmp_path / "out"),
                                      "--profile", "miniature", "--max-failed-rate", rate])  # fmt: skip
    stats, found = clean_lyrics.main()
    assert (stats["failed"], stats["seen"], found) == (1, 4, code)


def test_counts_add_up_to_the_inputs(raw, tmp_path):
    (raw / "copy.wav").write_bytes((raw / "a.wav").read_bytes())
    (raw / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(raw / "pipe.wav")
    stats = clean(raw, tmp_path / "out")
    assert stats["seen"] == 7
    assert stats["kept"] + sum(stats["rejected"].values()) + stats["quarantined"] + stats["failed"] == 7
    assert stats["rejected"] == {"duplicate": 1, "too_short": 1}


def test_a_song_that_changed_is_done_again_and_no_other(raw, tmp_path):
    clean(raw, tmp_path / "out")
    (raw / "b.txt").write_text("another song of b")
    clean(raw, tmp_path / "out")
    assert dict(SingOneLine.done) == {"b": 1}


@pytest.mark.slow
def test_a_run_that_is_killed_while_ray_starts_leaves_the_folder_free(raw, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.clean_lyrics", "--in", str(raw), "--out", str(out), "--profile", "miniature"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert "songs in" in run.stderr.readline()
        time.sleep(1)  # Ray has begun to start
        run.kill()
        run.wait()
        with claim_folder(out, out / RECORDS / "lock", "cleaning"):  # no process of the run is left that holds it
            pass
