"""Section headers and repeat marks in the styles of lyric sites."""

import pytest

from pipeline.lyrics.headers import match_header, match_repeat, split_count


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("[Verse 1]", "verse"),
        ("(Chorus)", "chorus"),
        ("Verse:", "verse"),
        ("VERSE", "verse"),
        ("【副歌】", "chorus"),
        ("## Bridge", "bridge"),
        ("== Intro ==", "intro"),
        ("--- Chorus ---", "chorus"),
        ("**Outro**", "outro"),
        ("[Pre-Chorus]", "verse"),
        ("[Post-Chorus]", "chorus"),
        ("[Hook]", "chorus"),
        ("Refrain", "chorus"),
        ("[Solo]", "inst"),
        ("[Break]", "inst"),
        ("[Interlude]", "inst"),
        ("(Guitar Solo)", "inst"),
        ("Inst 1:", "inst"),
        ("[Outro 1: Ada Merrow]", "outro"),
        ("[Verse 1 - whispered]", "verse"),
        ("[intro-short]", "intro"),
        ("[Final Chorus]", "chorus"),
        ("Verse Two", "verse"),
        ("2nd Verse", "verse"),
        ("Verse II", "verse"),
        ("[Couplet 1]", "verse"),
        ("(Coro)", "chorus"),
        ("[Refrão]", "chorus"),
        ("Strophe 2:", "verse"),
        ("主歌A", "verse"),
        ("第二段", "verse"),
        ("间奏", "inst"),
        ("副歌 Chorus", "chorus"),
        ("[Verse 主歌 1]", "verse"),
        ("Bメロ", "verse"),
        ("[Middle 8]", "bridge"),
        ("[Fade Out]", "outro"),
        ("[Silence]", "silence"),
        ("[end]", "outro"),
        ("[start]", "intro"),
        ("Verse 1 (Ada)", "verse"),
    ],
)
def test_headers(line: str, label: str) -> None:
    header = match_header(line)
    assert header is not None
    assert header.label == label
    assert header.rest == ""


@pytest.mark.parametrize(
    "line",
    [
        "Break",
        "(break)",
        "solo",
        "End of the road",
        "Bridge over water",
        "(Chorus) of angels",
        "Hook me up",
        "End: of the road",
        "[Drake]",
        "I",
        "",
        "[]",
        "I am a verse 2",
    ],
)
def test_lyrics_are_no_headers(line: str) -> None:
    assert match_header(line) is None


def test_parts_of_a_header() -> None:
    header = match_header("[Chorus 2: Ada (x3)]")
    assert header is not None
    assert (header.number, header.repeats) == (2, 3)
    for line in ("[verse]Run with the river", "Verse: Run with the river"):
        header = match_header(line)
        assert header is not None
        assert header.rest == "Run with the river"
    header = match_header("[Pre-Chorus]")
    assert header is not None
    assert header.name == "prechorus"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(Repeat Chorus)", ("chorus", None, 1)),
        ("Repeat chorus x2", ("chorus", None, 2)),
        ("[Repeat 1st Verse]", ("verse", 1, 1)),
        ("(Repeat chorus until fade)", ("chorus", None, 1)),
        ("Chorus (repeat)", ("chorus", None, 1)),
        ("(x2)", (None, None, 1)),
        ("x4", (None, None, 3)),
        ("(bis)", (None, None, 1)),
        ("(repeat)", (None, None, 1)),
        ("repeat 2 times", (None, None, 2)),
        ("重复副歌", ("chorus", None, 1)),
    ],
)
def test_repeat_marks(line: str, expected: tuple[str | None, int | None, int]) -> None:
    mark = match_repeat(line)
    assert mark is not None
    assert (mark.name, mark.number, mark.repeats) == expected


@pytest.mark.parametrize("line", ["Repeat after me", "repeat", "twice", "I said it 2 times", "reprise", "bis bald"])
def test_lyrics_are_no_repeat_marks(line: str) -> None:
    assert match_repeat(line) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Hello (x2)", ("Hello", 2)),
        ("na na na, x4", ("na na na", 4)),
        ("世界(x2)", ("世界", 2)),
        ("Hello [3 times]", ("Hello", 3)),
        ("we did it 2 times", ("we did it 2 times", 1)),
        ("Malcolm X", ("Malcolm X", 1)),
        ("2 x 4", ("2 x 4", 1)),
        ("(x2)", ("(x2)", 1)),
    ],
)
def test_split_count(line: str, expected: tuple[str, int]) -> None:
    assert split_count(line) == expected
