from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.records import (
    SONGS_SCHEMA,
    count_times,
    format_lrc,
    format_textgrid,
    read_record,
    record_path,
    song_row,
    write_record,
    write_table,
)
from pipeline.cleaning.report import write_report
from pipeline.song import Drop, DroppedLine, Line, Section, Song, Word, file_stem


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


@pytest.mark.parametrize(
    "title",
    [
        *("a]\n[00:09.00]an injected line", "a]b", "[ti:x]", "a\r\n\r\nb", "a\u2028[00:01.00]b", "\x85[00:02.00]c"),
        "<00:03.00>d",
    ],
)
def test_titles_and_words_inject_no_line_stamp_or_tag(title):
    song = example_song()
    song.title = title
    song.lines[0].text = song.words[0].text = title
    for row in (song_row(song, None, "f"), song_row(song, None, "f") | {"words": []}):
        lines = format_lrc(row).splitlines()
        assert len(lines) == 3
        assert [line.count("[") for line in lines] == [1, 1, 1]
        assert [line.count("]") for line in lines] == [1, 1, 1]
        assert sum(line.count("<") for line in lines) == len(row["words"])


@pytest.mark.parametrize("title", ['"', '""\n', 'a"\n        intervals [9]:', "a\r\nb"])
def test_no_text_ends_its_field_of_a_textgrid(title):
    song = example_song()
    song.words[0].text = title
    text = format_textgrid(song_row(song, None, "f"))
    plain = format_textgrid(song_row(example_song(), None, "f"))
    assert len(text.splitlines()) == len(plain.splitlines())
    fields = [line for line in text.splitlines() if line.strip().startswith("text =")]
    assert all(field.count('"') % 2 == 0 for field in fields)


def timed_row(offset_s: float | None, drift: float | None, fit: float | None) -> dict[str, Any]:
    song = example_song()
    song.lyrics_offset_s, song.lyrics_drift = offset_s, drift
    if fit is not None:
        song.metrics["lyrics_times_fit"] = fit
    return song_row(song, None, "f")


def test_how_far_the_times_of_lyrics_files_are_off_is_told(tmp_path):
    rows = [
        timed_row(None, None, None),
        timed_row(0.123456, 0.0, 1.0),
        timed_row(-8.0, None, 0.8),
        timed_row(0.2, -0.0123456, 0.9),
        timed_row(None, None, 0.3),
        timed_row(9.0, 0.1, 1.0) | {"verdict": "reject"},
    ]
    assert [(row["lyrics_offset_s"], row["lyrics_drift"]) for row in rows[:4]] == [
        (None, None),
        (0.123, 0.0),
        (-8.0, None),
        (0.2, -0.01235),
    ]
    write_table(tmp_path / "songs.parquet", rows, SONGS_SCHEMA)
    assert count_times(rows) == {"songs": 4, "of_no_use": 1, "off": 1, "drifting": 1}
    stats = {"seen": 6, "kept": 5, "rejected": {}, "quarantined": 0, "failed": 0, "audio_hours": 1.0, "wall_s": 1.0}
    stats |= {"lines": {}, "dropped_lines": {}, "seconds_per_stage": {}, "lyrics_times": count_times(rows)}
    write_report(tmp_path / "report.html", rows, [], [], stats)
    page = (tmp_path / "report.html").read_text()
    assert "lyrics -8.00 s<" in page.replace("</span>", "<")
    assert "lyrics +0.20 s, -1.2 %" in page
    assert "Times in the lyrics files" in page


def test_a_report_is_not_turned_around_by_a_name(tmp_path):
    row = song_row(example_song(), None, "f") | {"title": "gnp\u202e3pm.<script>"}
    stats = {"seen": 2, "kept": 1, "rejected": {}, "quarantined": 900, "failed": 1, "audio_hours": 1.0, "wall_s": 1.0}
    stats |= {"lines": {}, "dropped_lines": {}, "seconds_per_stage": {}, "lyrics_times": count_times([row])}
    quarantined = [{"audio": f"{n}.mp3", "reason": "cut"} for n in range(900)]
    write_report(tmp_path / "report.html", [row], quarantined, [{"audio": "f.mp3", "reason": "no memory"}], stats)
    page = (tmp_path / "report.html").read_text()
    assert "gnp\ufffd3pm.&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "500 more are in quarantine.parquet" in page
    assert "no memory" in page
