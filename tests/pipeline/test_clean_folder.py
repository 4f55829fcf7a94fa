from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clean_folder import (
    SONGS_SCHEMA,
    file_stem,
    format_lrc,
    format_textgrid,
    read_record,
    record_path,
    song_row,
    write_record,
    write_table,
)
from pipeline.song import Drop, DroppedLine, Line, Section, Song, Word


def example_song() -> Song:
    song = Song(song_id="folder/a song", path=Path("a.mp3"), audio="folder/a song.mp3", duration_s=10.0)
    song.lines = [Line('Say "hello" now', 1.0, 3.5, "verse", 0.8, "lyrics", "kept")]
    song.words = [Word("Say", 1.0, 1.5, 0.9, 0), Word('"hello"', 1.4, 2.5, 0.8, 0), Word("now", 3.0, 3.5, 0.7, 0)]
    song.sections = [Section("intro", 0.0, 0.9), Section("verse", 0.9, 10.0)]
    song.dropped = [DroppedLine("www.example.org", "url")]
    return song


@pytest.mark.parametrize(
    ("song_id", "stem"),
    [("a", "a"), ("x/mixture", "x__mixture"), ("名前 é", "名前 é"), ("..", None), ("a" * 500, None)],
)
def test_file_stems_are_readable(song_id, stem):
    assert stem is None or file_stem(song_id) == stem
    assert len(file_stem(song_id).encode()) < 200


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_file_stems_stay_in_their_folder_and_differ(first, second):
    stem = file_stem(first)
    assert "/" not in stem
    assert "\0" not in stem
    assert stem not in ("", ".", "..")
    assert first == second or stem != file_stem(second)


def test_a_record_is_found_again_and_rubbish_is_not(tmp_path):
    write_record(tmp_path, {"song_id": "x", "fingerprint": "f", "row": {}})
    assert read_record(tmp_path, "x") == {"song_id": "x", "fingerprint": "f", "row": {}}
    record_path(tmp_path, "x").write_text('{"song_id": "x"')
    assert read_record(tmp_path, "x") is None
    assert read_record(tmp_path, "y") is None


def test_rows_fit_the_schema_of_the_table(tmp_path):
    kept, rejected = song_row(example_song(), None, "f"), song_row(example_song(), Drop("silent", "why"), "f")
    write_table(tmp_path / "songs.parquet", [kept, rejected], SONGS_SCHEMA)
    assert (kept["verdict"], rejected["verdict"], rejected["reason"]) == ("keep", "reject", "silent")


def test_lrc_holds_lines_and_words():
    text = format_lrc(song_row(example_song(), None, "f"))
    assert '[00:01.00]<00:01.00>Say <00:01.40>"hello" <00:03.00>now' in text


def test_textgrid_intervals_cover_the_song_and_escape_quotes():
    text = format_textgrid(song_row(example_song(), None, "f"))
    assert 'text = "Say ""hello"" now"' in text
    for tier in text.split("item [")[2:]:
        times = [float(row.split("=")[1]) for row in tier.splitlines() if "xmin" in row or "xmax" in row][2:]
        assert times[0] == 0
        assert times[-1] == 10
        assert times[1:-1:2] == times[2:-1:2]
