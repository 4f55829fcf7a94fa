"""Formats of song generators: what each holds comes back unchanged, what it does not hold is counted."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.lyric_formats.document import Changes, Document, LyricFormatError, TextLine, TextSection
from pipeline.lyric_formats.fitting import fit
from pipeline.lyric_formats.formats import FORMATS, convert, guess_format
from pipeline.lyric_formats.reading import read_row, read_text
from pipeline.lyric_formats.songbloom import validate
from pipeline.lyrics.metadata import may_be_title_line
from shards.schema import SECTION_LABELS

# A busy machine is no fault of the code.
CALM = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LINES = [
    "One light",
    "We run, and run",
    "I said hello (oh oh)",
    "(yeah yeah)",
    "我们走",
    "你好，世界",
    "It's 3.5 miles",
    "Now! Go",
]
SAMPLE = (
    "[Intro]\n\n[Verse 1 - whispered]\nOne light (oh oh)\nWe run, and run\n\n[Pre-Chorus]\n我们走\n\n[Guitar Solo]\n"
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents with times or without, as parts of a song in order."""
    is_timed = draw(st.booleans())
    clock_s = 0.0
    sections = []
    for index in range(draw(st.integers(1, 5))):
        label = draw(st.sampled_from(SECTION_LABELS)) if index or not draw(st.booleans()) else None
        texts = draw(st.lists(st.sampled_from(LINES), min_size=label is None, max_size=3))
        start_s, lines = clock_s, []
        for text in texts:
            words = tuple((word, clock_s + 0.25 * k) for k, word in enumerate(text.split())) if is_timed else ()
            lines.append(TextLine(text=text, start_s=clock_s if is_timed else None, words=words))
            clock_s += 4.0
        clock_s += draw(st.floats(0, 40).map(lambda value: round(value, 2)))
        name = draw(st.sampled_from(["", "Pre-Chorus 2"])) if label == "verse" else ""
        manner = draw(st.sampled_from(["", "soft and slow"])) if label else ""
        sections.append(
            TextSection(
                label=label, name=name, description=manner, lines=tuple(lines),
                start_s=start_s if is_timed and label else None,
                duration_s=round(clock_s - start_s, 2) if is_timed and label else None,
            )
        )  # fmt: skip
        clock_s = round(clock_s + 0.5, 2)
    title = draw(st.sampled_from(["", "Quiet Harbor"]))
    style = draw(st.sampled_from(["", "pop, female"]))
    return Document(
        sections=tuple(sections), title=title, style=style, duration_s=round(clock_s, 2) if is_timed else None
    )


@pytest.mark.parametrize("name", FORMATS)
@CALM
@given(document=documents())
def test_what_a_format_holds_comes_back(name: str, document: Document) -> None:
    form, changes = FORMATS[name], Changes()
    try:
        fitted = fit(document, form.capacity, changes)
        text = convert(document, form, Changes(), "song")
    except LyricFormatError:
        assert form.capacity.needs_times or not any(section.lines for section in document.sections)
        return
    read, reading = form.read(text, Changes()), Changes()
    assert read == [fitted]
    again = fit(fitted, form.capacity, reading)
    assert again == fitted
    assert reading.counts == {}, "a fitted document loses nothing"
    if fitted != document:
        assert changes.counts, "what is not the same was counted"
    if name.startswith("songbloom"):
        assert validate(text.strip()) == []


# What formats mean something by: counts, stamps, tags, cues, markup, escapes, marks of singers.
HOSTILE = [
    "Hello",
    "(x2)",
    "x3",
    "[x2]",
    "[00:01.00]",
    "<00:02.00>",
    "<0,500,0>",
    "[12500,4700]",
    "]",
    "[",
    "[Verse]",
    "Chorus",
    "(Repeat Chorus)",
    "\n",
    "\r\n",
    "\t",
    " ; ",
    " , ",
    ". ",
    "-->",
    "00:00:01,000 --> 00:00:02,000",
    "{c: Verse}",
    "[offset:+500]",
    "[ti:x]",
    "[length:01:00]",
    "#TITLE:x",
    "#BPM:300",
    ": 0 4 60 Wal",
    "- 40",
    "E",
    "WEBVTT",
    "<tt>",
    "<b>",
    "</p>",
    "<br>",
    "&lt;br&gt;",
    "&#91;Verse&#93;",
    "【Verse】",
    "{",
    "}",
    '"',
    "'",
    "\\n",
    "\\",
    "desc:",
    "[lyrics:\n",
    "[desc:x]",
    "[Genre] pop",
    "Written by Ada",
    "http://a.com",
    "我们",
    "夜",
    "ฝน",
    "x",
    "2",
    "F:",
    "v1:",
    "bg:",
    "Both:",
    "(oh oh)",
    "a b c",
    "...",
    "!",
    "~",
    "*",
    "_",
    "Dialogue: 0,0:00:10.00,0:00:14.00,Default,,0,0,0,,x",
    "1\t2\tx",
    "start,end,text",
    "\u200b",
    "\u2028",
    "\x00",
    "：",
    "［00:01］",
    "[tt]<0,0>",
    "<sync start=1>",
    '{"t":0,"c":[]}',
    "Embed",
    "5.",
    " - ",
]


