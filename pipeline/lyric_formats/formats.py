"""The formats by name: what each holds, how it is read and written, and which one a text is in."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.lyric_formats import tagged
from pipeline.lyric_formats.document import Changes, Document, LyricFormatError
from pipeline.lyric_formats.fitting import Capacity, fit
from pipeline.lyric_formats.karaoke import read_ultrastar, write_audacity, write_ultrastar
from pipeline.lyric_formats.muse import read_muse, write_muse
from pipeline.lyric_formats.one_line import (
    SHORT_S,
    read_songbloom,
    read_songgeneration,
    round_to_class,
    round_to_tags,
    split_sentences,
    split_songbloom,
    write_songbloom,
    write_songgeneration,
)
from pipeline.lyric_formats.reading import read_text
from pipeline.lyric_formats.songbloom import validate
from pipeline.lyrics.source import read_source

# What a header without words stands for where nobody says how long it is: four tags, a bar or two at one second each.
ASSUMED_TAGS = 4
_YUE_LABELS = ("verse", "chorus", "bridge", "intro", "outro", "inst")
_LINE_STAMP = re.compile(r"^\s*\[\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?\]", re.MULTILINE)
_SIZED_TAG = re.compile(r"\[(?:intro|inst|outro)-(?:short|medium|long)\]")
_YUE_TAG = re.compile(rf"\[(?:{'|'.join(_YUE_LABELS)})\]")
_LINE_TAG = re.compile(r"^\s*\[[^\[\]\n]{1,60}\]\s*$", re.MULTILINE)
_JSON_ROW = re.compile(r"\{\s*(?:\"|\})")
_GENRE = re.compile(r"^\s*\[Genre\]", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One format; a text may hold several songs where the format is made of rows."""

    name: str
    about: str
    capacity: Capacity
    read: Callable[[str, Changes], list[Document]]
    write: Callable[[Document, str], str]  # takes the song's name, too
    suffix: str = ".txt"


def _read_one(text: str, changes: Changes) -> list[Document]:
    return [read_text(text, changes)]


def _songbloom(name: str, seconds_per_tag: float) -> Format:
    return Format(
        name=name,
        about=f"SongBloom, one [intro], [inst], [outro] for {seconds_per_tag:g} s",
        capacity=Capacity(
            stanzas=False,
            adlibs=False,
            strict=True,
            split_text=split_songbloom,
            round_duration=partial(round_to_tags, seconds_per_tag),
            assumed_duration_s=ASSUMED_TAGS * seconds_per_tag,
        ),
        read=lambda text, changes: [read_songbloom(text, seconds_per_tag, changes)],
        write=lambda document, _: write_songbloom(document, seconds_per_tag),
    )


_TAGGED = Capacity(names=True, descriptions=True)
FORMATS = {
    form.name: form
    for form in (
        _songbloom("songbloom", 1.0),
        _songbloom("songbloom-5s", 5.0),
        Format(
            name="yue",
            about="YuE: [verse] and lines, a [Genre] line",
            capacity=Capacity(labels=_YUE_LABELS, stanzas=False, style=True),
            read=_read_one,
            write=lambda document, _: tagged.write_yue(document),
        ),
        Format(
            name="ace-step",
            about="ACE-Step 1.5: [Verse 1 - whispered] and lines",
            capacity=_TAGGED,
            read=_read_one,
            write=lambda document, _: tagged.write_tagged(document),
        ),
        Format(
            name="suno",
            about="Suno: [Verse 1] and lines; what any tagged text is taken for",
            capacity=_TAGGED,
            read=_read_one,
            write=lambda document, _: tagged.write_tagged(document),
        ),
        Format(
            name="diffrhythm",
            about="DiffRhythm: [mm:ss.xx]line and nothing else; needs times",
            capacity=Capacity(labels=(), stanzas=False, adlibs=False, times="lines", needs_times=True),
            read=_read_one,
            write=lambda document, _: tagged.write_diffrhythm(document),
            suffix=".lrc",
        ),
        Format(
            name="songgeneration",
            about="SongGeneration v2 (LeVo): [intro-short] ; [verse] One. Two. ; in JSON lines",
            capacity=Capacity(
                labels=_YUE_LABELS,
                stanzas=False,
                style=True,
                adlibs=False,
                strict=True,
                split_text=split_sentences,
                round_duration=round_to_class,
                assumed_duration_s=SHORT_S,
            ),
            read=read_songgeneration,
            write=write_songgeneration,
            suffix=".jsonl",
        ),
        Format(
            name="muse",
            about="Muse: a chat with a turn per section, in JSON lines",
            capacity=Capacity(stanzas=False, names=True, descriptions=True, style=True),
            read=read_muse,
            write=lambda document, _: write_muse(document),
            suffix=".jsonl",
        ),
        Format(
            name="lrc",
            about="LRC: a stamp per line, section tags as lines of their own",
            capacity=Capacity(names=True, descriptions=True, title=True, times="lines", needs_times=True),
            read=_read_one,
            write=lambda document, _: tagged.write_lrc(document),
            suffix=".lrc",
        ),
        Format(
            name="enhanced-lrc",
            about="LRC with a stamp per word, too",
            capacity=Capacity(names=True, descriptions=True, title=True, times="words", needs_times=True),
            read=_read_one,
            write=lambda document, _: tagged.write_lrc(document),
            suffix=".lrc",
        ),
        Format(
            name="ultrastar",
            about="UltraStar: a freestyle note per word, for karaoke players; needs times",
            capacity=Capacity(labels=(), stanzas=False, title=True, times="words", needs_times=True, karaoke=True),
            read=read_ultrastar,
            write=write_ultrastar,
        ),
        Format(
            name="audacity",
            about="Audacity: a label per line, start and end in seconds; needs times",
            capacity=Capacity(labels=(), stanzas=False, times="lines", needs_times=True, ends=True),
            read=_read_one,
            write=lambda document, _: write_audacity(document),
        ),
        Format(
            name="plain",
            about="the words alone, a blank line between stanzas",
            capacity=Capacity(labels=()),
            read=_read_one,
            write=lambda document, _: tagged.write_plain(document),
        ),
    )
}


def guess_format(text: str) -> str:
    """Return the name of the format that a text is in; anything that no other fits is plain."""
    stripped = text.strip()
    source = read_source(text).format_name
    if source in ("ultrastar", "audacity"):
        return source
    if source not in ("plain", "lrc"):
        return "lrc"  # subtitles, transcripts: lines with times
    if _JSON_ROW.match(stripped):
        return "muse" if '"messages"' in stripped[:4000] else "songgeneration"
    if _SIZED_TAG.search(text) or re.search(r"\S ; \[", text):
        return "songgeneration"
    if not validate(stripped) or re.search(r"\S ,\s+\[", text):
        return "songbloom"
    if len(_LINE_STAMP.findall(text)) > 1:
        return "enhanced-lrc" if re.search(r"<\d{1,3}:\d\d", text) else "lrc"
    tags = [tag.strip() for tag in _LINE_TAG.findall(text)]
    if _GENRE.search(text) or (tags and all(_YUE_TAG.fullmatch(tag) for tag in tags)):
        return "yue"
    return "suno" if tags else "plain"


def convert(document: Document, target: Format, changes: Changes, name: str) -> str:
    """Write a document in a format; what it cannot hold is counted in `changes`."""
    fitted = fit(document, target.capacity, changes)
    if not any(section.lines for section in fitted.sections) and not (target.capacity.labels and fitted.sections):
        raise LyricFormatError("no line to sing is left, and the format has no sections without words")
    return target.write(fitted, name)
