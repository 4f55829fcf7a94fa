"""Which format a lyrics file is in, by its content, and its lines with their times."""

import re

from pipeline.lyrics.cues import read_ass, read_cues, read_sami
from pipeline.lyrics.frames import read_frames, read_transcript
from pipeline.lyrics.json_files import read_json
from pipeline.lyrics.stamps import SourceText, find_offset, read_stamps
from pipeline.lyrics.tables import read_table
from pipeline.lyrics.ultrastar import read_ultrastar
from pipeline.lyrics.xml_files import read_xml

MAX_WRAPPERS = 3  # JSON in JSON

# A tag's value may hold brackets of its own: "[ti:Night Walk [Live]]".
NAME_TAG = re.compile(r"^[ \t]*\[(?P<key>ti|ar|la|lang|language)[ \t]*:(?P<value>[^\n]*)\][ \t]*$", re.M | re.I)


def read_source(text: str, depth: int = 0) -> SourceText:
    """Return the lines of a lyrics file in any format that is known; what is none of them is plain text or LRC."""
    if depth < MAX_WRAPPERS:
        start = text.lstrip()[:1]
        found = None
        if start in ("{", "["):
            found = read_json(text, lambda inner: read_source(inner, depth + 1))
        elif start == "<":
            found = read_xml(text, lambda inner: read_source(inner, depth + 1)) or read_sami(text)
        elif start == "#":
            found = read_ultrastar(text)
        found = found or read_ass(text) or read_cues(text) or read_table(text) or read_frames(text)
        found = found or read_transcript(text)
        if found is not None:
            return found
    lines = list(read_stamps(text))
    tags = {tag["key"].lower(): tag["value"].strip() for tag in NAME_TAG.finditer(text)} if "[" in text else {}
    is_timed = any(line.times_s for line in lines)
    return SourceText(
        format_name="lrc" if is_timed else "plain",
        lines=lines,
        offset_s=find_offset(text) if is_timed else 0.0,
        title=tags.get("ti", ""),
        artist=tags.get("ar", ""),
        language=tags.get("la", tags.get("lang", tags.get("language", ""))),
    )
