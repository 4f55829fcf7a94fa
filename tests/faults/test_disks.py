"""Full and read-only disks: the run ends with an error of the disk, no song is blamed, and the next run ends the same
as one that nobody disturbed."""

import os
import resource
from pathlib import Path

import pytest

from jobs import clean_lyrics
from pipeline.stage import StageError
from shards.index import read_index
from shards.merge import merge
from shards.repair import repair
from shards.verify import verify
from tests.jobs import crash_extraction, fake_cleaning

from .conftest import Disk

pytestmark = pytest.mark.demo_weights


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    # What is tested is a disk that fills up later: at the start a job asks for 100 MB.
    monkeypatch.setattr(clean_lyrics, "check_quickly", lambda *_, **__: [])
    return fake_cleaning.lay_out(tmp_path / "raw", monkeypatch.setattr)


def fill(folder: Path, left: int) -> Path:
    """Leave so many bytes on a disk."""
    status = os.statvfs(folder)
    path = folder / "ballast"
    path.write_bytes(bytes(max(status.f_bavail * status.f_bsize - left, 0)))
    return path


@pytest.mark.parametrize("left", [0, 8_192, 20_480, 40_960])
def test_cleaning_on_a_full_disk(raw, tmp_path, disk: Disk, left):
    fake_cleaning.clean(raw, tmp_path / "whole")
    ballast = fill(disk.path, left)
    with pytest.raises((OSError, StageError), match="space"):
        fake_cleaning.clean(raw, disk.path / "out")
    ballast.unlink()
    stats = fake_cleaning.clean(raw, disk.path / "out")
    assert (stats["quarantined"], stats["failed"]) == (1, 0), "text.wav alone"
    assert fake_cleaning.results(disk.path / "out") == fake_cleaning.results(tmp_path / "whole")


def test_cleaning_onto_a_read_only_disk(raw, tmp_path, disk: Disk):
    fake_cleaning.clean(raw, tmp_path / "whole")
    fake_cleaning.clean(raw, disk.path / "out")
    (raw / "b.txt").write_text("another song of b")
    disk.remount("ro")
    with pytest.raises(OSError, match="Read-only"):
        fake_cleaning.clean(raw, disk.path / "out")
    assert fake_cleaning.results(disk.path / "out") == fake_cleaning.results(tmp_path / "whole"), "all as it was"
    disk.remount("rw")
    fake_cleaning.clean(raw, disk.path / "out")
    fake_cleaning.clean(raw, tmp_path / "whole")
    assert fake_cleaning.results(disk.path / "out") == fake_cleaning.results(tmp_path / "whole")


def test_extraction_on_a_full_disk(tmp_path, disk: Disk, monkeypatch):
    songs = crash_extraction.make_songs(tmp_path / "raw")
    crash_extraction.run(songs, tmp_path / "whole", 0, monkeypatch.setattr)
    for _ in range(3):  # each run of a disk that stays full ends the same way
        with pytest.raises(OSError, match="space"):
            crash_extraction.run(songs, disk.path / "out", 0, monkeypatch.setattr)
    assert not (disk.path / "out" / "index.parquet").exists()
    disk.remount("size=100m")
    crash_extraction.run(songs, disk.path / "out", 1, monkeypatch.setattr)
    assert crash_extraction.digests(disk.path / "out") == crash_extraction.digests(tmp_path / "whole")
    assert verify(disk.path / "out").problems == []


def test_merging_and_repairing_on_a_full_disk(tmp_path, disk: Disk, monkeypatch):
    songs = crash_extraction.make_songs(tmp_path / "raw")
    crash_extraction.run(songs, tmp_path / "data", 0, monkeypatch.setattr)
    before = crash_extraction.digests(tmp_path / "data")
    with pytest.raises(OSError, match="space"):
        merge(disk.path / "out", [tmp_path / "data"])
    disk.remount("size=100m")
    merge(disk.path / "out", [tmp_path / "data"])
    assert verify(disk.path / "out").problems == []
    assert crash_extraction.digests(tmp_path / "data") == before, "what is merged is only read"
    (disk.path / "out" / "index.parquet").unlink()
    ballast = fill(disk.path, 0)
    with pytest.raises(OSError, match="space"):
        repair(disk.path / "out")
    ballast.unlink()
    repair(disk.path / "out")
    assert verify(disk.path / "out").problems == []
    assert len(read_index(disk.path / "out")) == len(songs)


def test_few_open_files_are_enough(raw, tmp_path, monkeypatch, limits):
    """A process has some of its own; no job keeps files open, however many songs there are."""
    songs = crash_extraction.make_songs(tmp_path / "songs")
    fake_cleaning.clean(raw, tmp_path / "whole")
    crash_extraction.run(songs, tmp_path / "shards", 0, monkeypatch.setattr)
    limits(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 16)
    fake_cleaning.clean(raw, tmp_path / "out")
    crash_extraction.run(songs, tmp_path / "few", 1, monkeypatch.setattr)
    assert fake_cleaning.results(tmp_path / "out") == fake_cleaning.results(tmp_path / "whole")
    assert crash_extraction.digests(tmp_path / "few") == crash_extraction.digests(tmp_path / "shards")


def test_inputs_that_go_or_change_meanwhile(raw, tmp_path, monkeypatch):
    """One is deleted and one rewritten while the first is listened to; the next run sees what is there then."""
    process = fake_cleaning.SingOneLine.process
    other = (raw / "short.wav").read_bytes()

    def disturb(self, song):
        if song.song_id == "a":
            (raw / "b.wav").write_bytes(other)
            (raw / "short.wav").unlink()
        return process(self, song)

    monkeypatch.setattr(fake_cleaning.SingOneLine, "process", disturb)
    stats = fake_cleaning.clean(raw, tmp_path / "out")
    assert (stats["kept"], stats["failed"]) == (1, 1), "b is no longer the file that was looked at"
    monkeypatch.setattr(fake_cleaning.SingOneLine, "process", process)
    stats = fake_cleaning.clean(raw, tmp_path / "out")
    fake_cleaning.clean(raw, tmp_path / "whole")
    assert fake_cleaning.results(tmp_path / "out") == fake_cleaning.results(tmp_path / "whole")
    assert (stats["seen"], stats["failed"], stats["rejected"]) == (3, 0, {"too_short": 1})


@pytest.mark.parametrize("place", ["lyrics", ".records", ".checked"])
def test_a_linked_folder_is_written_through_and_what_lies_there_is_kept(raw, tmp_path, place):
    """A user who moved a part of the output to another disk and left a link."""
    fake_cleaning.clean(raw, tmp_path / "whole")
    fake_cleaning.clean(raw, tmp_path / "out")
    (tmp_path / "out" / place).rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / ".notes.tmp").write_text("mine")
    (tmp_path / "elsewhere" / "song of mine.lrc").write_text("mine")
    (tmp_path / "out" / place).symlink_to(tmp_path / "elsewhere")
    (raw / "b.txt").write_text("another song of b")
    fake_cleaning.clean(raw, tmp_path / "out")
    fake_cleaning.clean(raw, tmp_path / "whole")
    found = fake_cleaning.results(tmp_path / "out")
    for name in (".notes.tmp", "song of mine.lrc"):
        found.pop(name, None)
    assert found == fake_cleaning.results(tmp_path / "whole")
    assert (tmp_path / "elsewhere" / ".notes.tmp").read_text() == "mine"
    assert (tmp_path / "elsewhere" / "song of mine.lrc").read_text() == "mine"