def hostile_texts() -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=4).flatmap(
        lambda parts: st.sampled_from(["", " "]).map(lambda blank: blank.join(parts))
    )


def hostile_names() -> st.SearchStrategy[str]:
    """Names that are no line of the song: such a line would be left out."""
    return hostile_texts().map(lambda text: text.replace("Hello", "Harbor").replace("a b c", "d e f"))


@st.composite
def hostile_documents(draw: st.DrawFn) -> Document:
    """Documents whose titles, names, descriptions and lines look like something else."""
    is_timed = draw(st.booleans())
    clock_s = 1.0
    sections = []
    maybe = st.one_of(st.just(""), hostile_texts())
    for index in range(draw(st.integers(1, 3))):
        label = draw(st.sampled_from(["verse", "chorus", "inst"])) if index or draw(st.booleans()) else None
        lines = []
        # "Title - Artist" is left out where nothing is sung, whoever wrote it
        for text in draw(st.lists(hostile_texts().filter(lambda x: not may_be_title_line(x)), min_size=1, max_size=3)):
            words = tuple((word, round(clock_s + 0.25 * k, 2)) for k, word in enumerate(text.split()))
            end_s = clock_s + 3 if is_timed and draw(st.booleans()) else None
            lines.append(
                TextLine(text=text, start_s=clock_s if is_timed else None, end_s=end_s, words=words if is_timed else ())
            )
            clock_s += 4
        sections.append(
            TextSection(
                label=label, name=draw(maybe) if label else "", description=draw(maybe) if label else "",
                lines=tuple(lines), start_s=lines[0].start_s if label else None,
            )
        )  # fmt: skip
    return Document(
        sections=tuple(sections),
        title=draw(st.one_of(st.just(""), hostile_names().map("Quiet {}".format))),
        artist=draw(st.one_of(st.just(""), hostile_names().map("{} Merrow".format))),
        style=draw(maybe),
        duration_s=clock_s + 5 if is_timed else None,
    )


@pytest.mark.parametrize("name", FORMATS)
@CALM
@given(document=hostile_documents())
def test_no_text_becomes_a_tag_a_stamp_or_another_line(name: str, document: Document) -> None:
    form = FORMATS[name]
    try:
        fitted = fit(document, form.capacity, Changes())
        text = convert(document, form, Changes(), "song")
    except LyricFormatError:
        return
    assert form.read(text, Changes()) == [fitted]


@pytest.mark.parametrize("name", FORMATS)
def test_a_count_in_a_line_is_not_sung_twice(name: str) -> None:
    lines = (TextLine(text="Hello (x2)", start_s=1.0), TextLine(text="Goodbye x3", start_s=5.0))
    document = Document(sections=(TextSection(label="verse", lines=lines, start_s=1.0),), duration_s=9.0)
    changes = Changes()
    written = convert(document, FORMATS[name], changes, "song")
    assert changes.counts["repeat count in a line"] == 2
    read = FORMATS[name].read(written, Changes())[0]
    assert [line.text for section in read.sections for line in section.lines] == ["Hello", "Goodbye"]


@pytest.mark.parametrize(
    ("title", "tag"),
    [
        ("Night Walk [Live]", "[ti:Night Walk (Live)]"),
        ("a]\n[00:01.00]b", "[ti:a) (00:01.00)b]"),
        ("<00:01.00>", "[ti:(00:01.00)]"),
    ],
)
def test_titles_stay_titles(title: str, tag: str) -> None:
    line = TextLine(text="One light", start_s=1.0)
    document = Document(sections=(TextSection(label=None, lines=(line,)),), title=title, duration_s=9.0)
    assert convert(document, FORMATS["lrc"], Changes(), "song").split("\n")[0] == tag


