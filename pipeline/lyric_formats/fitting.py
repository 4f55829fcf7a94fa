"""What a format can hold, and cutting a document down to it; whatever goes is counted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.lyric_formats.document import Changes, Document, LyricFormatError, TextLine, TextSection
from pipeline.lyric_formats.headers import comes_back
from pipeline.lyric_formats.tagged import plain_text
from pipeline.lyrics.headers import split_count
from pipeline.lyrics.line_text import HAN, split_adlibs, strip_marks, tidy_line
from pipeline.lyrics.parse import parse_lyrics
from shards.schema import SECTION_LABELS, VOCAL_LABELS

MIN_STANZA_LINES = 2  # on average, for blank lines to be read as borders of stanzas
MAX_READINGS = 4  # until a line comes back as it was written
_ESCAPED = re.compile(r"\\[rnt]")  # what a reader of escaped text takes for a line break
_LEADING = re.compile(r"^(?:[#\s]|\(\d{1,3}:\d\d(?:[.:]\d{1,3})?\))+")  # a heading's sign, what was a stamp
_HAN_GAP = re.compile(rf"(?<={HAN.pattern})\s+(?={HAN.pattern})")


def keep_text(text: str) -> list[str]:
    """Leave a line as it is, but for brackets, which are tags everywhere, and marks that no reader keeps.

    Empty for what a reader takes for a header, a credit, a stamp or anything else than one line to sing.
    """
    text = tidy_line(plain_text(_ESCAPED.sub(" ", text)))
    for _ in range(MAX_READINGS):
        while (stripped := strip_marks(_LEADING.sub("", text))) != text:
            text = stripped
        parsed = parse_lyrics(text, keep_traditional=True, keep_case=True)
        if len(parsed.lines) != 1 or parsed.headers or parsed.dropped or parsed.lines[0].time_s is not None:
            return []
        if parsed.lines[0].full_text == text:
            return [text] if text else []
        text = parsed.lines[0].full_text
    return []


def strip_counts(text: str) -> str:
    """Take "(x2)" off a line that stands once for every time it is sung."""
    for _ in range(MAX_READINGS):
        words, count = split_count(text)
        if count == 1 and words == text:
            break
        text = words
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What one format can hold."""

    labels: tuple[str, ...] = SECTION_LABELS  # empty: no sections at all
    stanzas: bool = True  # sections without a label
    names: bool = False
    descriptions: bool = False
    style: bool = False
    title: bool = False
    adlibs: bool = True
    strict: bool = False  # lines stand in vocal sections only, and these have some
    times: Literal["none", "lines", "words"] = "none"
    needs_times: bool = False
    ends: bool = False  # of lines
    karaoke: bool = False  # a line is its timed words: it starts with the first, and one alone says no more than it
    split_text: Callable[[str], list[str]] = keep_text
    round_duration: Callable[[float], float] | None = None  # of sections without lines; None: not held
    assumed_duration_s: float = 0.0  # of sections without lines that have none


def end_at_next(sections: Sequence[TextSection], end_s: float | None) -> list[TextSection]:
    """Let every section that has a start end where the next one begins."""
    ends = [*(section.start_s for section in sections[1:]), end_s]
    return [
        replace(section, duration_s=round(end - section.start_s, 2))
        if section.start_s is not None and end is not None and end > section.start_s
        else replace(section, duration_s=None)
        for section, end in zip(sections, ends, strict=False)
    ]


def fit(document: Document, capacity: Capacity, changes: Changes) -> Document:
    """Return what of a document a format holds; count the rest in `changes`.

    Raises:
        LyricFormatError: the format lives on times and a line has none.
    """
    holds_duration = capacity.title and capacity.times != "none"
    if document.style and not capacity.style:
        changes.add("style tags", document.style)
    if (document.title or document.artist) and not capacity.title:
        changes.add("title and artist", " - ".join(filter(None, (document.title, document.artist))))
    if document.duration_s is not None and not holds_duration:
        changes.add("duration of the song", f"{document.duration_s:g} s")
    title, artist, style = (_fit_name(text, changes) for text in (document.title, document.artist, document.style))
    sections = list(document.sections) if capacity.stanzas else _join_stanzas(document.sections, changes)
    fitted = [_fit_section(section, capacity, changes) for section in sections]
    sections = [section for section in fitted if section is not None]
    if holds_duration:
        sections = _end_sections(sections, _round(document.duration_s), changes)
    else:
        sections = _fit_durations(sections, capacity, changes)
    if not capacity.labels and not capacity.stanzas:
        lines = tuple(line for section in sections for line in section.lines)
        sections = [TextSection(label=None, lines=lines)]
    if capacity.needs_times:
        _require_times(sections)
    return Document(
        sections=tuple(sections),
        title=title if capacity.title else "",
        artist=artist if capacity.title else "",
        style=style.strip(" .") if capacity.style else "",
        duration_s=_round(document.duration_s) if holds_duration else None,
    )


