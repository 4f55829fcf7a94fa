"""Formats of one line of text per sung line: plain, with section tags (Suno, ACE-Step, YuE), or stamped (LRC)."""

import re
from collections.abc import Callable, Iterator

from pipeline.lyric_formats.document import Document, TextLine, TextSection

_BRACKETS = str.maketrans("[]", "()")
_STAMP = re.compile(r"<(\d{1,3}:[\d:.]*)>")


def write_plain(document: Document) -> str:
    """Write stanzas with blank lines between."""
    return "\n\n".join("\n".join(line.text for line in section.lines) for section in document.sections) + "\n"


def write_tagged(document: Document) -> str:
    """Write tags for people, as Suno and ACE-Step take them: `[Verse 1 - whispered]`, lines, a blank line."""
    return _write_sections(document, lambda section: section.display_name)


def write_yue(document: Document) -> str:
    """Write YuE's tags (one word in small letters), after its genre line if there is a style."""
    genre = f"[Genre] {document.style}\n\n" if document.style else ""
    return genre + _write_sections(document, lambda section: section.label or "verse")


def _write_sections(document: Document, name: Callable[[TextSection], str]) -> str:
    blocks = []
    for section in document.sections:
        manner = f" - {section.description}" if section.description else ""
        head = [] if section.label is None else [f"[{name(section)}{manner}]"]
        blocks.append("\n".join([*head, *(line.text for line in section.lines)]))
    return "\n\n".join(blocks) + "\n"


def write_lrc(document: Document) -> str:
    """Write LRC: title, artist and length, stamped section tags, stamped lines with word stamps where there are any."""
    tags = [("ti", document.title), ("ar", document.artist)]
    out = [f"[{key}:{plain_text(value)}]" for key, value in tags if value]
    out += [] if document.duration_s is None else [f"[length:{stamp(document.duration_s)}]"]
    for section in document.sections:
        out += _write_stamped(section) if section.label else ["", *(_write_line(line) for line in section.lines)]
    return "\n".join(out).lstrip("\n") + "\n"


def _write_stamped(section: TextSection) -> Iterator[str]:
    manner = f" - {section.description}" if section.description else ""
    start = "" if section.start_s is None else f"[{stamp(section.start_s)}]"
    yield f"{start}[{section.display_name}{manner}]"
    yield from map(_write_line, section.lines)


def _write_line(line: TextLine) -> str:
    words = " ".join(f"<{stamp(start_s)}>{plain_text(word)}" for word, start_s in line.words)
    return ("" if line.start_s is None else f"[{stamp(line.start_s)}]") + (words or plain_text(line.text))


def write_diffrhythm(document: Document) -> str:
    """Write what DiffRhythm cuts at fixed columns: `[mm:ss.xx]line`, nothing else, in the order of time."""
    lines = sorted(
        (line for section in document.sections for line in section.lines), key=lambda line: line.start_s or 0.0
    )
    return "\n".join(f"[{stamp(line.start_s or 0.0)}]{plain_text(line.text)}" for line in lines) + "\n"


def stamp(time_s: float) -> str:
    """Return seconds as LRC has them: `mm:ss.xx`."""
    centis = round(time_s * 100)
    return f"{centis // 6000:02d}:{centis // 100 % 60:02d}.{centis % 100:02d}"


def plain_text(text: str) -> str:
    """Return text that LRC cannot take for a stamp, a tag or another line: `[1:23]` becomes `(1:23)`."""
    one_line = " ".join(text.split())
    return _STAMP.sub(r"(\1)", one_line.translate(_BRACKETS))
