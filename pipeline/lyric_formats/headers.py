"""Section headers as people write them in tagged lyrics: `[Pre-Chorus 2 - whispered]`, `[Verse 1: Ada Merrow]`."""

import re

from pipeline.lyric_formats.document import DISPLAY_NAMES
from pipeline.lyrics.headers import match_header
from pipeline.lyrics.page import split_line

_HEADER = re.compile(
    r"(?:\s*\[[\d:.]+\])*\s*\[(?P<name>[A-Za-z][^\[\]:–]*?)(?:\s+[-–]\s+(?P<description>[^\[\]]+)|:(?P<performer>[^\[\]]*))?\]"
)


def describe(raw: str, name: str, label: str, number: int | None, *, is_repeat: bool = False) -> tuple[str, str, str]:
    """Return a header's name as it was written, if in Latin letters, else in English; how it sounds; who performs it.

    Args:
        raw: the header's line.
        name: what it stands for, as "prechorus".
        label: its section label.
        number: of "Verse 2".
        is_repeat: the header stands for one written elsewhere.
    """
    plain = DISPLAY_NAMES[name] + (f" {number}" if number else "")
    written = _HEADER.match(raw)
    shown = written["name"].strip() if written else plain
    if shown.lower() in (plain.lower(), label, "start", "end") or is_repeat:
        shown = plain
    description = (written["description"] or "").strip() if written else ""
    performer = (written["performer"] or "").strip() if written else ""
    return "" if shown == DISPLAY_NAMES[label] else shown, description, performer


def comes_back(label: str, name: str, description: str) -> bool:
    """Whether a reader finds exactly this section in the tag that is written for it."""
    raw = f"[{name or DISPLAY_NAMES[label]}{f' - {description}' if description else ''}]"
    header = match_header(raw) if list(split_line(raw)) == [raw] else None
    if header is None or header.rest or header.repeats > 1 or header.label != label:
        return False
    return describe(raw, header.name, header.label, header.number) == (name, description, "")