def _fit_name(text: str, changes: Changes) -> str:
    """Write a title, an artist or a style on one line, without brackets."""
    fitted = plain_text(text)
    if fitted != text:
        changes.add("marks in a title, artist or style", f"{text} -> {fitted}")
    return fitted


def _join_stanzas(sections: Sequence[TextSection], changes: Changes) -> list[TextSection]:
    """Make one stanza of those without a header where blank lines part lines and not stanzas."""
    stanzas = [section for section in sections if section.label is None]
    lines = tuple(line for stanza in stanzas for line in stanza.lines)
    if len(stanzas) < 2 or len(lines) >= MIN_STANZA_LINES * len(stanzas):
        return list(sections)
    changes.add("stanzas of single lines, joined", lines[0].text if lines else "", len(stanzas))
    return [TextSection(label=None, lines=lines), *(section for section in sections if section.label is not None)]


def _fit_section(section: TextSection, capacity: Capacity, changes: Changes) -> TextSection | None:
    """Return a section as the format has it, its duration aside, or None if nothing of it is left."""
    lines = tuple(fitted for line in section.lines for fitted in _fit_line(line, capacity, changes))
    label = _fit_label(section, bool(lines), capacity, changes)
    if label == "":
        return None
    is_same = label == section.label and label is not None
    if section.name and label is not None and not (capacity.names and is_same):
        changes.add("section name", section.name)
    if section.description and not (capacity.descriptions and is_same):
        changes.add("section description", section.description)
    holds_start = capacity.times != "none" and label is not None
    name = plain_text(section.name) if capacity.names and is_same else ""
    description = plain_text(section.description) if capacity.descriptions and is_same else ""
    if description and label and not comes_back(label, name, description):
        changes.add("section description", section.description)
        description = ""
    if name and label and not comes_back(label, name, description):
        changes.add("section name", section.name)
        name = ""
    return TextSection(
        label=label,
        name=name,
        description=description,
        start_s=_round(section.start_s) if holds_start else None,
        duration_s=section.duration_s,
        lines=lines,
    )


def _fit_label(section: TextSection, has_lines: bool, capacity: Capacity, changes: Changes) -> str | None:
    """Return the label that the format writes, None for a stanza, or an empty text where the section must go."""
    label = section.label
    if not has_lines and (label is None or not capacity.labels):
        changes.add("section without words", section.display_name)
        return ""
    if not capacity.labels:
        if label is not None:
            changes.add("section label", section.display_name)
        return None
    if label is None and not capacity.stanzas:
        changes.add("stanza without a header, written as verse", section.lines[0].text)
        return "verse"
    if label is None:
        return None
    if has_lines and (label not in capacity.labels or (capacity.strict and label not in VOCAL_LABELS)):
        changes.add("section with words, written as verse", section.display_name)
        return "verse"
    if not has_lines and label in VOCAL_LABELS:
        if section.duration_s is None or not capacity.strict:
            changes.add("vocal section without words", section.display_name)
            return ""
        changes.add("vocal section without words, written as inst", section.display_name)
        return "inst"
    if label not in capacity.labels:
        changes.add(f"section, this format has no [{label}]", section.display_name)
        return ""
    return label


def _fit_durations(sections: list[TextSection], capacity: Capacity, changes: Changes) -> list[TextSection]:
    """Keep, round or leave out how long sections are; what is too short for a tag goes."""
    round_duration = capacity.round_duration
    if round_duration is None:
        for section in sections:
            if section.duration_s is not None:
                changes.add("section times", f"{section.display_name}: {section.duration_s:.2f} s")
        merged = _merge([replace(section, duration_s=None) for section in sections])
        changes.add("equal neighbours without words, joined", count=len(sections) - len(merged))
        return merged
    known = _merge([_assume_duration(section, capacity, changes) for section in sections])
    for section in known:
        if not section.lines and round_duration(section.duration_s or 0) == 0:
            changes.add("section too short for a tag", f"{section.display_name}: {section.duration_s:.2f} s")
    rounded = []
    for section in _merge([s for s in known if s.lines or round_duration(s.duration_s or 0)]):
        duration_s = None if section.lines else round_duration(section.duration_s or 0)
        if section.duration_s is not None and abs((duration_s or 0) - section.duration_s) > 0.005:
            kind = "section times" if section.lines else "section duration rounded"
            changes.add(kind, f"{section.display_name}: {section.duration_s:.2f} s")
        rounded.append(replace(section, duration_s=duration_s))
    return rounded


