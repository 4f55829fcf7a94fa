"""Formats that write a song on one line: SongBloom's and SongGeneration's.

SongBloom: `[intro] [intro] , [verse] One. Two , ...`, a tag without words for every second (or every five).
SongGeneration v2: `[intro-short] ; [verse] One. Two. ; ...`, durations in two classes; in JSON lines as `gt_lyric`.
"""

import json
import re
from collections.abc import Sequence
from itertools import groupby

from pipeline.lyric_formats.document import Changes, Document, LyricFormatError, TextLine, TextSection
from pipeline.lyric_formats.songbloom import clean_line, join_phrases
from pipeline.lyrics.headers import match_header
from pipeline.lyrics.line_text import HAN
from shards.schema import FRAME_RATE_HZ, SECTION_LABELS
from shards.vocabulary import count_tags

# Source: SongGeneration's input guide: short is 0 to 10 s, medium 10 to 20 s; longer is not documented.
SHORT_S, MEDIUM_S, LIMIT_S = 5.0, 15.0, 10.0  # what a class stands for here, and what divides them
_SECTION_BREAK = re.compile(r"(?:^|\s),(?=\s|$)|\n+|,\s*(?=\[)")
_TAGS = re.compile(r"\s*\[([^\[\]]*)\]")
_DURATION_CLASS = re.compile(r"(?P<label>\w+)-(?P<length>short|medium|long)")
_SENTENCE_END = re.compile(r"[.!?;:…。！？；：]+")
_FULL_WIDTH = str.maketrans({code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {"、": ",", "“": "", "”": ""})


def split_songbloom(text: str) -> list[str]:
    """Split a line into the phrases that SongBloom's format parts by periods."""
    return [phrase.strip() for phrase in clean_line(text).split(".") if phrase.strip()]


def round_to_tags(seconds_per_tag: float, duration_s: float) -> float:
    """Return how long the tags for a duration stand for; 0 if there is none."""
    return count_tags(round(duration_s * FRAME_RATE_HZ), seconds_per_tag) * seconds_per_tag


def write_songbloom(document: Document, seconds_per_tag: float) -> str:
    """Write a document that was fitted to the format."""
    parts = []
    for section in document.sections:
        if section.lines:
            parts.append(f"[{section.label}] {join_phrases([line.text for line in section.lines])}")
        else:
            num_tags = round((section.duration_s or 0) / seconds_per_tag)
            parts.append(" ".join([f"[{section.label}]"] * num_tags))
    return " , ".join(parts) + "\n"


def read_songbloom(text: str, seconds_per_tag: float, changes: Changes) -> Document:
    """Read SongBloom's format, faults in it (see songbloom_format.validate) included."""
    sections: list[TextSection] = []
    for part in _SECTION_BREAK.split(text):
        labels, position = [], 0
        while tag := _TAGS.match(part, position):
            labels.append(_read_label(tag[1], changes))
            position = tag.end()
        phrases = [phrase.strip() for phrase in re.split(r"[.。]", part[position:]) if phrase.strip(" ,")]
        runs = [(label, len(list(run))) for label, run in groupby(labels)]
        if phrases:
            lines = tuple(TextLine(text=phrase) for phrase in phrases)
            label = runs.pop()[0] if runs else None
            sections += [_tagged(*run, seconds_per_tag) for run in runs] + [TextSection(label=label, lines=lines)]
        else:
            sections += [_tagged(*run, seconds_per_tag) for run in runs]
    if not sections:
        raise LyricFormatError("no section in it; SongBloom's format reads [verse] Words. More words , [inst] [inst]")
    return Document(sections=tuple(sections))


def _tagged(label: str, num_tags: int, seconds_per_tag: float) -> TextSection:
    return TextSection(label=label, duration_s=num_tags * seconds_per_tag)


def _read_label(name: str, changes: Changes) -> str:
    label = name.strip()
    if label in SECTION_LABELS:
        return label
    header = match_header(f"[{label}]")
    changes.add("unknown tag", f"[{label}] read as [{header.label if header else 'verse'}]")
    return header.label if header else "verse"


def split_sentences(text: str) -> list[str]:
    """Split a line as SongGeneration wants it: half-width marks, a period between sentences, no other stops."""
    text = text.translate(_FULL_WIDTH).replace('"', "")
    text = re.sub(r"[\[\]()]", " ", text)
    parts = re.split(r"[.!?;:…。,]+", text) if HAN.search(text) else _SENTENCE_END.split(text)
    return [sentence for part in parts if (sentence := " ".join(part.split()).strip(" ,"))]


def round_to_class(duration_s: float) -> float:
    """Return what stands for the duration class."""
    return SHORT_S if duration_s < LIMIT_S else MEDIUM_S


def write_songgeneration(document: Document, name: str) -> str:
    """Write a fitted document as one row of JSON lines."""
    row = {"idx": name, "gt_lyric": " ; ".join(_write_section(section) for section in document.sections)}
    if document.style:
        row["descriptions"] = document.style
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write_section(section: TextSection) -> str:
    if not section.lines:
        return f"[{section.label}-{'short' if (section.duration_s or 0) < LIMIT_S else 'medium'}]"
    words = join_phrases([line.text for line in section.lines])
    return f"[{section.label}] {words}" + ("" if HAN.search(words[-1]) else ".")  # Chinese blocks end without one


def read_songgeneration(text: str, changes: Changes) -> list[Document]:
    """Read JSON lines, or the text of one `gt_lyric`."""
    if not text.lstrip().startswith("{"):
        return [_read_lyric(text, "", changes)]
    return [
        _read_lyric(str(row.get("gt_lyric", "")), str(row.get("descriptions", "")), changes)
        for row in read_json_lines(text)
    ]


def _read_lyric(text: str, style: str, changes: Changes) -> Document:
    sections = []
    for part in text.split(";"):
        tag = _TAGS.match(part)
        if tag is None:
            if part.strip():
                changes.add("text without a tag", part.strip())
            continue
        sized = _DURATION_CLASS.fullmatch(tag[1].strip())
        phrases = [phrase.strip() for phrase in part[tag.end() :].split(".") if phrase.strip()]
        sections.append(
            TextSection(
                label=_read_label(sized["label"] if sized else tag[1], changes),
                duration_s={"short": SHORT_S, "medium": MEDIUM_S, "long": 2 * MEDIUM_S}[sized["length"]]
                if sized
                else None,
                lines=tuple(TextLine(text=phrase) for phrase in phrases),
            )
        )
    if not sections:
        raise LyricFormatError(
            "no section in it; SongGeneration reads [intro-short] ; [verse] Words. More words. ; ..."
        )
    return Document(sections=tuple(sections), style=style)


def read_json_lines(text: str) -> Sequence[dict[str, object]]:
    """Read one JSON object per line."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LyricFormatError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise LyricFormatError(f"line {number} is {type(row).__name__}, expected an object such as {{...}}")
        rows.append(row)
    return rows
