"""No memory (`ulimit -v`): no file is blamed for it, the process ends in one line, and the next run ends as if there
had been enough. Arrow, which throws where nothing may be thrown, ends the process instead; that, too, loses nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from jobs import clean_lyrics
from shards import __main__ as shards_command
from shards.merge import merge
from shards.repair import repair
from shards.verify import verify
from tests.jobs import crash_extraction, fake_cleaning

from .conftest import starve

MB = 1 << 20
pytestmark = [pytest.mark.demo_weights, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def raw_with_a_long_song(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean_lyrics, "check_quickly", lambda *_, **__: [])
        raw = fake_cleaning.lay_out(tmp_path_factory.mktemp("starved") / "raw", patch.setattr)
        soundfile.write(raw / "long.wav", 0.1 * np.random.default_rng(0).standard_normal((60 * 48_000, 2)), 48_000)
        (raw / "long.txt").write_text("a long song")
        yield raw


@pytest.fixture(scope="module")
def cleaned(raw_with_a_long_song: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("cleaned") / "whole"
    fake_cleaning.clean(raw_with_a_long_song, out)
    return fake_cleaning.results(out)


@pytest.mark.parametrize("extra_mb", [1, 16, 48])
def test_cleaning(raw_with_a_long_song: Path, cleaned: dict[str, bytes], tmp_path: Path, extra_mb: int) -> None:
    raw, out = raw_with_a_long_song, tmp_path / "out"
    starve(extra_mb * MB, lambda: fake_cleaning.clean(raw, out), tmp_path / "log")
    if (out / "quarantine.parquet").exists():
        assert pq.read_table(out / "quarantine.parquet")["song_id"].to_pylist() == ["text"], "the one that is no audio"
    for record in out.glob(".records/*/*.json"):
        assert '"quarantine"' not in record.read_text() or '"song_id": "text"' in record.read_text()
    fake_cleaning.clean(raw, out)
    assert fake_cleaning.results(out) == cleaned


@pytest.mark.parametrize("extra_mb", [1, 8])
def test_extraction_merging_and_repairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra_mb: int) -> None:
    songs = crash_extraction.make_songs(tmp_path / "raw")
    crash_extraction.run(songs, tmp_path / "whole", 0, monkeypatch.setattr)
    whole = crash_extraction.digests(tmp_path / "whole")
    starve(extra_mb * MB, lambda: crash_extraction.run(songs, tmp_path / "out", 0), tmp_path / "log")
    crash_extraction.run(songs, tmp_path / "out", 1, monkeypatch.setattr)
    assert crash_extraction.digests(tmp_path / "out") == whole
    starve(extra_mb * MB, lambda: merge(tmp_path / "merged", [tmp_path / "out"]), tmp_path / "log")
    assert crash_extraction.digests(tmp_path / "out") == whole, "what is merged is only read"
    if not (tmp_path / "merged" / "index.parquet").exists():
        merge(tmp_path / "merged", [tmp_path / "out"])
    (tmp_path / "merged" / "index.parquet").unlink()
    starve(extra_mb * MB, lambda: repair(tmp_path / "merged"), tmp_path / "log")
    repair(tmp_path / "merged")
    assert verify(tmp_path / "merged").problems == []
    assert verify(tmp_path / "out").problems == []


def test_a_command_on_a_dataset_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    def take_too_much(_: object) -> int:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(shards_command, "_run_verify", take_too_much)
    assert shards_command.main(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "no memory left: malloc of size 64 failed" in said.out + said.err