def test_lines_that_read_as_something_else_are_left_out_and_named() -> None:
    texts = ("One light", "Chorus", "http://a.com", "00:01.000 --> 00:02.000", "Written by Ada Merrow")
    document = Document(sections=(TextSection(label="verse", lines=tuple(TextLine(text=text) for text in texts)),))
    changes = Changes()
    assert convert(document, FORMATS["ace-step"], changes, "song") == "[Verse]\nOne light\n"
    assert changes.counts == {"line that does not read as words to sing": 4}


def test_karaoke_and_labels() -> None:
    text = "[ti:Quiet Harbor]\n[length:00:20.00]\n[00:02.50]<00:02.50>One <00:03.10>light\n[00:05.00]we run\n"
    document = read_text(text, Changes())
    assert convert(document, FORMATS["ultrastar"], Changes(), "song") == (
        "#TITLE:Quiet Harbor\n#BPM:1500\n#GAP:0\n#END:20000\nF 250 60 0 One\nF 310 100 0  light\n- 500\n"
        "F 500 100 0 we run\nE\n"
    )
    assert convert(document, FORMATS["audacity"], Changes(), "song") == (
        "2.500000\t2.500000\tOne light\n5.000000\t5.000000\twe run\n"
    )
    labels = read_text("2.5\t4.0\tOne light\n5.0\t7.25\twe run", Changes())
    assert convert(labels, FORMATS["audacity"], Changes(), "song") == (
        "2.500000\t4.000000\tOne light\n5.000000\t7.250000\twe run\n"
    )


WRITTEN = {
    "songbloom": "[intro] [intro] [intro] [intro] , [verse] One light. We run. and run , [verse] 我们走 , "
    "[inst] [inst] [inst] [inst]\n",
    "songbloom-5s": "[intro] [intro] [intro] [intro] , [verse] One light. We run. and run , [verse] 我们走 , "
    "[inst] [inst] [inst] [inst]\n",
    "yue": "[intro]\n\n[verse]\nOne light (oh oh)\nWe run, and run\n\n[verse]\n我们走\n\n[inst]\n",
    "suno": SAMPLE,
    "ace-step": SAMPLE,
    "plain": "One light (oh oh)\nWe run, and run\n\n我们走\n",
    "songgeneration": '{"idx": "song", "gt_lyric": "[intro-short] ; [verse] One light. We run, and run. ; '
    '[verse] 我们走 ; [inst-short]"}\n',
}


@pytest.mark.parametrize("name", WRITTEN)
def test_how_a_song_looks(name: str) -> None:
    written = convert(read_text(SAMPLE, Changes()), FORMATS[name], Changes(), "song")
    assert written == WRITTEN[name]
    if name != "songbloom-5s":  # a text does not say what a tag stands for
        assert FORMATS[guess_format(written)].read(written, Changes()) == FORMATS[name].read(written, Changes())


def test_losses_are_named() -> None:
    changes = Changes()
    convert(read_text("[ti:Quiet Harbor]\n" + SAMPLE, changes), FORMATS["songbloom"], changes, "song")
    assert changes.counts == {
        "title and artist": 1,
        "section name": 3,
        "section description": 1,
        "ad-lib in parentheses": 1,
        "line of several phrases, written as several lines": 1,
        "section of unknown duration, taken as 4 s": 2,
    }
    assert changes.examples["section description"] == "whispered"


def test_what_reading_drops_is_counted() -> None:
    changes = Changes()
    read_text("Written by Ada Merrow\n[Verse: Ada]\nla la (x2)\n  &quot;So&quot; it goes,\nhttp://a.com", changes)
    assert changes.counts == {
        "line dropped (credits)": 1,
        "line dropped (url)": 1,
        "repeat written out": 1,
        "line tidied": 1,
        "performer in a header": 1,
    }


