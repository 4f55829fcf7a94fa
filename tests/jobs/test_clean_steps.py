import functools

import pytest
import torch

from jobs.clean_steps import SongWorker
from jobs.cluster import _root_message, naming
from pipeline.audio.decode import AudioDecodeError, hash_file
from pipeline.catalogue.inputs import SongInput
from pipeline.cleaning.checked_audio import CheckedAudio
from pipeline.cleaning.records import read_record
from pipeline.model_files.errors import ModelFileError, ModelNotFoundError
from pipeline.song import Drop, Song
from pipeline.stage import Stage, StageError


class Scripted(Stage):
    name, version = "scripted", 1

    def __init__(self, result: Exception | Drop | None) -> None:
        self.result = result

    def process(self, song: Song) -> Song | Drop:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result or song


def worker(tmp_path, *results: Exception | Drop | None) -> SongWorker:
    return SongWorker(functools.partial(list, [Scripted(result) for result in results]), tmp_path, keep_vocals=False)


def row(tmp_path) -> dict:
    (tmp_path / "a.mp3").write_bytes(b"some audio")
    source = SongInput("album/song", tmp_path / "a.mp3", "a.mp3")
    checked = CheckedAudio(
        duration_s=12.5, sample_rate=8_000, channels=2, metrics={"lufs": -14.0}, warnings=["clipped"]
    )
    return {"source": source, "sha256": hash_file(tmp_path / "a.mp3"), "checked": checked, "fingerprint": "f"}


def test_a_file_without_usable_audio_is_quarantined(tmp_path):
    assert worker(tmp_path, AudioDecodeError("cut"))(row(tmp_path))["verdict"] == "quarantine"
    assert read_record(tmp_path, "album/song")["quarantine"]["reason"] == "cut"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("zip() argument 2 is shorter"), "ValueError: zip() argument 2 is shorter"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to"),
            "OutOfMemoryError: CUDA out of memory.",
        ),
        (MemoryError(), "MemoryError: no message"),
        (RuntimeError("std::bad_alloc"), "RuntimeError: std::bad_alloc"),
    ],
)
def test_whatever_else_a_song_raises_is_recorded_and_nobody_is_blamed(tmp_path, error, reason):
    summary = worker(tmp_path, error)(row(tmp_path))
    assert (summary["verdict"], summary["reason"]) == ("failed", reason)
    record = read_record(tmp_path, "album/song")
    assert record["failed"]["reason"] == reason
    assert "in process" in record["failed"]["traceback"], "where it happened"
    assert "quarantine" not in record
    assert record["fingerprint"] != "f", "not finished: the next run tries it again"


@pytest.mark.parametrize(
    "error", [ModelNotFoundError("no aligner for de"), ModelFileError("cut"), StageError("no vocals")]
)
def test_a_fault_of_a_model_stops_the_job_and_leaves_the_song_unfinished(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        worker(tmp_path, error)(row(tmp_path))
    assert _root_message(caught.value) == f"{error} (song 'album/song')"
    assert read_record(tmp_path, "album/song") is None


def test_a_result_that_cannot_be_written_is_no_fault_of_the_song(tmp_path):
    (tmp_path / ".records").write_text("a file where a folder belongs")
    with pytest.raises(OSError, match="records"):
        worker(tmp_path, None)(row(tmp_path))


def test_a_song_leaves_a_record_with_what_was_checked_and_how_long_it_took(tmp_path):
    summary = worker(tmp_path, None)(row(tmp_path))
    assert summary == {"song_id": "album/song", "verdict": "keep", "reason": "", "duration_s": 12.5}
    record = read_record(tmp_path, "album/song")
    assert (record["row"]["metrics"]["lufs"], record["row"]["warnings"]) == (-14.0, ["clipped"])
    assert list(record["seconds"]) == ["check_audio", "scripted"]


def test_a_file_that_changes_meanwhile_leaves_no_verdict(tmp_path):
    """The record would say the hash of one content and what was found out about another."""
    surveyed = row(tmp_path)
    (tmp_path / "a.mp3").write_bytes(b"other audio")
    summary = worker(tmp_path, None)(surveyed)
    assert (summary["verdict"], summary["reason"][:16]) == ("failed", "the file changed")
    assert "row" not in read_record(tmp_path, "album/song")


def test_a_dropped_song_goes_no_further(tmp_path):
    summary = worker(tmp_path, Drop("low_coverage", "why"), RuntimeError("never reached"))(row(tmp_path))
    assert (summary["verdict"], summary["reason"]) == ("reject", "low_coverage")


def test_the_message_is_what_the_worker_raised_and_not_what_that_came_from():
    inner = OSError("errno 2")
    with pytest.raises(ModelFileError) as caught, naming("x"):
        raise ModelFileError("muq/config.json: cut") from inner
    assert _root_message(caught.value) == "muq/config.json: cut (song 'x')"
    assert _root_message(MemoryError("7 GB")) == "MemoryError: 7 GB"
