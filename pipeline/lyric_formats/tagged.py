"""Formats of one line of text per sung line: plain, with section tags (Suno, ACE-Step, YuE), or stamped (LRC)."""

from collections.abc import Callable, Iterator

from pipeline.lyric_formats.document import Document, TextLine, TextSection


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
    out = [f"[{key}:{value}]" for key, value in tags if value]
    out += [] if document.duration_s is None else [f"[length:{_stamp(document.duration_s)}]"]
    for section in document.sections:
        out += _write_stamped(section) if section.label else ["", *(_write_line(line) for line in section.lines)]
    return "\n".join(out).lstrip("\n") + "\n"


def _write_stamped(section: TextSection) -> Iterator[str]:
    manner = f" - {section.description}" if section.description else ""
    start = "" if section.start_s is None else f"[{_stamp(section.start_s)}]"
    yield f"{start}[{section.display_name}{manner}]"
    yield from map(_write_line, section.lines)


def _write_line(line: TextLine) -> str:
    words = " ".join(f"<{_stamp(start_s)}>{word}" for word, start_s in line.words)
    return ("" if line.start_s is None else f"[{_stamp(line.start_s)}]") + (words or line.text)


def write_diffrhythm(document: Document) -> str:
    """Write what DiffRhythm cuts at fixed columns: `[mm:ss.xx]line`, nothing else, in the order of time."""
    lines = sorted(
        (line for section in document.sections for line in section.lines), key=lambda line: line.start_s or 0.0
    )
    return "\n".join(f"[{_stamp(line.start_s or 0.0)}]{line.text}" for line in lines) + "\n"


def _stamp(time_s: float) -> str:
    centis = round(time_s * 100)
    return f"{centis // 6000:02d}:{centis // 100 % 60:02d}.{centis % 100:02d}"
