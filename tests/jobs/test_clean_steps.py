import functools

import pytest

from jobs.clean_steps import SongWorker
from jobs.cluster import JobError, _root_message, naming
from pipeline.audio import AudioDecodeError
from pipeline.checked_audio import CheckedAudio
from pipeline.clean_folder import read_record
from pipeline.inputs import SongInput
from pipeline.song import Drop, Song
from pipeline.stage import Stage


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
    source = SongInput("album/song", tmp_path / "a.mp3", "a.mp3")
    checked = CheckedAudio(
        duration_s=12.5, sample_rate=8_000, channels=2, metrics={"lufs": -14.0}, warnings=["clipped"]
    )
    return {"source": source, "sha256": "0" * 64, "checked": checked, "fingerprint": "f"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("odd lyrics"), "ValueError: odd lyrics"), (AudioDecodeError("cut"), "cut")],
)
def test_a_fault_of_one_song_is_its_own(tmp_path, error, reason):
    assert worker(tmp_path, error)(row(tmp_path))["reason"] == reason
    assert read_record(tmp_path, "album/song")["quarantine"]["reason"] == reason


def test_a_song_leaves_a_record_with_what_was_checked_and_how_long_it_took(tmp_path):
    summary = worker(tmp_path, None)(row(tmp_path))
    assert summary == {"song_id": "album/song", "verdict": "keep", "reason": "", "duration_s": 12.5}
    record = read_record(tmp_path, "album/song")
    assert (record["row"]["metrics"]["lufs"], record["row"]["warnings"]) == (-14.0, ["clipped"])
    assert list(record["seconds"]) == ["check_audio", "scripted"]


def test_a_dropped_song_goes_no_further(tmp_path):
    summary = worker(tmp_path, Drop("low_coverage", "why"), RuntimeError("never reached"))(row(tmp_path))
    assert (summary["verdict"], summary["reason"]) == ("reject", "low_coverage")


def test_a_fault_of_ours_stops_the_job_and_names_the_song(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        worker(tmp_path, RuntimeError("out of memory"))(row(tmp_path))
    assert _root_message(caught.value) == "RuntimeError: out of memory (song 'album/song')"
    assert read_record(tmp_path, "album/song") is None


def test_the_message_is_that_of_the_innermost_error():
    inner = MemoryError("7 GB")
    with pytest.raises(MemoryError), naming("x"):
        raise inner
    wrapper = JobError("a wrapper")
    wrapper.__cause__ = inner
    assert _root_message(wrapper) == "MemoryError: 7 GB (song 'x')"