def test_enhanced_lrc_keeps_word_times() -> None:
    text = "[ti:Quiet Harbor]\n[length:00:20.00]\n[00:00.00][Intro]\n[00:02.50][Verse]\n"
    text += "[00:02.50]<00:02.50>One <00:03.10>light\n"
    assert guess_format(text) == "enhanced-lrc"
    document = read_text(text, Changes())
    assert document.sections[1].lines[0].words == (("One", 2.5), ("light", 3.1))
    assert [section.duration_s for section in document.sections] == [2.5, 17.5]
    assert convert(document, FORMATS["enhanced-lrc"], Changes(), "song") == text
    assert "<" not in convert(document, FORMATS["lrc"], Changes(), "song")


def test_formats_that_live_on_times_refuse_lyrics_without() -> None:
    with pytest.raises(LyricFormatError, match="time of every line"):
        convert(read_text(SAMPLE, Changes()), FORMATS["diffrhythm"], Changes(), "song")


def test_muse_turns() -> None:
    document = Document(sections=read_text(SAMPLE, Changes()).sections, style="Pop, Piano")
    turns = json.loads(convert(document, FORMATS["muse"], Changes(), "song"))["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4
    assert turns[0]["content"].startswith("Please generate a song in the following style:Pop, Piano.\n")
    assert turns[2]["content"] == "[Verse 1][desc:whispered][lyrics:\nOne light (oh oh)\nWe run, and run]"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("muse", "{}"),
        ("muse", '{"messages": 3}'),
        ("muse", "[1, 2]\n"),
        ("muse", "{" * 5000),
        ("songgeneration", '{"gt_lyric": 5}'),
        ("songgeneration", "no tags at all"),
        ("songbloom", " , , "),
    ],
)
def test_broken_input_is_refused(name: str, text: str) -> None:
    with pytest.raises(LyricFormatError):
        FORMATS[name].read(text, Changes())


@CALM
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    name = guess_format(text)
    try:
        documents = FORMATS[name].read(text, Changes())
    except LyricFormatError:
        return
    for document in documents:
        for form in FORMATS.values():
            try:
                convert(document, form, Changes(), "song")
            except LyricFormatError:
                continue


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[verse] One. Two , [chorus] Three", "songbloom"),
        ("[intro] [intro] , [verse] One. Two ,", "songbloom"),
        ("[intro-short] ; [verse] One. Two. ; [outro-short]", "songgeneration"),
        ("[verse]\nOne\n\n[chorus]\nTwo", "yue"),
        ("[Verse 1]\nOne\n\n[Chorus]\nTwo", "suno"),
        ("[00:01.00]One\n[00:02.00]Two", "lrc"),
        ("[00:01.00]<00:01.00>One\n[00:02.00]<00:02.00>Two", "enhanced-lrc"),
        ('{"messages": []}', "muse"),
        ('{"gt_lyric": "[verse] One."}', "songgeneration"),
        ("One\nTwo", "plain"),
        ("", "plain"),
        ("#TITLE:x\n#BPM:300\n: 0 4 0 One", "ultrastar"),
        ("1.0\t2.0\tOne", "audacity"),
        ("1\n00:00:01,000 --> 00:00:02,000\nOne", "lrc"),
        ("{hello} I sing", "plain"),
    ],
)
def test_guesses(text: str, name: str) -> None:
    assert guess_format(text) == name


def test_rows_of_cleaned_songs_give_the_same_songbloom_lyrics(shared: Path) -> None:
    from pipeline.lyric_formats.songbloom import format_lyrics
    from pipeline.song import Line, Section

    for path in sorted((shared / "songs/dev").glob("*/truth.json")):
        truth = json.loads(path.read_text())
        sections = [Section(s["label"], s["start"], s["end"]) for s in truth["sections"]]
        lines = [Line(x["text"], x["start"], x["end"], "verse", 1.0, "lyrics", "kept") for x in truth["lines"]]
        marks = {"section": "", "score": 1.0, "source": "lyrics", "edit": "kept"}
        row = {
            "duration_s": truth["duration"],
            "sections": [{"label": s.label, "start_s": s.start_s, "end_s": s.end_s} for s in sections],
            "lines": [{"text": x.text, "start_s": x.start_s, "end_s": x.end_s, **marks} for x in lines],
            "words": [],
        }
        for name, seconds_per_tag in (("songbloom", 1.0), ("songbloom-5s", 5.0)):
            written = convert(read_row(row), FORMATS[name], Changes(), "song")
            assert written == format_lyrics(sections, lines, seconds_per_tag=seconds_per_tag) + "\n", path
