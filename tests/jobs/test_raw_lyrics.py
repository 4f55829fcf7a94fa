"""Extraction without clean/: lyrics as found reach the trainer and generation in one spelling."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.catalogue.inputs import SongInput
from pipeline.encoding.plan_shards import song_from_raw
from pipeline.lyric_formats.songbloom import validate
from pipeline.lyric_formats.untimed_lyrics import format_untimed
from pipeline.lyrics.parse import parse_lyrics
from pipeline.phonemes.phonemizer import Phonemizer
from shards.vocabulary import compose_lyric_ids

HEADED = """[ti:Lanterns]
[Intro]
[Verse 1]
Silver lanterns, over dark water (oh oh)
Walking home (x2)
[Chorus]
We run, we run!
[Guitar Solo]
[Verse 2]
Seven horses cross
[Outro]
"""
STANZAS = "One line\nAnother line\n\nA third one\nA fourth one"
MIXED = "[Verse]\n我们走 在路上\n不回头\n[Bridge]\nLa la la"
STAMPED = "[00:01.00]One line\n[00:04.00]Another line"
INST = "[Intro]\n[Solo]"


def raw_row(text: str, duration_s: float = 60.0, **known: str) -> dict[str, Any]:
    source = SongInput("a", Path("raw/a.wav"), "a.wav", **known)
    return song_from_raw(source, text, "0" * 64, duration_s, {}).row


def compose(row: Mapping[str, Any], phonemizer: Phonemizer) -> list[int]:
    """What the trainer makes of a row, whose sections stand on the frame clock here."""
    frames = [
        section | {"start_frame": round(25 * section["start_s"]), "end_frame": round(25 * section["end_s"])}
        for section in row["sections"]
    ]
    lines = [
        line | {"start_frame": None, "end_frame": None, "phoneme_ids": phonemizer.line_ids(line["text"]).ids}
        for line in row["lines"]
    ]
    num_frames = round(25 * row["duration_s"])
    return compose_lyric_ids(frames, lines, start_frame=0, end_frame=num_frames, seconds_per_tag=1.0)


@pytest.mark.parametrize("mode", ["plain", "reference"])
@pytest.mark.parametrize("text", [HEADED, STANZAS, MIXED, STAMPED])
def test_extraction_and_generation_write_the_same_lyrics(text, mode):
    row = raw_row(text)
    assert row["songbloom_lyrics"] == format_untimed(parse_lyrics(text))
    assert validate(row["songbloom_lyrics"]) == []
    phonemizer = Phonemizer(mode)
    assert compose(row, phonemizer) == phonemizer.lyric_ids(row["songbloom_lyrics"]).ids


def test_headers_stay_and_sections_cover_the_song():
    row = raw_row(HEADED)
    assert [section["label"] for section in row["sections"]] == "intro verse chorus inst verse outro".split()
    assert [line["section_index"] for line in row["lines"]] == [1, 1, 1, 2, 4]
    assert [line["text"] for line in row["lines"]][:3] == ["Silver lanterns, over dark water", *2 * ["Walking home"]]
    edges = [(section["start_s"], section["end_s"]) for section in row["sections"]]
    assert edges[0][0] == 0.0
    assert edges[-1][1] == 60.0
    assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]


def test_what_nobody_sings_takes_no_more_than_half_of_a_short_song():
    row = raw_row(HEADED, duration_s=12.0)
    unsung_s = sum(s["end_s"] - s["start_s"] for s in row["sections"] if s["label"] in ("intro", "inst", "outro"))
    assert unsung_s == pytest.approx(6.0)
    assert validate(row["songbloom_lyrics"]) == []


@pytest.mark.parametrize("text", ["", INST])
def test_a_song_without_a_line_is_one_instrumental(text):
    row = raw_row(text, duration_s=3.0)
    assert (row["lines"], row["songbloom_lyrics"]) == ([], "[inst] [inst] [inst]")


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("The wind is blowing over all the hills\nAnd nobody remembers where we were", {}, "en"),
        ("夜の海を見ていた\nあなたの声が聞こえる", {}, "ja"),
        ("[la:fr]\n[00:01.00]La la la", {}, "fr"),
        ("La la la", {"language": "de"}, "de"),
    ],
)
def test_the_language_is_said_or_identified(text, known, expected):
    assert raw_row(text, **known)["language"] == expected
