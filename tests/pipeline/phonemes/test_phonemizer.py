"""Phoneme ids: what each mode does to small texts, and that lines and whole songs agree."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lyric_formats.songbloom import assign_sections, format_lyrics
from pipeline.phonemes.english import read_word
from pipeline.phonemes.mandarin import read_chinese
from pipeline.phonemes.phonemizer import Phonemizer
from pipeline.song import Line, Section
from shards.schema import FRAME_RATE_HZ, SECTION_LABELS
from shards.vocabulary import PAD_ID, SYMBOLS, compose_lyric_ids

PLAIN, REFERENCE = Phonemizer("plain"), Phonemizer("reference")


def spell(ids: list[int]) -> str:
    return " ".join(SYMBOLS[number] for number in ids)


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("I am by my dog", "AY1 AE1 M B AY1 M AY1 D AO1 G"),
        ("a star, a song", "AH0 S T AA1 R . AH0 S AO1 NG"),
        ("na-na", "N AA1 N AA1"),
        ("rollin' 'til the mornin'", "R OW1 L IH0 N T IH1 L DH AH0 M AO1 R N IH0 N"),
        ("ooooh yeahhh", "UW1 Y AE1"),
        ("Ada's dogs' bones", "EY1 D AH0 Z D AO1 G Z B OW1 N Z"),
        ("24 in 1999", "T W EH1 N T IY0 F AO1 R IH0 N N AY1 N T IY1 N N AY1 N T IY0 N AY1 N"),
        ("live your life", "L IH1 V Y AO1 R L AY1 F"),
        ("a live show", "AH0 L AY1 V SH OW1"),
        ("the wind", "DH AH0 W IH1 N D"),
        ("café", "K AH0 F EY1"),
        ("brr zxq", "B ER1 Z IY1 EH1 K S K Y UW1"),
        ("我love你baby", "w o3 L AH1 V n i3 B EY1 B IY0"),
        ("我有24个梦", "w o2 y ou3 EE er4 sh ir2 s i04 g e5 m eng4"),
        ("你好，世界", "n i2 h ao3 . sh ir4 j ie4"),
        ("什麼時候", "sh en2 m e5 sh ir2 h ou5"),
        ("", ""),
    ],
)
def test_plain_lines(text: str, symbols: str) -> None:
    result = PLAIN.line_ids(text)
    assert spell(result.ids) == symbols
    assert result.unknown == ()


def test_digits_alone_are_read_in_the_language_of_the_song() -> None:
    assert spell(PLAIN.line_ids("12", "zh").ids) == "sh ir2 EE er4"
    assert spell(PLAIN.line_ids("12", "en").ids) == "T W EH1 L V"


@pytest.mark.parametrize(
    ("text", "unknown"),
    [("love Привет мир", ("привет", "мир")), ("사랑 baby さくら", ("사랑", "さくら")), ("覅𠮷好", ("覅", "𠮷"))],
)
def test_what_has_no_symbol_is_reported(text: str, unknown: tuple[str, ...]) -> None:
    result = PLAIN.line_ids(text)
    assert result.unknown == unknown
    assert result.ids


def test_unknown_words_get_a_reading() -> None:
    assert read_word("glimmerstone") == tuple("G L IH1 M ER0 S T OW1 N".split())  # two words
    assert read_word("mirabeska") == tuple("M IH0 R AH0 B EH1 S K AH0".split())  # the letter-to-sound model
    assert read_word("x" * 500)


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("I want a plane", "I W AA1 N T a P L EY1 N"),
        ("I. a. A.", "AY1 . AH0 . EY1 ."),
        ("by my", "by my"),
        ("na-na", "N AA1 - N AA1"),
        ("1,000", "W AH1 N , Z IY1 R OW0"),
        ("two  spaces", "T UW1  S P EY1 S AH0 Z"),
        ("我有24个梦", "w o2 y ou3 T W EH1 N T IY0 F AO2 R g e5 m eng4"),
        ("[verse] hush... , [Verse]", "[verse] HH AH1 SH … , V ER1 S"),
    ],
)
def test_reference_keeps_its_oddities(text: str, symbols: str) -> None:
    assert spell(REFERENCE.lyric_ids(text).ids) == symbols


def test_a_line_of_the_reference_is_written_in_its_format_first() -> None:
    """As in the lyrics that the released model was given, where periods alone part phrases."""
    assert spell(REFERENCE.line_ids("two, two!").ids) == spell(REFERENCE.lyric_ids("two. two").ids)


def test_reference_reports_what_it_drops() -> None:
    assert REFERENCE.lyric_ids("we q'z run").unknown == ("q'z",)
    assert REFERENCE.lyric_ids("我爱覅 ok").unknown == ("我爱覅",)
    assert REFERENCE.lyric_ids("").ids == [PAD_ID]


def test_modes_have_names() -> None:
    with pytest.raises(ValueError, match="'faithful' is unknown"):
        Phonemizer("faithful")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("一天一夜", "y i4 t ian1 y i2 y E4"),
        ("看不懂", "k an4 b u5 d ong3"),
        ("不是", "b u2 sh ir4"),
        ("第一次", "d i4 y i1 c i04"),
        ("老虎", "l ao2 h u3"),
        ("纸老虎", "zh ir3 l ao2 h u3"),
        ("展览馆", "zh an2 l an2 g uan3"),
        ("妈妈", "m a1 m a5"),
        ("孩子们", "h ai2 z i05 m en5"),
        ("两个梦", "l iang3 g e5 m eng4"),
        ("飞回来", "f ei1 h ui2 l ai5"),
        ("银行的行长", "y in2 h ang2 d e5 x ing2 zh ang3"),
        ("月亮", "y ve4 l iang5"),
        ("女儿", "n v3 EE er2"),
        ("嗯", "EE en1"),
    ],
)
def test_mandarin_readings_and_tones(text: str, symbols: str) -> None:
    assert read_chinese(text) == (symbols.split(), [])


def test_whole_songs_in_plain_mode() -> None:
    text = "[intro] [intro] , [verse] I go. 你好 , [inst] , [chorus] my love"
    assert spell(PLAIN.lyric_ids(text).ids) == (
        "[intro] [intro] , [verse] AY1 G OW1 . n i2 h ao3 , [inst] , [chorus] M AY1 L AH1 V"
    )


TEXTS = ("I am a man", "Hold on, main st.", "你好 世界", "我有24个梦!", "3.5 miles", "oh (yeah)", "...")
LINES = st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(0, 59)), max_size=6)
CUTS = st.lists(st.tuples(st.integers(1, 59), st.sampled_from(SECTION_LABELS)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(lines=LINES, cuts=CUTS, seconds_per_tag=st.sampled_from([1.0, 5.0]))
def test_a_song_composed_from_lines_equals_its_text(
    lines: list[tuple[str, int]], cuts: list[tuple[int, str]], seconds_per_tag: float
) -> None:
    starts = sorted({0: "intro"} | dict(cuts) if cuts else {0: "verse"})
    labels = {0: "verse"} | dict(cuts)
    sections = [
        Section(labels[start], float(start), float(end)) for start, end in zip(starts, [*starts[1:], 60], strict=True)
    ]
    timed = [
        Line(text, s + 0.1, s + 0.9, "", 1.0, "lyrics", "kept") for text, s in sorted(lines, key=lambda line: line[1])
    ]
    metadata = [
        {
            "section_index": index,
            "start_frame": int(line.start_s * FRAME_RATE_HZ),
            "end_frame": int(line.end_s * FRAME_RATE_HZ),
            "phoneme_ids": PLAIN.line_ids(line.text).ids,
        }
        for line, index in zip(timed, assign_sections(sections, timed), strict=True)
    ]
    spans = [
        {"label": s.label, "start_frame": int(s.start_s) * FRAME_RATE_HZ, "end_frame": int(s.end_s) * FRAME_RATE_HZ}
        for s in sections
    ]
    composed = compose_lyric_ids(
        spans, metadata, start_frame=0, end_frame=60 * FRAME_RATE_HZ, seconds_per_tag=seconds_per_tag
    )
    text = format_lyrics(sections, timed, seconds_per_tag=seconds_per_tag)
    assert PLAIN.lyric_ids(text).ids == composed


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_ids_in_the_vocabulary(text: str) -> None:
    for phonemizer in (PLAIN, REFERENCE):
        for result in (phonemizer.line_ids(text), phonemizer.lyric_ids(text)):
            assert all(0 <= number < len(SYMBOLS) for number in result.ids)


def test_a_character_by_itself_is_read_without_loading_the_words_of_jieba():
    """As with them: 过 is a particle where it stands alone, 个 and 了 are neutral."""
    code = (
        "import sys; from pipeline.phonemes.mandarin import read_chinese; "
        "print(*(s for c in '过了个不行' for s in read_chinese(c)[0]), 'jieba' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.split() == "g uo5 l e5 g e5 b u4 x ing2 False".split()
