"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from shards.atomic_file import open_atomic, remove_temporaries


def test_file_appears_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with open_atomic(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with open_atomic(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / "000000.tar", tmp_path / "notes.tmp", tmp_path / ".hidden"]
    for path in [*kept, tmp_path / ".000001.tar.0123.tmp"]:
        path.touch()
    assert remove_temporaries(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted(kept)
