"""Lyrics in the formats of players, captions, karaoke and transcripts: recognised by content, read with their times."""

import itertools
import json
import zlib
from pathlib import Path

import pytest

from pipeline.lyrics.encoding import MAX_LYRICS_BYTES, LyricsError, decode_lyrics, read_lyrics
from pipeline.lyrics.parse import ParsedLyrics, parse_lyrics

Row = tuple[float | None, str]


def rows(parsed: ParsedLyrics) -> list[Row]:
    return [(line.time_s, line.text) for line in parsed.lines]


def words(parsed: ParsedLyrics, index: int = 0) -> tuple[tuple[str, float], ...]:
    return parsed.lines[index].word_times


WALKING = (("Walking", 12.5), ("home", 13.3))
TTML = """<?xml version="1.0"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:itunes="http://music.apple.com/lyric-ttml-internal"
 xmlns:ttm="http://www.w3.org/ns/ttml#metadata" itunes:timing="Word" xml:lang="en">
<head><metadata><ttm:title>Night</ttm:title><ttm:agent type="person" xml:id="v1"/></metadata></head>
<body dur="3:20.1"><div begin="10.5" end="20" itunes:songPart="PreChorus">
<p begin="10.5" end="14.2" ttm:agent="v1"><span begin="10.5" end="11">Walk</span><span begin="11">ing</span> <span
 begin="11.5" end="12">home</span><span ttm:role="x-bg"><span begin="12.5" end="13">(ooh</span> <span
 begin="13" end="13.5">aah)</span></span><span ttm:role="x-translation" xml:lang="zh-CN">走回家</span></p>
<p begin="00:00:15.000" end="1:02.5" ttm:agent="v2">under<br/>the rain</p></div></body></tt>"""
WHISPER = {
    "language": "en",
    "segments": [
        {
            "start": 1.0,
            "end": 2.5,
            "text": " walking home",
            "words": [{"word": " walking", "start": 1.0, "end": 1.5}, {"word": " home", "start": 1.6, "end": 2.0}],
        }
    ],
}
ASS = """[Script Info]
Title: x

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:10.00,0:00:14.00,Default,,0,0,0,,a note
Dialogue: 0,0:00:12.50,0:00:14.00,Default,Ada,0,0,0,,{\\k50}Wal{\\k30}king {\\kf40}home
Dialogue: 0,0:00:14.00,0:00:16.00,Default,,0,0,0,,{\\an8}under\\Nthe, rain
Dialogue: 0,0:00:16.00,0:00:17.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 10{\\p0}
"""
YOUTUBE = """WEBVTT
Kind: captions
Language: en

00:00:10.000 --> 00:00:13.000 align:start position:0%

walking<00:00:10.500><c> home</c>

00:00:13.000 --> 00:00:13.010 align:start position:0%
walking home

00:00:13.010 --> 00:00:16.000 align:start position:0%
walking home
under<00:00:13.500><c> the</c><00:00:14.000><c> rain</c>
"""
ULTRASTAR = """#TITLE:Night Walk
#ARTIST:A Person
#LANGUAGE:English
#BPM:300
#GAP:1000
: 0 4 60 Wal
* 4 4 62 king
: 8 4 64 ~
: 16 6 64  home
- 40
F 44 4 0 un
F 48 4 0 der
F 52 4 0  rain
E
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("lrc", "[00:10.123456]walking home\n[00:14.500000]under", [(10.123456, "walking home"), (14.5, "under")]),
        ("lrc", "[00：10.50]walking home\n［00：12．50］under", [(10.5, "walking home"), (12.5, "under")]),
        ("lrc", "[00:00.500 --> 00:04.000]  walking home", [(0.5, "walking home")]),
        ("lrc", "[00:10.00]walking home\n[00:10.00][tr:zh]走回家", [(10.0, "walking home")]),
        ("srt", "1\n00:00:01,500 --> 00:00:04,000\n{\\an8}<i>walking</i>\n\n2\n00:00:05,000 --> 00:00:06,000 X1:1\nBye",
         [(1.5, "walking"), (5.0, "Bye")]),
        ("webvtt", "WEBVTT - x\n\nNOTE hi\nmore\n\nSTYLE\n::cue {}\n\nintro\n00:01.500 --> 00:04.000 line:1\n"
         "<v.loud Ada>Hello <b>you</b></v>", [(1.5, "Hello you")]),
        ("sbv", "0:00:01.000,0:00:04.000\nwalking home\n\n0:00:05.000,0:00:06.000\nunder",
         [(1.0, "walking home"), (5.0, "under")]),
        ("sami", "<SAMI><BODY>\n<SYNC Start=1000><P Class=KRCC>walking<br>home\n<SYNC Start=3000><P Class=KRCC>&nbsp;",
         [(1.0, "walking"), (None, "home")]),
        ("ass", ASS, [(12.5, "Walking home"), (14.0, "under the, rain")]),
        ("ttml", TTML, [(10.5, "Walking home"), (12.5, "ooh aah"), (15.0, "under the rain")]),
        ("youtube", '<timedtext format="3"><body><p t="1000" d="3000"><s>walking</s><s t="500"> home</s></p></body>'
         "</timedtext>", [(1.0, "walking home")]),
        ("youtube", '<transcript><text start="10.0" dur="3.0">you &amp;amp; me</text></transcript>',
         [(10.0, "you & me")]),
        ("webvtt", YOUTUBE, [(10.0, "walking home"), (13.01, "under the rain")]),
        ("ultrastar", ULTRASTAR, [(1.0, "Walking home"), (3.2, "under rain")]),
        ("audacity", "10.000000\t14.000000\twalking home\n14,5\t16\tunder\n\\\t0.0\t100.0",
         [(10.0, "walking home"), (14.5, "under")]),
        ("whisper", "start\tend\ttext\n500\t4000\twalking home\n4000\t6000\t under",
         [(0.5, "walking home"), (4.0, "under")]),
        ("whisper", 'start,end,text\n500,4000,"walking, ""home"" then"', [(0.5, 'walking, "home" then')]),
        ("json", json.dumps(WHISPER, indent=1), [(1.0, "walking home")]),
        ("json", json.dumps({"transcription": [{"offsets": {"from": 500, "to": 2000}, "text": " walking home"}]}),
         [(0.5, "walking home")]),
        ("json", json.dumps({"text": "x", "chunks": [{"timestamp": [1.0, None], "text": " walking home"}]}),
         [(1.0, "walking home")]),
        ("json", json.dumps({"lyrics": {"lines": [{"startTimeMs": "960", "words": "walking", "endTimeMs": "0"}]}}),
         [(0.96, "walking")]),
        ("lrc", json.dumps({"plainLyrics": "a\nb", "syncedLyrics": "[00:01.00] walking\n[00:02.00] under"}),
         [(1.0, "walking"), (2.0, "under")]),
    ],
)  # fmt: skip
def test_a_format_is_known_by_its_content(name: str, text: str, expected: list[Row]) -> None:
    parsed = parse_lyrics(text)
    assert parsed.format_name == name
    assert rows(parsed) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[00:12.50] <00:12.50> Wal<00:12.90>king <00:13.30> home",
        "[00:12.50]<00:12.50>Walking<00:13.30>home",  # nobody's blanks: the stamps part words
        "[00:12.50]Walking home\n[00:12.50][tt]<0,0><800,8><1200,12>",
        "[12500,4700]<0,400,0>Wal<400,400,0>king <800,300,0>home",
        "[12500,4700](12500,400,0)Wal(12900,400,0)king (13300,300,0)home",
        "[12500,4700]Wal(12500,400)king (12900,400)home(13300,300)",
        "[4]Wal(12500,400)king (12900,400)home(13300,300)",
        '<Q><L LyricContent="[ti:a]\n[12500,4700]Wal(12500,400)king (12900,400)home(13300,300)\n"/></Q>',
        ASS,
    ],
)
def test_word_stamps_join_their_syllables(text: str) -> None:
    parsed = parse_lyrics(text)
    assert parsed.lines[0].text == "Walking home"
    assert parsed.lines[0].time_s == 12.5
    assert words(parsed) == WALKING


def test_words_of_other_formats_keep_their_times() -> None:
    assert words(parse_lyrics(TTML)) == (("Walking", 10.5), ("home", 11.5))
    assert words(parse_lyrics(TTML), 2) == ()  # "under the rain" has no words with times
    assert words(parse_lyrics(YOUTUBE), 1) == (("under", 13.01), ("the", 13.5), ("rain", 14.0))
    assert words(parse_lyrics(ULTRASTAR)) == (("Walking", 1.0), ("home", 1.8))
    assert words(parse_lyrics(json.dumps(WHISPER))) == (("walking", 1.0), ("home", 1.6))
    assert words(parse_lyrics("[00:01.00]<00:01.00>我<00:01.20>们<00:01.50>走")) == (
        ("我", 1.0),
        ("们", 1.2),
        ("走", 1.5),
    )


def test_ends_singers_parts_and_translations_are_kept() -> None:
    parsed = parse_lyrics(TTML)
    assert [(line.end_s, line.singer, line.section) for line in parsed.lines] == [
        (14.2, "v1", "verse"),
        (None, "background", "verse"),
        (62.5, "v2", "verse"),
    ]
    assert [header.name for header in parsed.headers] == ["prechorus"]
    assert parsed.lines[1].is_adlib
    assert [(drop.text, drop.reason) for drop in parsed.dropped] == [("走回家", "translation")]
    assert (parsed.title, parsed.language) == ("Night", "en")


def test_captions_that_roll_are_read_once() -> None:
    reasons = [drop.reason for drop in parse_lyrics(YOUTUBE).dropped]
    assert reasons.count("duplicate") == 2
    assert parse_lyrics(YOUTUBE).language == "en"
    rolling = ["one two", "three four", "five six", "seven eight", "nine ten"]
    cues = [
        f"00:{n + 10}.000 --> 00:{n + 11}.000\n{before}\n{line}"
        for n, (before, line) in enumerate(zip(["intro words", *rolling], rolling, strict=False))
    ]
    parsed = parse_lyrics("WEBVTT\n\n" + "\n\n".join(cues))
    assert rows(parsed)[1:] == [(None, "one two"), *((11.0 + n, line) for n, line in enumerate(rolling[1:]))]


def test_a_line_that_is_sung_twice_in_subtitles_stays_twice() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nla la\n\n2\n00:00:02,000 --> 00:00:03,000\nla la"
    assert rows(parse_lyrics(text)) == [(1.0, "la la"), (2.0, "la la")]


def test_what_the_file_states_is_known() -> None:
    parsed = parse_lyrics("[ti:Night Walk [Live]]\n[ar:A Person]\n[la:eng]\n[offset:+500]\n[00:10.00]walking home")
    assert (parsed.title, parsed.artist, parsed.language) == ("Night Walk [Live]", "A Person", "en")
    assert parsed.offset_s == 0.5
    assert rows(parsed) == [(9.5, "walking home")]
    parsed = parse_lyrics(ULTRASTAR)
    assert (parsed.title, parsed.artist, parsed.language) == ("Night Walk", "A Person", "en")


def test_singer_marks_are_no_words() -> None:
    parsed = parse_lyrics(
        "[00:10.00]F: walking home\n[00:14.00]M: under the rain\n[00:16.00]still walking\n[00:18.00]D: we are one\n"
        "[00:22.00]v1: by the sea\n[00:25.00]Both: we sing\n[bg: ooh aah]\n[00:30.00](女)你好吗"
    )
    assert [(line.text, line.singer) for line in parsed.lines] == [
        ("walking home", "female"),
        ("under the rain", "male"),
        ("still walking", "male"),
        ("we are one", "duet"),
        ("by the sea", "v1"),
        ("we sing", "duet"),
        ("ooh aah", "background"),
        ("你好吗", "female"),
    ]
    assert parse_lyrics("[ar:Ada Merrow]\nAda Merrow: come home").lines[0].singer == "Ada Merrow"


@pytest.mark.parametrize(
    "text",
    [
        "walking home again\\nunder the rain\\nby the sea\n",
        '"walking home again\\nunder the rain\\nby the sea"',
        "walking home again\\r\\nunder the rain\\r\\nby the sea",
    ],
)
def test_escaped_breaks_are_breaks(text: str) -> None:
    assert rows(parse_lyrics(text)) == [(None, "walking home again"), (None, "under the rain"), (None, "by the sea")]


def test_joiners_that_spell_stay_and_zero_width_spaces_part_words() -> None:
    assert parse_lyrics("walking\u200bhome\u200bagain").lines[0].text == "walking home again"
    assert parse_lyrics("می\u200cخواهم با تو").lines[0].text == "می\u200cخواهم با تو"
    assert parse_lyrics("รัก\u200bเธอ").lines[0].text == "รักเธอ"
    assert parse_lyrics("wal\u200dking").lines[0].text == "walking"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE tt [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><tt><body><p begin="1">&b;</p></body></tt>',
        "<tt><body>" + "<div>" * 5000 + '<p begin="1">la</p>',
        '<tt><body><p begin="1">la</body>',
        '{"segments": [{"start": 1e999, "text": "la"}]}',
        '{"segments": [{"start": ' + "9" * 5000 + ', "text": "la"}]}',
        '{"segments": ' * 2000,
        "[Events]\nDialogue: 0,9",
        "#BPM:0\n#TITLE:x\n: 0 1 0 la",
        "#BPM:1e400\n: 99999 1 0 la",
        "WEBVTT\n\n99:99:99.999 --> 00:00:00.000\nla",
        "1\t2",
        "start\tend\ttext\nx",
        '<QrcInfos LyricContent="">',
    ],
)
def test_broken_files_are_read_or_left_never_fatal(text: str) -> None:
    parsed = parse_lyrics(text)
    assert all(line.time_s is None or 0 <= line.time_s <= 7200 for line in parsed.lines)


def test_lyrics_about_times_and_numbers_stay_lyrics() -> None:
    for line in ("5:30 in the morning", "1 2 3 go", "# 1 in my heart", "I said --> go", "P1", "{x}", "start the end"):
        parsed = parse_lyrics(f"first words\n{line}\nlast words")
        assert (parsed.format_name, len(parsed.lines) + len(parsed.dropped)) == ("plain", 3), line


CASES = {
    "singer_marks.lrc": ["walking home again", "under the rain", "we are one", "by the sea"],
    "six_digits.lrc": ["walking home again", "under the rain"],
    "bracket_title.lrc": ["walking home again"],
    "slash_translation.lrc": ["窗外下着雨", "我读那封信", "大海很远"],
    "thai_english.lrc": ["ฝนตกที่หน้าต่าง", "ฉันรอเธออยู่ตรงนี้", "ทะเลไกลแสนไกล"],
    "escaped_newlines.txt": ["walking home again", "under the rain", "by the sea"],
    "youtube_captions.txt": ["walking home"],
    "ultrastar.txt": ["Walking home"],
}


@pytest.mark.parametrize("name", CASES)
def test_the_shared_cases(shared: Path, name: str) -> None:
    path = shared / "cases" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert [line.text for line in parse_lyrics(read_lyrics(path)).lines] == CASES[name]


def test_subtitles_that_count_frames() -> None:
    cues = "{250}{300}walking home|under {the} rain\n{y:i}\n{310}{400}{y:i}again ] [\n{410}{}and [verse]\n{420}{430}\n"
    parsed = parse_lyrics("{1}{1}25.000\n" + cues)
    assert parsed.format_name == "microdvd"
    assert rows(parsed)[:3] == [(10.0, "walking home"), (None, "under rain"), (12.4, "again ]  [".replace("  ", " "))]
    assert [line.end_s for line in parsed.lines][:3] == [None, 12.0, 16.0]
    assert ("metadata", "{1}{1}25.000") in [(line.reason, line.text) for line in parsed.dropped]
    assert {line.time_s for line in parse_lyrics(cues).lines} == {None}  # nobody says how long a frame is
    parsed = parse_lyrics("[10][25]walking home\n[30][45]/under|/the rain\n[50][75]again")
    assert (parsed.format_name, rows(parsed)) == (
        "mpl2",
        [(1.0, "walking home"), (3.0, "under"), (None, "the rain"), (5.0, "again")],
    )


def test_a_transcript_has_its_clocks_on_lines_of_their_own() -> None:
    parsed = parse_lyrics("0:05\nwalking home\n0:08\nunder the rain\nagain\n1:02:10\nthe end of it")
    assert parsed.format_name == "transcript"
    assert rows(parsed) == [(5.0, "walking home"), (8.0, "under the rain"), (None, "again"), (3730.0, "the end of it")]
    assert {line.reason for line in parsed.dropped} == {"timestamp"}
    assert parse_lyrics("5:30\nin the morning\n5:10\nback again\n5:50\nlate").format_name == "plain"


def pack_krc(text: bytes) -> bytes:
    key = b"@Gaw^2tGQ61-\xce\xd2ni"
    return b"krc1" + bytes(byte ^ mask for byte, mask in zip(zlib.compress(text), itertools.cycle(key), strict=False))


def test_krc_is_unpacked_and_what_cannot_be_is_refused_in_one_line() -> None:
    parsed = parse_lyrics(decode_lyrics(pack_krc("\ufeff[ti:x [y]]\r\n[5000,900]<0,500,0>我<500,400,0>走".encode())))
    assert (rows(parsed), words(parsed)) == ([(5.0, "我走")], (("我", 5.0), ("走", 5.5)))
    for data, message in (
        (pack_krc(b"la")[:-6], "damaged KRC"),
        (b"krc1" + b"\x93" * 90, "damaged KRC"),
        (pack_krc(b"a" * (MAX_LYRICS_BYTES + 1)), "holds over 1000000 bytes"),
        (b"\x98\x25\xb0\xac" + b"\x93" * 90, "encrypted QRC"),
    ):
        with pytest.raises(LyricsError, match=message):
            decode_lyrics(data)
