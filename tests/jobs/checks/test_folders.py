"""Input, output, the size of a catalogue and the room on the disk."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.checks import catalogue_size, folders
from pipeline.model_files.profiles import get_profile
from tests.jobs.checks.fakes import GB, write_song

FULL = get_profile("full")


def test_the_input_is_counted(tmp_path):
    for number in range(3):
        write_song(tmp_path / "raw" / f"album {number}" / "song.wav", seconds=10)
    (tmp_path / "raw" / "album 0" / "song.txt").write_text("la")
    found, size = folders.check_source(tmp_path / "raw", is_given=True)
    assert found.status == "ok"
    assert "3 songs, about 30 s" in found.found
    assert not size.is_extrapolated


def test_a_missing_input_fails_only_where_it_was_named(tmp_path):
    found, size = folders.check_source(tmp_path / "raw", is_given=False)
    assert (found.status, size) == ("warn", None)
    assert "no such folder" in found.found
    assert folders.check_source(tmp_path / "raw", is_given=True)[0].status == "FAIL"
    (tmp_path / "raw").mkdir()
    found, _ = folders.check_source(tmp_path / "raw", is_given=False)
    assert (found.status, "no songs found" in found.found) == ("FAIL", True)
    (tmp_path / "songs.jsonl").write_text('{"audio": "../outside.wav"}\n')
    assert "outside" in folders.check_source(tmp_path / "songs.jsonl", is_given=True)[0].found


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    song = write_song(tmp_path / "raw" / "a.wav")
    monkeypatch.setattr(folders, "_can_read", lambda path: path != song)
    found, _ = folders.check_source(tmp_path / "raw", is_given=True)
    assert found.status == "FAIL"
    assert str(song) in found.found


def test_a_look_that_takes_too_long_is_extrapolated(tmp_path):
    for number in range(40):
        write_song(tmp_path / f"album {number:02}" / "song.wav", seconds=10)
    size = catalogue_size.measure_catalogue(tmp_path, max_look_s=-1.0)
    assert size.is_extrapolated
    assert size.num_songs == 40  # all albums are alike, so one tells the number
    assert size.duration_s == pytest.approx(400, rel=0.01)
    assert str(size).startswith("about 40 songs")


def test_a_manifest_is_counted_too(tmp_path):
    for name in ("a.wav", "b.wav"):
        write_song(tmp_path / name, seconds=5)
    (tmp_path / "songs.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "b.wav"}\n')
    size = catalogue_size.measure_catalogue(tmp_path / "songs.jsonl")
    assert (size.num_songs, round(size.duration_s)) == (2, 10)


def test_what_is_written_for_an_hour():
    size = catalogue_size.CatalogueSize(num_songs=15, num_bytes=0, duration_s=3600.0, is_extrapolated=False, samples=())
    latents = 25 * 3600 * 64 * 2 * 2  # mean and deviation, float16
    tokens = 25 * 3600 * 2
    prompts = 15 * 4 * 250 * 64 * 2
    features = 25 * 3600 * 1024 * 2
    text = 15 * catalogue_size.SONG_TEXT_BYTES
    assert size.output_bytes(FULL) == latents + tokens + prompts + features + text
    many = replace(size, num_songs=0, duration_s=3.6e9)
    assert many.output_bytes(FULL) == pytest.approx(1e6 * (latents + tokens) + 4_194_304 * 1024 * 2)


def test_the_disk_is_compared_with_the_catalogue(tmp_path, monkeypatch):
    size = catalogue_size.CatalogueSize(
        num_songs=1000, num_bytes=0, duration_s=240_000.0, is_extrapolated=False, samples=()
    )
    assert folders.check_disk(tmp_path / "clean", None, FULL).status == "ok"
    monkeypatch.setattr(folders, "free_bytes", lambda out: (200 * GB, tmp_path))
    found = folders.check_disk(tmp_path / "clean", size, FULL)
    assert (found.status, "needed: about" in found.found) == ("ok", True)
    monkeypatch.setattr(folders, "free_bytes", lambda out: (2 * GB, tmp_path))
    found = folders.check_disk(tmp_path / "clean", size, FULL)
    assert (found.status, found.found) == ("FAIL", f"2.0 GB free at {tmp_path}")
    assert "another disk" in found.remedy


def test_a_disk_without_room_for_another_file_is_full(tmp_path, monkeypatch):
    facts = {"f_bavail": 1 << 30, "f_frsize": 4096, "f_files": 1000, "f_favail": 0}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**facts))
    assert folders.check_room(tmp_path).status == "FAIL"
    facts["f_files"] = 0  # a file system that does not count them
    assert folders.check_room(tmp_path).status == "ok"


def test_the_output_is_written_to_and_left_as_it_was(tmp_path):
    found = folders.check_output(tmp_path / "new" / "clean")
    assert found.status == "ok"
    assert "not there yet" in found.found
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_fails(tmp_path, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    found = folders.check_output(tmp_path)
    assert (found.status, found.found) == ("FAIL", f"{tmp_path} cannot be written: Permission denied")
