"""Whose files are touched: never those of somebody else."""

import json
from pathlib import Path

import pytest

from jobs import extract_tokens
from jobs.cluster import resolve_path
from jobs.fit_codebook import is_codebook
from jobs.output_folder import claim_folder, require_apart
from pipeline.input_file import InputError
from pipeline.model_files.names import MINIATURE_FOLDER

from .crash_extraction import digests, make_songs, run


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("out", ["raw", "raw/", "raw/../raw", ".", "link"])
def test_results_never_lie_among_the_input(tmp_path, out):
    (tmp_path / "raw" / "lyrics").mkdir(parents=True)
    (tmp_path / "link").symlink_to("raw")
    with pytest.raises(InputError, match="is or holds the input"):
        require_apart(tmp_path / "raw", tmp_path / out)


def test_results_may_lie_within_the_input(tmp_path):
    (tmp_path / "raw").mkdir()
    require_apart(tmp_path / "raw", tmp_path / "raw" / "clean")
    (tmp_path / "songs.jsonl").write_text("{}")
    require_apart(tmp_path / "songs.jsonl", tmp_path / "clean")


@pytest.mark.parametrize("name", ["report.html", "lyrics/my song.lrc", ".notes.tmp", "anything"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("the only copy")
    with pytest.raises(InputError, match=f"holds {Path(name).parts[0]}.*no cleaning has written"), claim(out):
        pass
    assert contents(out) == {name: "the only copy"}


def claim(out: Path):
    return claim_folder(out, out / ".records" / "lock", "cleaning")


def test_a_folder_that_was_claimed_before_is_taken_again(tmp_path):
    out = tmp_path / "out"
    with claim(out):
        (out / "report.html").write_text("ours")
    with claim(out):
        assert (out / "report.html").exists()


def test_a_dataset_of_somebody_else_is_left_alone(tmp_path, monkeypatch):
    for name in ("train/000000.tar", "index.parquet", "dataset.json"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("the only copy")
        with pytest.raises(InputError, match=f"holds {name}"), extract_tokens.lock(out):
            pass
        assert contents(out) == {name: "the only copy"}


def test_a_shard_that_no_run_has_planned_is_left_alone(tmp_path, monkeypatch):
    """Whether its name is one that this run would write or not."""
    songs, out = make_songs(tmp_path / "raw"), tmp_path / "out"
    for name in ("000000", "000099"):
        with extract_tokens.lock(out):
            (out / "train").mkdir(exist_ok=True)
            (out / "train" / f"{name}.tar").write_text("the only copy")
        with pytest.raises(InputError, match=f"{name}.tar: not written by this job"):
            run(songs, out, 0, monkeypatch.setattr)
        assert (out / "train" / f"{name}.tar").read_text() == "the only copy"
        (out / "train" / f"{name}.tar").unlink()
    run(songs, out, 0, monkeypatch.setattr)
    assert digests(out)


def test_a_shard_of_a_killed_run_is_ours(tmp_path, monkeypatch):
    """It was written, and what says so was not."""
    songs, out = make_songs(tmp_path / "raw"), tmp_path / "out"
    run(songs, out, 0, monkeypatch.setattr)
    expected = digests(out)
    (out / extract_tokens.PROGRESS / "train-000003.json").unlink()
    (out / "train" / "000003.tar").write_text("half")
    run(songs, out, 0, monkeypatch.setattr)
    assert digests(out) == expected


@pytest.mark.parametrize("planned", ["", "{}", "[1, null]", "[" * 100_000])
def test_a_damaged_list_of_shards_counts_as_none(tmp_path, monkeypatch, planned):
    songs, out = make_songs(tmp_path / "raw"), tmp_path / "out"
    run(songs, out, 0, monkeypatch.setattr)
    expected = digests(out)
    (out / extract_tokens.PROGRESS / extract_tokens.PLANNED).write_text(planned)
    run(songs, out, 0, monkeypatch.setattr)
    assert digests(out) == expected


def test_only_a_codebook_is_replaced_by_a_codebook(tmp_path):
    assert is_codebook(MINIATURE_FOLDER / "codebook")
    assert not is_codebook(MINIATURE_FOLDER / "muq")
    assert not is_codebook(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([]))
    assert not is_codebook(tmp_path)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("../raw", "raw"), ("../raw/", "raw"), ("x/../../raw", "raw"), ("./", "here"), ("songs", "here/songs")],
)
def test_paths_are_absolute_and_hold_no_dots(tmp_path, monkeypatch, given, meant):
    (tmp_path / "here" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert resolve_path(Path(given)) == tmp_path / meant


def test_links_keep_their_names_and_what_lies_above_them_is_what_they_lead_to(tmp_path, monkeypatch):
    (tmp_path / "disk" / "music").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "raw").symlink_to(tmp_path / "disk" / "music")
    monkeypatch.chdir(tmp_path / "here")
    assert resolve_path(Path("raw")) == tmp_path / "here" / "raw"
    assert resolve_path(Path("raw/../other")) == tmp_path / "disk" / "other"
