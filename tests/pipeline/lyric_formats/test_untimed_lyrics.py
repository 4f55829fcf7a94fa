"""Lyrics without times in SongBloom's format."""

import pytest

from pipeline.lyric_formats.songbloom import validate
from pipeline.lyric_formats.untimed_lyrics import format_untimed
from pipeline.lyrics.parse import parse_lyrics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Intro]\n[Verse]\nOne\nTwo (oh)\n[Solo]", f"{'[intro] ' * 4}, [verse] One. Two , " + "[inst] " * 4),
        ("One\nTwo\n\nThree\nFour", "[verse] One. Two , [verse] Three. Four"),
        ("One\n\nTwo\n\nThree", "[verse] One. Two. Three"),
        ("One\nTwo\n[Chorus]\nLa la\n[Verse]", "[verse] One. Two , [chorus] La la"),
        ("(yeah yeah)\n我们走", "[verse] yeah yeah.我们走"),
    ],
)  # fmt: skip
def test_format(text: str, expected: str) -> None:
    written = format_untimed(parse_lyrics(text))
    assert written == expected.strip()
    assert validate(written) == []
