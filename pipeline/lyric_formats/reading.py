"""Lyrics files and rows of songs.parquet as documents."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.lyric_formats.document import Changes, Document, TextLine, TextSection
from pipeline.lyric_formats.fitting import end_at_next
from pipeline.lyric_formats.headers import describe
from pipeline.lyric_formats.songbloom import MAX_FRAMES, assign_sections
from pipeline.lyrics.parse import LyricHeader, LyricLine, ParsedLyrics, parse_lyrics
from pipeline.song import Line, Section
from shards.schema import FRAME_RATE_HZ, time_to_frame

_TAG = re.compile(r"^[ \t]*\[(?P<key>ti|ar|length):(?P<value>[^\n]*)\][ \t]*$", re.MULTILINE | re.IGNORECASE)
_ULTRASTAR_TAG = re.compile(r"#(?:TITLE|ARTIST|BPM|GAP|END):.*|E", re.IGNORECASE)
_GENRE = re.compile(r"^[ \t]*\[genre\][ \t]*(?P<style>.*)$", re.MULTILINE | re.IGNORECASE)


def read_text(text: str, changes: Changes) -> Document:
    """Read plain, tagged or stamped lyrics with the project's own reader; all that it drops is counted."""
    genre = _GENRE.search(text)
    text = _GENRE.sub("", text)
    tags = {found["key"].lower(): found["value"].strip() for found in _TAG.finditer(text)}
    parsed = parse_lyrics(text, keep_traditional=True, keep_case=True)
    for drop in parsed.dropped:
        is_tag = (tag := _TAG.fullmatch(drop.text)) is not None and tag["key"].lower() in tags
        is_tag = is_tag or _ULTRASTAR_TAG.fullmatch(drop.text) is not None
        if not is_tag and drop.reason != "repeat":
            changes.add(f"line dropped ({drop.reason})", drop.text)
    for line in parsed.lines:
        if line.edit == "expanded":
            changes.add("repeat written out", line.full_text)
        elif line.full_text not in line.raw and not line.word_times:
            changes.add("line tidied", f"{line.raw} -> {line.full_text}")
    duration_s = _read_length(tags.get("length", ""))
    sections = _gather(parsed, changes)
    return Document(
        sections=tuple(end_at_next(sections, duration_s)),
        title=parsed.title or tags.get("ti", ""),
        artist=parsed.artist or tags.get("ar", ""),
        style=genre["style"].strip() if genre else "",
        duration_s=duration_s,
    )


def read_row(row: Mapping[str, Any]) -> Document:
    """Read one row of songs.parquet, with its measured times and sections."""
    spans = [Section(section["label"], section["start_s"], section["end_s"]) for section in row["sections"]]
    lines = [
        Line(line["text"], line["start_s"], line["end_s"], line["section"], line["score"], line["source"], line["edit"])
        for line in row["lines"]
    ]
    words: dict[int, list[tuple[str, float]]] = {}
    for word in row["words"]:
        words.setdefault(word["line"], []).append((word["text"], word["start_s"]))
    under: dict[int, list[TextLine]] = {}
    for number, (index, line) in enumerate(zip(assign_sections(spans, lines), lines, strict=True)):
        text_line = TextLine(text=line.text, start_s=line.start_s, end_s=line.end_s, words=tuple(words.get(number, ())))
        under.setdefault(index, []).append(text_line)
    return Document(
        sections=tuple(
            TextSection(
                label=span.label,
                start_s=span.start_s,
                duration_s=_count_frames(span) / FRAME_RATE_HZ,
                lines=tuple(under.get(index, ())),
            )
            for index, span in enumerate(spans)
        ),
        title=row.get("title") or "",
        artist=row.get("artist") or "",
        duration_s=row["duration_s"],
    )


def _count_frames(span: Section) -> int:
    return time_to_frame(span.end_s, MAX_FRAMES) - time_to_frame(span.start_s, MAX_FRAMES)


def document_of(parsed: ParsedLyrics) -> Document:
    """Return parsed lyrics as a document, ad-libs left out."""
    return Document(sections=tuple(_gather(parsed, Changes(), with_adlibs=False)))


def _gather(parsed: ParsedLyrics, changes: Changes, *, with_adlibs: bool = True) -> list[TextSection]:
    """Make a section of every header, and of every stanza before the first one."""
    stanzas: dict[int, list[TextLine]] = {}
    under: dict[int, list[TextLine]] = {}
    for line in parsed.lines:
        text_line = _make_line(line) if with_adlibs else TextLine(text=line.text)
        if line.section_index < 0:
            stanzas.setdefault(line.stanza, []).append(text_line)
        else:
            under.setdefault(line.section_index, []).append(text_line)
    sections = [TextSection(label=None, lines=tuple(lines)) for lines in stanzas.values()]
    for index, header in enumerate(parsed.headers):
        name, description = _describe(header, changes)
        lines = under.get(index, [])
        start_s = header.time_s if header.time_s is not None or not lines else lines[0].start_s
        sections.append(
            TextSection(label=header.label, name=name, description=description, start_s=start_s, lines=tuple(lines))
        )
    return sections


def _make_line(line: LyricLine) -> TextLine:
    agrees = "".join("".join(word for word, _ in line.word_times).split()) == "".join(line.full_text.split())
    words = line.word_times if agrees and line.edit == "kept" else ()
    return TextLine(text=line.full_text, start_s=line.time_s, end_s=line.end_s, words=words)


def _describe(header: LyricHeader, changes: Changes) -> tuple[str, str]:
    """Return the name of a header and how it sounds; performers are counted and left out."""
    name, description, performer = describe(
        header.raw, header.name, header.label, header.number, is_repeat=header.edit == "expanded"
    )
    if performer:
        changes.add("performer in a header", header.raw)
    return name, description


def _read_length(value: str) -> float | None:
    found = re.fullmatch(r"\s*(\d{1,3}):(\d{1,2}(?:\.\d{1,3})?)\s*", value)
    return round(int(found[1]) * 60 + float(found[2]), 3) if found else None
