"""Formats of karaoke players and audio editors: UltraStar (a syllable a note) and Audacity's labels."""

import re
from collections.abc import Iterator
from dataclasses import replace

from pipeline.lyric_formats.document import Changes, Document, TextLine
from pipeline.lyric_formats.reading import read_text

# Source: the UltraStar format, usdx.eu/format: a beat lasts 15 s / #BPM. At 1500 it is a hundredth of a second, which
# is as fine as a document's times.
BPM = 1500
_END_TAG = re.compile(r"^#END:(?P<ms>\d{1,8})\s*$", re.MULTILINE | re.IGNORECASE)
LAST_NOTE_BEATS = 100  # of a word that nothing ends: a second


def write_ultrastar(document: Document, name: str) -> str:
    """Write notes without pitch (freestyle): nobody measured one. Players also want #MP3, and #TITLE and #ARTIST."""
    out = [f"#{key}:{value}" for key, value in (("TITLE", document.title), ("ARTIST", document.artist)) if value]
    out += [f"#BPM:{BPM}", "#GAP:0"]
    out += [] if document.duration_s is None else [f"#END:{round(document.duration_s * 1000)}"]
    lines = [line for section in document.sections for line in section.lines]
    ends = [*(line.start_s for line in lines[1:]), document.duration_s]
    for index, (line, end_s) in enumerate(zip(lines, ends, strict=True)):
        notes = list(_write_notes(line, end_s))
        out += [f"- {_count_beats(line.start_s or 0.0)}"] if index else []
        out += notes
    return "\n".join([*out, "E"]) + "\n"


def _write_notes(line: TextLine, end_s: float | None) -> Iterator[str]:
    words = line.words or ((line.text, line.start_s or 0.0),)
    starts = [_count_beats(start_s) for _, start_s in words]
    last = _count_beats(end_s) if end_s is not None else starts[-1] + LAST_NOTE_BEATS
    ends = [*starts[1:], min(last, starts[-1] + LAST_NOTE_BEATS)]
    for index, ((word, _), start, end) in enumerate(zip(words, starts, ends, strict=True)):
        yield f"F {start} {max(end - start, 1)} 0 {' ' if index else ''}{word}"


def _count_beats(time_s: float) -> int:
    return round(time_s * BPM / 15)


def read_ultrastar(text: str, changes: Changes) -> list[Document]:
    """Read a song; the ends of its lines are left out, as every note has one and few mean it."""
    document = read_text(text, changes)
    end = _END_TAG.search(text)
    sections = tuple(
        replace(section, lines=tuple(replace(line, end_s=None) for line in section.lines))
        for section in document.sections
    )
    return [replace(document, sections=sections, duration_s=int(end["ms"]) / 1000 if end else None)]


def write_audacity(document: Document) -> str:
    """Write a label track: start and end in seconds, the words; a line without an end is a point."""
    lines = [line for section in document.sections for line in section.lines]
    return "".join(
        f"{line.start_s or 0.0:.6f}\t{line.end_s if line.end_s is not None else line.start_s or 0.0:.6f}\t{line.text}\n"
        for line in lines
    )
