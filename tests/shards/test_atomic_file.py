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


@pytest.mark.parametrize("name", ["000001.tar", "x", "a name.with.dots", ".hidden", "one\nline.tar"])
def test_leftovers_of_killed_writers_are_removed(tmp_path: Path, name: str) -> None:
    """The file is the one that open_atomic makes: it is copied away while it is open, as a kill leaves it."""
    (tmp_path / "000000.tar").touch()
    with open_atomic(tmp_path / "out" / name):
        (leftover,) = (tmp_path / "out").iterdir()
        (tmp_path / leftover.name).touch()
    assert remove_temporaries(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.tar", "out"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    digits = "0123456789abcdef" * 2
    names = [
        ".notes.tmp", "notes.tmp", ".hidden", f".a.{digits[1:]}.tmp", f".a.{digits}0.tmp", f".a.{digits.upper()}.tmp",
        f".a.{digits}.tmp.bak", f"a.{digits}.tmp", f".{digits}.tmp", f".a-{digits}.tmp",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{digits}.tmp").mkdir()
    assert remove_temporaries(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == len(names) + 1
