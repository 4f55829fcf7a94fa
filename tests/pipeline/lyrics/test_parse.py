"""Parsing lyrics: every rule on a small case, and the noisy lyrics of the synthetic songs."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lyrics.encoding import read_lyrics
from pipeline.lyrics.line_text import HAN, simplify
from pipeline.lyrics.parse import (
    DROP_REASONS,
    MAX_LINE_CHARS,
    MAX_LINES,
    ParsedLyrics,
    normalize_word,
    parse_lyrics,
    split_words,
)


def texts(parsed: ParsedLyrics) -> list[str]:
    return [line.text for line in parsed.lines]


def reasons(parsed: ParsedLyrics) -> dict[str, str]:
    return {line.text: line.reason for line in parsed.dropped}


def test_plain_lines_keep_order_sections_and_stanzas() -> None:
    parsed = parse_lyrics("first line\nsecond line\n\nthird line\n[Chorus]\nfourth line")
    assert texts(parsed) == ["first line", "second line", "third line", "fourth line"]
    assert [line.stanza for line in parsed.lines] == [0, 0, 1, 2]
    assert [(line.section, line.section_index) for line in parsed.lines] == [(None, -1)] * 3 + [("chorus", 0)]
    assert not parsed.has_times
    assert parsed.has_headers
    assert parsed.dropped == ()


def test_lrc_stamps_and_offset() -> None:
    parsed = parse_lyrics("[offset:+500]\n[00:10.50]one\n[00:12:25] two\n[01:02]three\n[1:00:03.5]four\n[00:20.00]")
    assert [(line.text, line.time_s) for line in parsed.lines] == [
        ("one", 10.0),
        ("two", 11.75),
        ("three", 61.5),
        ("four", 3603.0),
    ]
    assert reasons(parsed) == {"[offset:+500]": "metadata", "[00:20.00]": "timestamp"}
    assert parsed.has_times


def test_enhanced_lrc_word_stamps_go() -> None:
    parsed = parse_lyrics("[00:01.00]<00:01.00>I <00:01.50>love <00:02.00>you\n<00:03.20>me <00:03.50>too")
    assert [(line.text, line.time_s) for line in parsed.lines] == [("I love you", 1.0), ("me too", 3.2)]


def test_several_stamps_are_several_lines_in_time_order_under_their_header() -> None:
    parsed = parse_lyrics("[verse]\n[00:01.00]a day\n[chorus]\n[00:05.00][00:15.00]la la\n[verse]\n[00:10.00]b day")
    assert [(line.text, line.time_s, line.section, line.edit) for line in parsed.lines] == [
        ("a day", 1.0, "verse", "kept"),
        ("la la", 5.0, "chorus", "kept"),
        ("b day", 10.0, "verse", "kept"),
        ("la la", 15.0, "chorus", "expanded"),
    ]
    assert [header.label for header in parsed.headers] == ["verse", "chorus", "verse", "chorus"]


def test_words_of_enhanced_lrc_that_are_chinese_are_joined() -> None:
    parsed = parse_lyrics("[00:01.00]<00:01.00>我 <00:01.20>们 <00:02.00>go <00:03.00>now")
    assert [line.text for line in parsed.lines] == ["我们 go now"]


def test_case_is_kept_where_asked() -> None:
    assert parse_lyrics("SING IT OUT LOUD (HEY)", keep_case=True).lines[0].full_text == "SING IT OUT LOUD (HEY)"
    assert parse_lyrics("SING IT OUT LOUD (HEY)").lines[0].full_text == "Sing it out loud (hey)"


def test_srt_cues_give_times() -> None:
    parsed = parse_lyrics(
        "1\n00:00:01,500 --> 00:00:04,000\nHello there\nmy friend\n\n2\n00:00:05,000 --> 00:00:06,000\nBye"
    )
    assert [(line.text, line.time_s) for line in parsed.lines] == [
        ("Hello there", 1.5),
        ("my friend", None),
        ("Bye", 5.0),
    ]
    assert set(reasons(parsed).values()) == {"timestamp"}


def test_a_clock_time_in_words_is_no_stamp() -> None:
    assert texts(parse_lyrics("5:30 in the morning\nI wake up")) == ["5:30 in the morning", "I wake up"]
    assert texts(parse_lyrics("0:05 one\n0:10 two\n0:15 three")) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello (x2)\nbye", [("Hello", "kept"), ("Hello", "expanded"), ("bye", "kept")]),
        ("Hello [x2] [softly]", [("Hello", "kept"), ("Hello", "expanded")]),
        ("Hello x3", [("Hello", "kept"), ("Hello", "expanded"), ("Hello", "expanded")]),
        ("a b\nc d\n(x2)", [("a b", "kept"), ("c d", "kept"), ("a b", "expanded"), ("c d", "expanded")]),
        ("x y\n\na b\n(x2)", [("x y", "kept"), ("a b", "kept"), ("a b", "expanded")]),
        ("[Chorus x2]\nla", [("la", "kept"), ("la", "expanded")]),
        ("[Chorus]\nla\n[Verse]\nme\n[Chorus]", [("la", "kept"), ("me", "kept"), ("la", "expanded")]),
        ("[Chorus]\nla\n[Verse]\nme\n(Repeat Chorus)", [("la", "kept"), ("me", "kept"), ("la", "expanded")]),
        (
            "Chorus:\nla\nVerse:\nme\nChorus x2",
            [("la", "kept"), ("me", "kept"), ("la", "expanded"), ("la", "expanded")],
        ),
        ("【副歌】\n啦啦\n【主歌】\n我们\n重复副歌", [("啦啦", "kept"), ("我们", "kept"), ("啦啦", "expanded")]),
        (
            "[Pre-Chorus]\nup\n[Chorus]\nla\n[Pre-Chorus]\n[Chorus]",
            [("up", "kept"), ("la", "kept"), ("up", "expanded"), ("la", "expanded")],
        ),
        ("[Verse 1]\na\n[Verse 2]\nb\n(Repeat Verse 1)", [("a", "kept"), ("b", "kept"), ("a", "expanded")]),
        (
            "[Chorus x2]\nla\n(Repeat Chorus)\nend",
            [("la", "kept"), ("la", "expanded"), ("la", "expanded"), ("end", "kept")],
        ),
        ("(Repeat Chorus)\nla", [("la", "kept")]),
        ("Hello x9999", [("Hello", "kept")] + [("Hello", "expanded")] * 7),
    ],
)
def test_shorthand_is_spelled_out(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(line.text, line.edit) for line in parse_lyrics(text).lines] == expected


def test_a_repeat_mark_is_dropped_and_opens_a_section() -> None:
    parsed = parse_lyrics("[Chorus]\nla\n[Verse]\nme\n(Repeat Chorus)")
    assert reasons(parsed) == {"(Repeat Chorus)": "repeat"}
    assert [(header.label, header.edit) for header in parsed.headers] == [
        ("chorus", "kept"),
        ("verse", "kept"),
        ("chorus", "expanded"),
    ]
    assert [line.section_index for line in parsed.lines] == [0, 1, 2]


def test_adlibs_are_kept_apart() -> None:
    parsed = parse_lyrics("One little song (whoa oh)\n(yeah yeah)\n我昨天写信（哦）")
    assert [(line.text, line.adlibs, line.is_adlib) for line in parsed.lines] == [
        ("One little song", ("whoa oh",), False),
        ("yeah yeah", ("yeah yeah",), True),
        ("我昨天写信", ("哦",), False),
    ]


def test_copies_are_marked_not_removed() -> None:
    parsed = parse_lyrics("same line\nSame line!\nother\nsame line")
    assert [line.is_copy for line in parsed.lines] == [False, True, False, False]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[ti:A song]", "metadata"),
        ("Am G C F", "metadata"),
        ("Written by Ada Merrow / Jon Halloway", "credits"),
        ("作词：林小舟", "credits"),
        ("https://example.com/a", "url"),
        ("© 2021 Music. All rights reserved.", "copyright"),
        ("Lyrics provided by LyricFind", "provider"),
        ("----", "symbols"),
        ("♪♪♪", "symbols"),
        ("[softly]", "direction"),
        ("[Ada Merrow:]", "direction"),
        ("a" * (MAX_LINE_CHARS + 1), "too_long"),
    ],
)
def test_lines_that_nobody_sings_are_dropped_with_a_reason(line: str, reason: str) -> None:
    parsed = parse_lyrics(f"first line\n{line}\nlast line")
    assert texts(parsed) == ["first line", "last line"]
    assert reasons(parsed) == {line: reason}


def test_title_lines_need_proof() -> None:
    song = "Quiet Harbor - Jon Halloway\nsomeone sings\nand sings on"
    assert texts(parse_lyrics(song))[0] == "Quiet Harbor - Jon Halloway"
    assert parse_lyrics(song).lines[0].is_doubtful
    assert not parse_lyrics(song).lines[1].is_doubtful
    for parsed in (
        parse_lyrics(song, artist="jon halloway"),
        parse_lyrics(song, title="Quiet Harbor"),
        parse_lyrics(song + "\nProduced by Jon Halloway"),
        parse_lyrics(song.replace("someone", "[verse]\nsomeone")),
        parse_lyrics("[00:00.00]" + song.replace("someone", "[00:04.00]someone")),
        parse_lyrics("渡口 - 林小舟\nsomeone sings\nand sings on"),
    ):
        assert texts(parsed) == ["someone sings", "and sings on"]
    assert len(parse_lyrics("oh my love - my darling\nI hunger", artist="someone").lines) == 2


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("Quiet Harbor - Jon Halloway\n{}", {"artist": "Jon Halloway"}),
        ("Jon Halloway – Quiet Harbor\n{}", {"title": "Quiet Harbor"}),
        ("Quiet Harbor by Jon Halloway\n{}", {"artist": "Jon Halloway"}),
        ("Quiet Harbor Lyrics\n{}", {"title": "Quiet Harbor"}),
        ("Jon Halloway Quiet Harbor\n\n{}", {"title": "Quiet Harbor", "artist": "Jon Halloway"}),
        ("Letra Quiet Harbor\n{}", {"title": "quiet harbor"}),
        ("#TITLE:Quiet Harbor\n#ARTIST:x\n#BPM:300\n: 0 4 0 Quiet\n: 4 4 0  Harbor - x\n- 8\n{}", None),
        ("渡口 - 林小舟\n渡口 (现场版) - 林小舟\n{}", {"artist": "林小舟"}),
    ],
)
def test_lines_with_a_given_title_or_artist_go(text: str, known: dict[str, str] | None) -> None:
    sung = ["someone sings", "and sings on"]
    if known is None:
        text, known = text.format(": 99 4 0 someone\n: 104 4 0  sings\n- 120\n: 130 4 0 and sings on\nE"), {}
    assert texts(parse_lyrics(text.format("\n".join(sung)), **known)) == sung  # type: ignore[arg-type]


def test_a_title_that_is_sung_stays() -> None:
    sung = ["Quiet Harbor", "I row back to you", "Quiet Harbor, oh my love", "we met by the harbor"]
    assert texts(parse_lyrics("\n".join(sung), title="Quiet Harbor", artist="Jon Halloway")) == sung


def test_markup_entities_forms_and_quotes_go() -> None:
    parsed = parse_lyrics("&gt; one&nbsp;two<br/>\n<i>three</i><br>four\n“five　six”\n＆ seven，eight。")
    assert texts(parsed) == ["one two", "three", "four", "five six", "& seven,eight"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ThE liGhTHOUse on The isLAnD SENDS a SILVEr bEaM", "The lighthouse on the island sends a silver beam"),
        ("HOLD ON TO SUMMER, I'M HERE AND I WAIT", "Hold on to summer, I'm here and I wait"),
        ("old McDonald had a farm", "old McDonald had a farm"),
        ("I LOVE the USA", "I LOVE the USA"),
        ("all lower case", "all lower case"),
        ("Every Word Has A Capital", "Every Word Has A Capital"),
    ],
)
def test_only_wrong_capitals_are_mended(line: str, expected: str) -> None:
    assert texts(parse_lyrics(line)) == [expected]


def test_traditional_chinese_is_simplified_unless_asked_not_to() -> None:
    assert texts(parse_lyrics("請你帶我回到那個家")) == ["请你带我回到那个家"]
    assert texts(parse_lyrics("請你帶我回到那個家", keep_traditional=True)) == ["請你帶我回到那個家"]
    assert texts(parse_lyrics("桜の國の歌")) == ["桜の國の歌"]


def test_every_character_is_simplified_by_the_table_that_the_phonemes_were_checked_with() -> None:
    """From OpenCC 1.3.2 on 拚, 舖, 甯 and some more read otherwise: pin it lower, or check the phonemes again."""
    characters = (chr(code) for code in range(0x3400, 0x323B0) if HAN.match(chr(code)))
    changed = {char: simple for char in characters if (simple := simplify(char)) != char}
    assert len(changed) == 4105
    pairs = "".join(char + simple for char, simple in changed.items())
    assert hashlib.sha256(pairs.encode()).hexdigest() == (
        "464ce817c4bff63e2d33316f6411fe7fbe52647f97a78a670f28bf294d8f29b5"
    )


@pytest.mark.parametrize("odd", ["\x00", "\ud800", "\U0001f600", " , \u3000", "love "])
def test_simplifying_leaves_what_is_not_han_alone(odd: str) -> None:
    assert simplify(f"{odd}國{odd}愛{odd}") == f"{odd}国{odd}爱{odd}"


def test_phrases_decide_how_a_character_is_simplified() -> None:
    assert simplify("乾淨的乾坤") == "干净的乾坤"


def test_songbloom_format_on_one_line() -> None:
    parsed = parse_lyrics(
        "[intro] [intro] [intro] , [verse] The kettle hums. Steam is drawing , [chorus] Run on , [outro]"
    )
    assert [header.label for header in parsed.headers] == ["intro", "verse", "chorus", "outro"]
    assert [(line.text, line.section) for line in parsed.lines] == [
        ("The kettle hums", "verse"),
        ("Steam is drawing", "verse"),
        ("Run on", "chorus"),
    ]


def test_performers_and_directions_go() -> None:
    assert texts(parse_lyrics("Both: we sing\n(男)你好吗\n[whispered] come on\nDrake:\nok then")) == [
        "we sing",
        "你好吗",
        "come on",
        "ok then",
    ]


def test_floods_end() -> None:
    flood = "[Chorus x8]\n" + "la la\n" * 400 + "(Repeat Chorus x8)\n" * 50
    assert len(parse_lyrics(flood).lines) == MAX_LINES
    parsed = parse_lyrics("\n".join(f"line {n}" for n in range(MAX_LINES + 5)))
    assert [line.reason for line in parsed.dropped] == ["too_many"] * 5
    parsed = parse_lyrics("a\n" * 50_000)
    assert len(parsed.lines) + len(parsed.dropped) == 50_000
    parse_lyrics("(" * 100_000)
    parse_lyrics("[" * 100_000)


def test_empty_and_instrumental_lyrics() -> None:
    assert parse_lyrics("").lines == ()
    assert not parse_lyrics("").is_marked_instrumental
    assert parse_lyrics("[Instrumental]").is_marked_instrumental
    assert parse_lyrics("此歌曲为没有填词的纯音乐，请您欣赏").is_marked_instrumental


@settings(deadline=None)  # a busy machine is no fault of the code
@given(st.text(alphabet=st.sampled_from("ab 你x2:[]()<>./-&;#\n0149verschou"), max_size=200))
def test_every_input_line_is_accounted_for(text: str) -> None:
    parsed = parse_lyrics(text)
    seen = (
        {line.raw for line in parsed.lines}
        | {line.text for line in parsed.dropped}
        | {head.raw.strip() for head in parsed.headers}
    )
    accounted = "\n".join(seen)
    assert all(raw.strip() in accounted for raw in text.split("\n") if not raw.strip().startswith("["))
    assert all(line.reason in DROP_REASONS for line in parsed.dropped)
    assert all(line.text and -1 <= line.section_index < len(parsed.headers) for line in parsed.lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello, world — it's", ["hello,", "world—", "it's"]),
        ("我love你baby，再见!", ["我", "love", "你", "baby，", "再", "见!"]),
        ("“Hello” she said", ["“Hello”", "she", "said"]),
        ("merry-go-round", ["merry-go-round"]),
        ("さくらの花", ["さ", "く", "ら", "の", "花"]),
        ("... !", []),
        ("", []),
    ],
)
def test_split_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_split_words_of_a_script_without_blanks() -> None:
    assert split_words("รักเธอ", "th") == ["รั", "ก", "เ", "ธ", "อ"]


@pytest.mark.parametrize(
    ("word", "folded"),
    [
        ("Hello,", "hello"),
        ("It’s", "it's"),
        ("“Été”", "été"),
        ("ＡＢ", "ab"),
        ("'cause", "cause"),
        ("再，", "再"),
        ("—", ""),
    ],
)
def test_normalize_word(word: str, folded: str) -> None:
    assert normalize_word(word) == folded


def test_noisy_lyrics_of_the_synthetic_songs(shared: Path) -> None:
    folders = sorted((shared / "songs/dev").glob("dev_*"))
    assert folders
    for folder in folders:
        parsed = parse_lyrics(read_lyrics(folder / "lyrics_noisy.txt"))
        noise = json.loads((folder / "noise.json").read_text())["lines"]
        words = {tuple(map(normalize_word, split_words(line.text))) for line in parsed.lines}
        assert {line["text"].strip() for line in noise if "metadata" in line["kinds"]} <= set(reasons(parsed)), (
            folder.name
        )
        for line in noise:
            if line["clean_text"] and "substitution" not in line["kinds"]:
                assert tuple(map(normalize_word, split_words(line["clean_text"]))) in words, (folder.name, line["text"])
        headers = [line["header"] for line in noise if line["header"]]
        assert [header.label for header in parsed.headers if header.edit == "kept"] == headers, folder.name


def test_real_lyrics_lose_no_line(shared: Path) -> None:
    for path in (shared / "songs_real/lyrics").glob("*.txt"):
        if path.name.endswith(".words.txt"):
            continue
        text = read_lyrics(path)
        given_lines = [line.strip() for line in text.split("\n") if line.strip() and not line.startswith("[")]
        assert [line.raw for line in parse_lyrics(text).lines] == given_lines, path.name
