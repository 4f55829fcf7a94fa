"""The short ways give what the long way gives: for lines that no rule matches, and for whole files of one kind."""

import random
import re
from functools import partial
from pathlib import Path

import pytest

from pipeline.lyrics import headers as lyrics_headers
from pipeline.lyrics import metadata as lyrics_metadata
from pipeline.lyrics import parse as lyrics
from pipeline.lyrics.line_text import split_adlibs
from pipeline.lyrics.page import split_line
from pipeline.lyrics.parse import ParsedLyrics, parse_lyrics
from pipeline.lyrics.plain import is_plain, split_aside
from pipeline.lyrics.simple import Known, parse_simple
from pipeline.lyrics.stamps import StampedLine

WEB_LINES = [
    line.split("\t")[2] for line in (Path(__file__).parent / "web_lines.tsv").read_text(encoding="utf-8").splitlines()
]
SUNG = [
    "We run under the stars", "Hold on to summer, hold on", "don't go", "I wait for you (oh oh)", "La la la!", "Again",
    "我们一起走", "請你帶我回家", "The water is wide", "You and I", "He said, wait", "And the rain came down by noon",
]  # fmt: skip
OTHERS = [
    "", "", "[Verse 1]", "[Chorus]", "[ti:Quiet Harbor]", "[ar:Jon Halloway]", "[by:x]", "Quiet Harbor", "Jon Halloway",
    "Ada: hi", "F: we go", "♪", "---", "Hello (x2)", "HELLO THERE MY FRIEND", "Quiet Harbor - Jon Halloway",
    "[12500,4700]Wal(12500,400)king", "[00:10.123456]six", "[bg: ooh]", "[softly]", "0:05 one", "[la:en]",
    "[offset:+5]", "[00:01.00][00:09.00]two", "don’t go", "(yeah)", "Written by Jon Halloway", " spaced  out ",
]  # fmt: skip


def vocabulary() -> list[str]:
    """Words that rules look for, and words of lyrics."""
    sources = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (lyrics_headers, lyrics_metadata)]
    found = {word for text in [*sources, *WEB_LINES, *SUNG] for word in re.findall(r"[^\W\d_]+", text)}
    return sorted(found | {"again", "I", "the", "A", "Am", "by", "at", "two", "i"})


def test_a_plain_line_is_sung_by_every_rule() -> None:
    rng = random.Random(0)
    words = vocabulary()
    num_plain = 0
    for _ in range(20_000):
        chosen = rng.choices(words, k=rng.choice((1, 1, 2, 2, 3, 4, 6)))
        text = rng.choice((" ", " ", "-", "'")).join(chosen) + rng.choice(("", ".", ",", "!"))
        if rng.random() < 0.2:
            text = text.title()
        if not is_plain(text):
            continue
        num_plain += 1
        (piece,) = split_line(text)
        tokens, drop, mark = lyrics._classify_piece(StampedLine(raw=text, text=piece))
        assert [(token.text, token.repeats, token.singer) for token in tokens] == [(text, 1, "")], text
        assert (drop, mark) == (None, ""), text
        assert split_adlibs(text) == (text.rstrip(" ,."), ()), text
    assert num_plain > 5000


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("I wait for you (oh oh)", ("I wait for you", "oh oh")),
        ("I wait for you (x2)", None),
        ("I wait for you (twice)", None),
        ("I wait for you (both)", None),
        ("Chorus (oh)", None),
        ("(oh oh)", None),
        ("Written at dawn (oh)", None),
    ],
)
def test_ad_libs_behind_plain_words(text: str, parts: tuple[str, str] | None) -> None:
    assert split_aside(text) == parts


def facts(parsed: ParsedLyrics) -> list[object]:
    dropped = sorted((drop.text, drop.reason, drop.line_number or 0) for drop in parsed.dropped)
    return [parsed.lines, parsed.headers, dropped, parsed.format_name, parsed.title, parsed.artist, parsed.has_times]


def test_a_simple_file_is_read_as_by_the_long_way() -> None:
    rng = random.Random(1)
    num_simple = 0
    for _ in range(3000):
        share = rng.choice((0.0, 0.1, 0.5))
        lines = [
            rng.choice(WEB_LINES + OTHERS) if rng.random() < share else rng.choice([*SUNG, ""])
            for _ in range(rng.choice((3, 6, 12)))
        ]
        if rng.random() < 0.4:
            lines = [
                f"[00:{10 + 3 * n:02d}.50]{line}" if line and line[0] != "[" else line for n, line in enumerate(lines)
            ]
        text = "\n".join(lines)
        known = Known(
            title=rng.choice((None, "Quiet Harbor")),
            artist=rng.choice((None, "Jon Halloway")),
            language=rng.choice((None, "en", "zh")),
        )
        keep_case = rng.random() < 0.3
        finish = partial(lyrics._finish_line, language=known.language, keep_case=keep_case)
        simple = parse_simple(text, known, lyrics._classify_text, finish, keep_traditional=False, keep_case=keep_case)
        if simple is not None:
            num_simple += 1
            assert facts(simple) == facts(lyrics._parse(text, known, keep_traditional=False, keep_case=keep_case)), text
    assert num_simple > 400


@pytest.mark.timeout(60)  # each took minutes where a rule read the rest of the text once per match
@pytest.mark.parametrize(
    "unit",
    [
        "[1,2]<0,1,0>a&amp;",
        "[00:01.00]<00:01.00>a",
        "[00:01.00]我\n[00:01.00]wo\n",
        "00:00:01,000 --> 00:00:02,000\nla\n\n",
        "[tt]<0,0>",
        "<sync start=1>a<br>",
        ": 0 1 1 a\n",
        "1\t2\ta\n",
        "<tt>",
        '{"a":',
        "{\\k1}a",
        "a\\n",
        "{1}{2}a|",
        "{1}{2}{y:i\n",
        "[1][2]/a\n",
        "0:01\na\n",
    ],
)
def test_floods_of_any_format_take_no_time(unit: str) -> None:
    parse_lyrics(unit * (200_000 // len(unit)))
    parse_lyrics("#TITLE:x\nWEBVTT\n[Events]\n" + f"la {unit}" * (200_000 // len(unit)))
