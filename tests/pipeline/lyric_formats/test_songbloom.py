"""SongBloom's lyric format: what is written, what is refused, and that text and ids agree."""

import pytest

from pipeline.lyric_formats.songbloom import assign_sections, clean_line, format_lyrics, validate
from pipeline.song import Line, Section
from shards.schema import FRAME_RATE_HZ

SECTIONS = [
    Section("intro", 0.0, 4.2),
    Section("verse", 4.2, 10.0),
    Section("inst", 10.0, 10.3),
    Section("chorus", 10.3, 20.0),
    Section("verse", 20.0, 25.0),
    Section("inst", 25.0, 27.0),
    Section("outro", 27.0, 30.0),
]


def make_line(text: str, start_s: float, end_s: float) -> Line:
    return Line(text, start_s, end_s, "verse", 1.0, "lyrics", "kept")


def test_writes_sections_tags_and_periods() -> None:
    lines = [
        make_line("Hold on to summer, hold on to me!", 5, 7),
        make_line("Down by the water", 7, 9),
        make_line("你好 世界，再见", 11, 13),
        make_line("我来了", 14, 15),
        make_line("(ooh)", 28, 29),
    ]
    text = format_lyrics(SECTIONS, lines)
    assert text == (
        "[intro] [intro] [intro] [intro] , [verse] Hold on to summer. hold on to me. Down by the water , "
        "[chorus] 你好.世界.再见.我来了 , [inst] [inst] [inst] [inst] [inst] [inst] [inst] , [verse] ooh"
    )
    assert validate(text) == []


def test_tags_follow_the_measured_duration() -> None:
    sections = [Section("intro", 0.0, 12.4), Section("outro", 12.4, 13.4)]
    assert format_lyrics(sections, []).count("[intro]") == 12
    assert format_lyrics(sections, [], seconds_per_tag=5) == "[intro] [intro]"
    assert format_lyrics(sections, [], min_gap_s=2) == " ".join(["[intro]"] * 12)
    assert format_lyrics([Section("verse", 0.0, 2.0)], []) == "[inst] [inst]"


def test_a_line_belongs_where_its_middle_is() -> None:
    lines = [make_line("a", 3.0, 5.5), make_line("b", 9.0, 10.1), make_line("c", 40.0, 41.0)]
    assert assign_sections(SECTIONS, lines) == [1, 1, 6]
    with pytest.raises(ValueError, match="no sections"):
        assign_sections([], lines)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("It’s 1,000 miles & 3.5 — ok", "It's 1000 miles and 3 point 5. ok"),
        ("what?! no...", "what. no"),
        ("\"Stay\" she said 'now'", "Stay she said now"),
        ("rollin' 'cause slow-moving", "rollin' 'cause slow-moving"),
        ("U.S.A. Mr. Moon", "U S A Mr Moon"),
        ("[x], {y} 【z】", "x. y z"),
        ("你好 世界 love 你", "你好.世界 love 你"),
        ("50% $5", "50 percent 5"),
        ("♪ ... !", ""),
        ("हिन्दी गीत", "हिन्दी गीत"),
    ],
)
def test_clean_line(text: str, cleaned: str) -> None:
    assert clean_line(text) == cleaned
    assert clean_line(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("[verse]", "[verse] has no text"),
        ("[Verse] hi", "unknown tag [Verse]"),
        ("[start]", "unknown tag [start]"),
        ("[verse]Hello , [chorus] a", "glues a tag"),
        ("[intro], [verse] a", "glues a tag"),
        ("[intro] , [intro]", "[intro] again after [intro]"),
        ("hi , [verse] a", "text before the tag"),
        ("[verse] a, b", "',' in the text"),
        ("[inst] la", "[inst] has text"),
        ("[verse] a ,", "comma at the end"),
        ("[intro]  [intro]", "extra blanks"),
        ("[intro] [inst]", "several tags"),
        ("[verse] [verse] a", "stands 2 times"),
        ("[verse] a\nb", "line breaks"),
    ],
)
def test_validate_names_the_problem(text: str, problem: str) -> None:
    assert any(problem in found for found in validate(text))


def test_validate_accepts_the_released_style() -> None:
    assert validate("[intro] [intro] , [verse] One two. Three , [verse] 你好.再见 , [silence] , [outro]") == []


def test_frames_and_seconds_agree() -> None:
    sections = [Section("intro", 0.0, 12.5 - 1 / FRAME_RATE_HZ)]
    assert format_lyrics(sections, []).count("[intro]") == 12
