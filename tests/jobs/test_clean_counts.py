"""Every file that lies in raw/ is counted once: as a song with its verdict, as lyrics, or as passed over and why."""

import json
from pathlib import Path

import pytest

from jobs import clean_lyrics
from jobs.run_options import RunOptions

from .fake_cleaning import SETTINGS, clean, lay_out

pytestmark = pytest.mark.demo_weights

MESS = {
    "cover.jpg": "x",
    "a.lrc": "",
    "a.nfo": "x",
    "c.txt": "words of a song that is not here",
    "b.de.lrc": "[00:01.00]Wort",
    "b.mp3.part": "x",
    "__MACOSX/a.wav": "x",
    "._b.wav": "x",
    "no_suffix": "x",
    "sub/list.m3u": "x",
    "sub/deeper/.DS_Store": "x",
}


@pytest.mark.parametrize("limit", [None, 2])
def test_counts_add_up_to_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    raw, out = lay_out(tmp_path / "raw", monkeypatch.setattr), tmp_path / "out"
    for name, text in MESS.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(text)
    returned = clean_lyrics.clean(raw, out, SETTINGS, RunOptions(), limit)
    stats = json.loads((out / "stats.json").read_text())
    assert stats == returned
    verdicts = stats["kept"] + sum(stats["rejected"].values()) + stats["quarantined"] + stats["failed"]
    assert verdicts == stats["seen"] == (limit or 4)
    assert stats["beyond_limit"] == 4 - stats["seen"]
    num_files = sum(path.is_file() for path in raw.rglob("*"))
    counted = stats["seen"] + stats["beyond_limit"] + stats["lyrics_files"] + sum(stats["passed_over"].values())
    assert counted == num_files
    assert stats["passed_over"][".lrc: empty"] == 1
    assert stats["passed_over"][".part: not audio or lyrics"] == 1


def test_a_manifest_passes_nothing_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = lay_out(tmp_path / "raw", monkeypatch.setattr)
    (raw / "songs.jsonl").write_text('{"audio": "a.wav", "lyrics": "words"}\n{"audio": "b.wav"}\n')
    stats = clean(raw / "songs.jsonl", tmp_path / "out")
    assert (stats["seen"], stats["lyrics_files"], stats["passed_over"]) == (2, 1, {})
