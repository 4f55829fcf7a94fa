import pytest

from pipeline.cleaning.label_sections import LabelSections
from pipeline.song import Line


def line(text: str, start_s: float, end_s: float, section: str = "verse", index: int = 0) -> Line:
    return Line(text, start_s, end_s, section, 0.9, "lyrics", "kept", index)


def label(lines, headers=(), duration_s=60.0):
    return LabelSections().label(lines, headers, duration_s)


def test_sections_cover_the_song_without_gaps():
    lines = [line("a", 8, 12), line("b", 13, 17), line("c", 17.5, 21, "chorus", 1), line("d", 40, 44, "verse", 2)]
    sections = label(lines, ["verse", "chorus", "verse"])
    assert [s.label for s in sections] == ["intro", "verse", "chorus", "inst", "verse", "outro"]
    assert sections[0].start_s == 0
    assert sections[-1].end_s == 60
    for before, after in zip(sections[:-1], sections[1:], strict=True):
        assert before.end_s == after.start_s
    assert sections[1].start_s == pytest.approx(8, abs=0.2)


def test_a_header_for_an_instrumental_makes_a_short_rest_one():
    lines = [line("a", 0, 10), line("b", 12, 20, "verse", 2)]
    assert [s.label for s in label(lines, ["verse", "inst", "verse"], 20.5)] == ["verse", "inst", "verse"]
    assert [s.label for s in label([lines[0], line("b", 12, 20, "verse", 1)], ["verse", "verse"], 20.5)] == [
        "verse",
        "verse",
    ]


def test_without_headers_what_repeats_is_the_chorus():
    lines = [line("first", 1, 4, index=-1), line("Sing along", 4, 8, index=-1), line("second", 8, 12, index=-1)]
    lines.append(line("sing along!", 12, 16, index=-1))
    sections = label(lines, duration_s=16.5)
    assert [s.label for s in sections if s.label != "outro"] == ["verse", "chorus", "verse", "chorus"]
    assert [x.section for x in lines] == ["verse", "chorus", "verse", "chorus"]


def test_a_song_without_lines_is_one_instrumental():
    (section,) = label([])
    assert (section.label, section.start_s, section.end_s) == ("inst", 0.0, 60.0)
