import functools
import os

import pytest

from jobs.clean_steps import Pass, Survey
from jobs.cluster import JobError, _root_message, naming
from pipeline.clean_song import start_song
from pipeline.inputs import SongInput, find_songs
from pipeline.song import Song
from pipeline.stage import Stage


class Failing(Stage):
    name, version = "failing", 1

    def __init__(self, error: Exception) -> None:
        self.error = error

    def process(self, song: Song) -> Song:
        raise self.error


def row(tmp_path) -> dict:
    source = SongInput("album/song", tmp_path / "a.mp3", "a.mp3")
    return {"source": source, "song": start_song(source, "0" * 64), "fingerprint": "f"}


def test_a_fault_of_one_song_is_its_own(tmp_path):
    worker = Pass(functools.partial(list, [Failing(ValueError("odd lyrics"))]))
    assert worker(row(tmp_path))["quarantine"] == "ValueError: odd lyrics"


def test_a_fault_of_ours_stops_the_job_and_names_the_song(tmp_path):
    worker = Pass(functools.partial(list, [Failing(RuntimeError("out of memory"))]))
    with pytest.raises(RuntimeError) as caught:
        worker(row(tmp_path))
    assert _root_message(caught.value) == "RuntimeError: out of memory (song 'album/song')"


def test_the_message_is_that_of_the_innermost_error():
    inner = MemoryError("7 GB")
    with pytest.raises(MemoryError), naming("x"):
        raise inner
    wrapper = JobError("a wrapper")
    wrapper.__cause__ = inner
    assert _root_message(wrapper) == "MemoryError: 7 GB (song 'x')"


def test_a_pipe_as_lyrics_does_not_hang_and_is_told(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    os.mkfifo(tmp_path / "pipe.txt")
    source = SongInput("a", tmp_path / "a.wav", "a.wav", lyrics_path=tmp_path / "pipe.txt")
    surveyed = Survey(tmp_path, "settings")({"source": source})
    assert "quarantine" not in surveyed
    assert "not a regular file" in start_song(source, surveyed["sha256"]).warnings[0]


def test_lyrics_beside_a_song_that_are_no_file_are_none(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    os.mkfifo(tmp_path / "lyrics.txt")
    (song,) = find_songs(tmp_path)
    Survey(tmp_path / "out", "settings")({"source": song})