def _end_sections(sections: list[TextSection], end_s: float | None, changes: Changes) -> list[TextSection]:
    """Let every section end where the next one starts."""
    merged = _merge(sections)
    changes.add("equal neighbours without words, joined", count=len(sections) - len(merged))
    ended = end_at_next(merged, end_s)
    for before, after in zip(merged, ended, strict=True):
        if before.duration_s is not None and abs(before.duration_s - (after.duration_s or 0)) > 0.005:
            changes.add("section ends where the next one starts", before.display_name)
    return ended


def _assume_duration(section: TextSection, capacity: Capacity, changes: Changes) -> TextSection:
    """Give a section without lines a duration, if it has none."""
    if section.lines or section.duration_s is not None:
        return section
    changes.add(f"section of unknown duration, taken as {capacity.assumed_duration_s:g} s", section.display_name)
    return replace(section, duration_s=capacity.assumed_duration_s)


def _merge(sections: list[TextSection]) -> list[TextSection]:
    """Join neighbours without lines that are called the same."""
    merged: list[TextSection] = []
    for section in sections:
        last = merged[-1] if merged else None
        if last and not last.lines and not section.lines and _call(last) == _call(section):
            known = [part.duration_s for part in (last, section) if part.duration_s is not None]
            merged[-1] = replace(last, duration_s=sum(known) if known else None)
        else:
            merged.append(section)
    return merged


def _fit_line(line: TextLine, capacity: Capacity, changes: Changes) -> list[TextLine]:
    """Return one line as the format has it: none, one, or several phrases."""
    text = strip_counts(line.text)
    if text != line.text:
        changes.add("repeat count in a line", line.text)
    if not capacity.adlibs:
        text, adlibs = split_adlibs(text)
        for adlib in adlibs if text else ():
            changes.add("ad-lib in parentheses", adlib)
        if not text:
            text = ", ".join(adlibs)
            changes.add("line in parentheses, written as sung", line.text)
    texts = capacity.split_text(text)
    if not texts and text:
        changes.add("line that does not read as words to sing", line.text)
    elif len(texts) > 1:
        changes.add("line of several phrases, written as several lines", line.text)
    elif texts and texts[0] != text:
        changes.add("marks in a line", f"{text} -> {texts[0]}")
    words = _fit_words(line, texts, capacity)
    if line.words and not words:
        changes.add("word times", line.text, len(line.words))
    start_s, end_s = _round(line.start_s), _round(line.end_s)
    if capacity.karaoke and words and start_s != words[0][1]:
        changes.add("start of a line, not of its first word", line.text)
        start_s = words[0][1]
    if end_s is not None and not (capacity.ends and start_s is not None and end_s > start_s):
        changes.add("end of a line and of its words", line.text)
        end_s = None
    if capacity.times == "none":
        if line.start_s is not None:
            changes.add("start of a line", line.text)
        return [TextLine(text=part) for part in texts]
    return [TextLine(text=part, start_s=start_s, end_s=end_s, words=words) for part in texts]


def _fit_words(line: TextLine, texts: list[str], capacity: Capacity) -> tuple[tuple[str, float], ...]:
    """Return the words with their times as the format has them; empty if it cannot have them."""
    words = tuple((plain_text(tidy_line(word)), _round(start_s) or 0.0) for word, start_s in line.words)
    if capacity.times != "words" or len(words) < (2 if capacity.karaoke else 1):
        return ()
    if capacity.karaoke and not all(any(char.isalnum() for char in word) for word, _ in words):
        return ()
    spelled = _HAN_GAP.sub("", " ".join(word for word, _ in words))  # as stamped words are read
    return words if texts == [spelled] else ()


def _call(section: TextSection) -> tuple[str | None, str, str]:
    return section.label, section.name, section.description


def _require_times(sections: list[TextSection]) -> None:
    lines = [line for section in sections for line in section.lines]
    untimed = [line.text for line in lines if line.start_s is None]
    if untimed or not lines:
        found = f"{untimed[0]!r} has none ({len(untimed)} of {len(lines)} lines)" if untimed else "there is no line"
        raise LyricFormatError(
            f"this format needs the time of every line, {found}; convert from LRC or from a songs.parquet of "
            "jobs/clean_lyrics.py"
        )


def _round(time_s: float | None) -> float | None:
    """Round to the hundredths that stamps have."""
    return None if time_s is None else round(time_s, 2)
