"""Lines as scrapers of lyric sites bring them, each in a small song; and that no input line is lost or counted twice.

web_lines.tsv: expectation (lyric, header, dropped, repeat), its text, label or reason where that matters, the line.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.lyrics.encoding import clean_text, read_lyrics
from pipeline.lyrics.parse import DROP_REASONS, ParsedLyrics, parse_lyrics

CASES = [
    line.split("\t") for line in (Path(__file__).parent / "web_lines.tsv").read_text(encoding="utf-8").splitlines()
]
BEFORE, AFTER = "first words here\nsecond words here\n\n", "\nlast words here"
CHORUS = "[Chorus]\nchorus words here\n[Verse]\nverse words here\n\n"


def cases(kind: str) -> list[tuple[str, str]]:
    return [(expected, line) for found, expected, line in CASES if found == kind]


def parse(line: str, before: str = BEFORE) -> ParsedLyrics:
    return parse_lyrics(clean_text(before + line + AFTER))


def own_lines(parsed: ParsedLyrics) -> list[str]:
    return [line.text for line in parsed.lines if not line.text.endswith("words here")]


@pytest.mark.parametrize(("expected", "line"), cases("lyric"))
def test_what_may_be_sung_stays(expected: str, line: str) -> None:
    parsed = parse(line)
    assert own_lines(parsed)
    assert parsed.headers == ()
    assert not expected or own_lines(parsed)[0] == expected


@pytest.mark.parametrize(("expected", "line"), cases("header"))
def test_headers(expected: str, line: str) -> None:
    parsed = parse(line)
    headers = [header.label for header in parsed.headers if header.edit == "kept"]
    assert len(headers) == 1
    assert headers[0] == (expected or headers[0])
    assert len(parsed.lines) >= 3  # "You might also like[Chorus]" costs no line


@pytest.mark.parametrize(("expected", "line"), cases("dropped"))
def test_what_is_not_sung_has_a_reason(expected: str, line: str) -> None:
    parsed = parse(line)
    assert own_lines(parsed) == []
    assert [drop.reason for drop in parsed.dropped][:1] == [expected or parsed.dropped[0].reason]


@pytest.mark.parametrize(("_", "line"), cases("repeat"))
def test_repeat_marks(_: str, line: str) -> None:
    parsed = parse(line, CHORUS)
    assert own_lines(parsed) == []
    assert any(line.edit == "expanded" for line in parsed.lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a " * 50_000, []),
        ("我" * 100_000, []),
        ("la\x00la\x07", ["lala"]),
        ("\u202eevil\u202c words", ["evil words"]),
        ("zero \ufeffwidth\u2060", ["zero width"]),
        ("soft\u00adhyphen", ["softhyphen"]),
        ("\u200e\u200f", []),
        ("tab\tbetween", ["tab between"]),
        ("1," * 40_000 + "Embed", []),
        ("<!--" * 20_000, []),
        ("[00:01.00]" * 10_000, []),
    ],
)
def test_hostile_lines(text: str, expected: list[str]) -> None:
    assert own_lines(parse(text)) == expected


def test_lines_glued_by_the_page_are_parted() -> None:
    parsed = parse_lyrics(
        "12 ContributorsQuiet Harbor Lyrics[Verse 1]\nI row at dawn\nSee Ada LiveGet tickets as low as $30"
        "You might also like[Chorus]\nQuiet harborYou might\nI love you so123Embed"
    )
    assert [(line.text, line.section) for line in parsed.lines] == [
        ("I row at dawn", "verse"),
        ("Quiet harborYou might", "chorus"),
        ("I love you so", "chorus"),
    ]
    assert Counter(drop.reason for drop in parsed.dropped) == {"provider": 3}


def test_escaped_breaks_and_json_credits_are_read() -> None:
    parsed = parse_lyrics(r"[00:01.00]One day\n[00:05.00]Two days\n[00:09.00]Three days")
    assert [line.time_s for line in parsed.lines] == [1.0, 5.0, 9.0]
    parsed = parse_lyrics('{"t":0,"c":[{"tx":"作词: "},{"tx":"林小舟"}]}\n[00:01.00]我们走')
    assert [(drop.text, drop.reason) for drop in parsed.dropped][0][1] == "credits"
    assert len(parsed.lines) == 1


def test_known_performers_go_from_the_start_of_lines() -> None:
    lyrics = "歌手：林小舟\n林小舟：我站在这里\n我说：你好\nAda Merrow: come home"
    assert own_lines(parse_lyrics(lyrics, artist="Ada Merrow")) == ["我站在这里", "我说:你好", "come home"]


KINDS = [line for _, _, line in CASES] + [
    "",
    "  ",
    "[00:12.00][00:45.00]I run",
    "[00:10.00]",
    "&nbsp;",
    "la la",
    "la (x2)",
]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.sampled_from(KINDS), st.text(max_size=30)), max_size=30))
def test_no_line_is_lost_and_none_counted_twice(lines: list[str]) -> None:
    text = clean_text("\n".join(lines))
    parsed = parse_lyrics(text)
    sung = Counter(line.line_number for line in parsed.lines if line.edit == "kept")
    headers = Counter(header.line_number for header in parsed.headers if header.edit == "kept")
    dropped = Counter(drop.line_number for drop in parsed.dropped)
    for number, raw in enumerate(text.split("\n"), 1):
        places = sung[number] + headers[number] + dropped[number]
        assert bool(places) == bool(raw.strip()), raw
        assert places <= 1 or "[" in raw or "<" in raw or ":" in raw or "Embed" in raw or "You might" in raw, raw
    assert {drop.reason for drop in parsed.dropped} <= set(DROP_REASONS)


def test_no_sung_line_of_the_real_and_synthetic_songs_is_dropped(shared: Path) -> None:
    real = [path for path in (shared / "songs_real/lyrics").glob("*.txt") if not path.name.endswith(".words.txt")]
    paths = [*real, *(shared / "songs/dev").glob("*/lyrics.txt")]
    assert paths
    for path in paths:
        text = read_lyrics(path)
        parsed = parse_lyrics(text)
        kept = {line.line_number for line in parsed.lines if line.edit == "kept"}
        sung = {n for n, raw in enumerate(text.split("\n"), 1) if raw.strip() and not raw.startswith("[")}
        assert kept == sung, path


@pytest.mark.timeout(20)  # each took minutes when a rule read the rest of the text once per line
@pytest.mark.parametrize("unit", [" ", "\n", "(x2)\n", "[verse] a. ", "[", "<script", "See A ", "1,"])
def test_floods_of_one_thing_take_no_time(unit: str) -> None:
    parse_lyrics(clean_text("la\n" + unit * (40_000 // len(unit)) + "\nla"))


@pytest.mark.parametrize(
    "change",
    [str.upper, str.title, "({})".format, "- {}".format, "*{}*".format, '"{}".'.format, lambda text: text[:12].strip()],
)
def test_no_sung_line_is_dropped_in_another_dress(shared: Path, change: Callable[[str], str]) -> None:
    for path in (shared / "songs/dev").glob("*/truth.json"):
        lines = [change(line["text"]) for line in json.loads(path.read_text(encoding="utf-8"))["lines"]]
        parsed = parse_lyrics("\n".join(lines))
        assert parsed.dropped == ()
        assert len(parsed.lines) == len(lines)
