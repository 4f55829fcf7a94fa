"""The converter as a command: files, folders, tables; what it says, what it refuses."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.command import EXIT_FINE, EXIT_SHORT
from jobs.convert_lyrics import parse_arguments, run
from pipeline.cleaning.records import SONGS_SCHEMA
from pipeline.input_file import InputError
from pipeline.lyrics.encoding import LyricsError

LRC = "[ti:Quiet Harbor]\n[00:00.00]Written by Ada Merrow\n[00:02.00][Verse 1]\n[00:02.50]One light (oh oh)\n"
LRC += "[00:09.00][Solo]\n[00:15.00][Chorus]\n[00:16.00]我们走 (x2)\n"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> tuple[dict[str, Any], int]:
        monkeypatch.setattr(sys, "argv", ["convert_lyrics.py", *line.split()])
        return run(parse_arguments())

    return call


def row(song_id: str, verdict: str = "keep") -> dict[str, Any]:
    words = [("One", 2.5), ("light", 3.0)]
    line = {"text": "One light", "start_s": 2.5, "end_s": 3.5, "section": "verse", "score": 1.0}
    return {
        "song_id": song_id,
        "verdict": verdict,
        "reason": "" if verdict == "keep" else "no_lyrics",
        "title": "Quiet Harbor",
        "duration_s": 12.0,
        "lines": [line | {"source": "lyrics", "edit": "kept"}],
        "words": [{"text": w, "start_s": t, "end_s": t + 0.4, "score": 1.0, "line": 0} for w, t in words],
        "sections": [
            {"label": "intro", "start_s": 0.0, "end_s": 2.4},
            {"label": "verse", "start_s": 2.4, "end_s": 5.0},
            {"label": "outro", "start_s": 5.0, "end_s": 12.0},
        ],
    }


def test_one_file_says_what_it_lost(command, tmp_path):
    (tmp_path / "a.lrc").write_text(LRC)
    totals, code = command("--in a.lrc --to songbloom --out b.txt")
    assert code == EXIT_FINE
    assert (tmp_path / "b.txt").read_text() == "[verse] One light , " + "[inst] " * 6 + ", [chorus] 我们走.我们走\n"
    assert totals["from"] == {"lrc": 1}
    assert totals["changes"] == {
        "line dropped (credits)": 1,
        "repeat written out": 1,
        "title and artist": 1,
        "ad-lib in parentheses": 1,
        "start of a line": 2,
        "section name": 2,
        "section times": 1,
    }


def test_cleaned_songs_bring_their_times(command, tmp_path):
    (tmp_path / "clean").mkdir()
    table = pa.Table.from_pylist([row("a/1"), row("b"), row("c", "reject")], schema=SONGS_SCHEMA)
    pq.write_table(table, tmp_path / "clean/songs.parquet")
    totals, code = command("--in clean --to songbloom --out lyrics")
    assert (code, totals["written"], totals["rejected"]) == (EXIT_FINE, 2, 1)
    assert (
        tmp_path / "lyrics/b.txt"
    ).read_text() == "[intro] [intro] , [verse] One light , " + "[outro] " * 6 + "[outro]\n"
    command("--in clean --to diffrhythm --out lrc")
    assert (tmp_path / "lrc/b.lrc").read_text() == "[00:02.50]One light\n"
    command("--in clean --to enhanced-lrc --out lrc")
    assert "[00:02.50]<00:02.50>One <00:03.00>light" in (tmp_path / "lrc/b.lrc").read_text()
    command("--in clean --to muse --out songs.jsonl")
    assert len((tmp_path / "songs.jsonl").read_text().splitlines()) == 2
    totals, _ = command("--in songs.jsonl --to yue --out back")
    assert totals["from"] == {"muse": 2}
    assert len(list((tmp_path / "back").glob("*.txt"))) == 2


def test_a_folder_of_strangers_files_ends_in_rows(command, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.lrc").write_text(LRC)
    (folder / "a.txt").write_bytes("第一段\n我们走在路上\n".encode("gbk"))
    (folder / "sub" / "b.txt").write_text("[Verse]\nLa la")
    (folder / "noise.txt").write_bytes(os.urandom(2000))
    (folder / "loop").symlink_to(folder)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.txt")
    totals, code = command("--in in --to plain --out out")
    assert (totals["songs"], totals["written"], totals["failed"], code) == (6, 3, 3, EXIT_SHORT)
    assert {path.name for path in (tmp_path / "out").rglob("*.txt")} == {"a.txt", "a-2.txt", "b.txt"}
    rows = [json.loads(line) for line in (tmp_path / "out/conversion.jsonl").read_text().splitlines()]
    assert all(row.get("failed") or row["out"] for row in rows)
    assert len(rows) == 6


def test_check_lists_faults_and_symbols_without_a_sound(command, tmp_path):
    (tmp_path / "good.txt").write_text("[verse] One light. We run , [inst] [inst]")
    (tmp_path / "bad.txt").write_text("[intro] [intro] , [verse] , [solo] рок")
    totals, code = command("--in good.txt --check")
    assert (code, totals["faulty"], totals["num_unknown_symbols"]) == (EXIT_FINE, 0, 0)
    totals, code = command("--in good.txt bad.txt --from songbloom --check")
    assert (code, totals["faulty"], totals["unknown_symbols"]) == (EXIT_SHORT, 1, {"рок": 1})
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("--in nowhere --to suno", InputError, "no such file"),
        ("--in empty --to suno", InputError, "no lyrics found"),
        ("--in a.txt --to suno --out a.txt", InputError, "would replace"),
        ("--in two --to suno --out two", InputError, "would replace"),
        ("--in two --to suno --out b.txt", InputError, "name a folder"),
        ("--in a.txt --to lrc --out b.lrc", LyricsError, "time of every line"),
        ("--in a.txt --from muse --to suno", LyricsError, "no JSON"),
        ("--in fake.parquet --to suno", InputError, "songs.parquet"),
        ("--in fake.parquet --from suno --to lrc", InputError, "is a table"),
    ],
)
def test_wrong_use(command, tmp_path, line, error, message):
    (tmp_path / "a.txt").write_text("La la")
    (tmp_path / "fake.parquet").write_text("no table")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.lrc", "a.txt"):
        (tmp_path / "two" / name).write_text("La la")
    with pytest.raises(error, match=message):
        command(line)
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "two/a.txt").read_text() == "La la"
    assert not (tmp_path / "b.lrc").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [("--in a --to sunoo", "invalid choice"), ("--in a", "--to is needed"), ("--in a --tu suno", "did you mean --to")],
)
def test_wrong_flags_end_with_2(command, capsys, line, message):
    with pytest.raises(SystemExit) as raised:
        command(line)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
