"""SongBloom's lyric format: writing it from timed lines and sections, and saying what is wrong with a text.

`[intro] [intro] , [verse] One line. Another line , [chorus] ...`: sections joined by " , "; a vocal section is its tag
and its lines with periods between; any other is its tag alone, once for every `seconds_per_tag`. The grammar is that of
the released models' format page; shards.vocabulary.compose_lyric_ids writes the same as ids.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.lyrics.line_text import HAN
from pipeline.song import Line, Section
from shards.schema import FRAME_RATE_HZ, SECTION_LABELS, VOCAL_LABELS, time_to_frame
from shards.vocabulary import count_tags

_STOPS = re.compile(
    r"[.,!?;:…~/|，。！？；：、～·—–]+|\s-+\s|\.{2,}"
)  # each ends a phrase; the format knows periods only
_SPOKEN = (  # marks that are read aloud
    (re.compile(r"(?<=\d)[,，](?=\d{3}\b)"), ""),  # 1,000
    (re.compile(r"(?<=\d)[.．](?=\d)"), " point "),
    (re.compile(r"\b(?:[A-Za-z]\.){2,}"), lambda match: match[0].replace(".", " ")),  # U.S.A.
    (re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|feat)\.", re.IGNORECASE), r"\1"),
    (re.compile(r"[$€£]\s?(\d+)"), r"\1"),
    (re.compile(r"(?<=\d)\s?%"), " percent"),
    (re.compile(r"(?<=[A-Za-z\s])&(?=[A-Za-z\s])"), " and "),
)
_KEPT_MARKS = " .'-"
_HAN_GAP = re.compile(rf"(?<={HAN.pattern})\s+(?={HAN.pattern})")
_TAG = re.compile(r"\[[^\[\]\s]*\]")
MAX_FRAMES = 10_000_000  # 111 hours: no limit here, the caller knows the duration


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One section as written: its label, its length, its cleaned lines."""

    label: str
    num_frames: int
    texts: tuple[str, ...]


def format_lyrics(
    sections: Sequence[Section], lines: Sequence[Line], *, seconds_per_tag: float = 1.0, min_gap_s: float = 0.0
) -> str:
    """Write timed lyrics in SongBloom's format.

    The tag follows what is sung: a vocal section without lines is written as inst, another section with lines as verse.
    Neighbours without lines and with one label are one section.

    Args:
        sections: in time order.
        lines: in sung order.
        seconds_per_tag: 1 for the released 150 s models, 5 for the 240 s model.
        min_gap_s: sections without lines that are shorter are left out; tags are rounded, so 0 leaves out what is under
            half a tag.
    """
    texts: list[list[str]] = [[] for _ in sections]
    for index, line in zip(assign_sections(sections, lines), lines, strict=True):
        if cleaned := clean_line(line.text):
            texts[index].append(cleaned)
    parts = [_make_part(section, tuple(sung)) for section, sung in zip(sections, texts, strict=True)]
    parts = [part for part in _merge_parts(parts) if part.texts or _is_written(part, seconds_per_tag, min_gap_s)]
    return " , ".join(_write_part(part, seconds_per_tag) for part in _merge_parts(parts))


def assign_sections(sections: Sequence[Section], lines: Sequence[Line]) -> list[int]:
    """Return for each line the index of the section that holds its middle, else of the nearest one."""
    if lines and not sections:
        raise ValueError(f"{len(lines)} lines but no sections; label the sections first")
    indices: list[int] = []
    for line in lines:
        middle_s = (line.start_s + line.end_s) / 2
        gaps = [max(section.start_s - middle_s, middle_s - section.end_s, 0.0) for section in sections]
        best = min(gaps)
        indices.append(max(index for index, gap in enumerate(gaps) if gap == best))
    return indices


def clean_line(text: str) -> str:
    """Write one line so that it cannot break the format: words, apostrophes, hyphens; periods between phrases."""
    text = text.replace("’", "'").replace("‘", "'").replace("＇", "'")
    for pattern, spoken in _SPOKEN:
        text = pattern.sub(spoken, text)
    text = "".join(char if _is_kept(char) else " " for char in _STOPS.sub(".", text))
    text = re.sub(r"(?<!\w)'(\w+(?:['-]\w+)*)'(?!\w)", r"\1", text)  # a quoted word, not a dropped letter
    text = re.sub(r"(?<!\w)['-]+(?!\w)", " ", text)  # loose quotes and dashes
    text = _HAN_GAP.sub(".", text.strip())
    phrases = [" ".join(phrase.split()) for phrase in text.split(".")]
    return join_phrases([phrase for phrase in phrases if any(char.isalnum() for char in phrase)])


def _is_kept(char: str) -> bool:
    return char.isalnum() or char in _KEPT_MARKS or unicodedata.category(char).startswith("M")


def join_phrases(phrases: Sequence[str]) -> str:
    """Join phrases or lines with periods, and a blank where the next one is not Chinese."""
    joined = ""
    for phrase in phrases:
        glue = "" if not joined else "." if HAN.match(phrase) else ". "
        joined += glue + phrase
    return joined


def validate(text: str) -> list[str]:
    """Return what is wrong with lyrics in SongBloom's format, each with its section; empty if nothing is."""
    if not text.strip():
        return ["the lyrics are empty; expected at least one section such as [inst]"]
    problems: list[str] = []
    if re.search(r"[\n\r\t]", text):
        problems.append("line breaks or tabs; expected single blanks (a newline is read as a period or glued to a tag)")
    if text != text.strip() or re.search(r" {2,}", text):
        problems.append("extra blanks; each one is read as an empty symbol")
    before: tuple[str, bool] | None = None
    for number, section in enumerate(re.split(r"(?:^|\s),(?=\s|$)", text), start=1):
        label, has_text, found = _check_section(section.strip(), number)
        problems += found
        if label is not None and before == (label, False) and not has_text:
            problems.append(f"section {number}: [{label}] again after [{label}]; write one section with more tags")
        before = (label, has_text) if label is not None else None
    return problems


def _check_section(section: str, number: int) -> tuple[str | None, bool, list[str]]:
    """Return the label of one section, whether it has text, and its problems."""
    where = f"section {number}"
    if not section:
        return None, False, [f"{where}: nothing between commas, or a comma at the end"]
    chunks = section.split()
    tags = [chunk for chunk in chunks if chunk.startswith("[") and chunk.endswith("]")]
    words = [chunk for chunk in chunks if chunk not in tags]
    problems = [
        f"{where}: unknown tag {tag}; expected one of {_list_tags()}"
        for tag in {*tags}
        if tag[1:-1] not in SECTION_LABELS
    ]
    problems += [
        f"{where}: {word!r} glues a tag to text; put blanks around tags" for word in words if _TAG.search(word)
    ]
    stray = {char for word in words for char in word if char in ",，;；[]【】" and not _TAG.search(word)}
    problems += [
        f"{where}: {char!r} in the text; only blanks, words and periods belong there" for char in sorted(stray)
    ]
    if not tags or chunks[0] != tags[0]:
        return None, bool(words), [*problems, f"{where}: text before the tag; a section begins with its tag"]
    label = tags[0][1:-1]
    if len({*tags}) > 1:
        problems.append(f"{where}: several tags ({', '.join(tags)}); put ' , ' between sections")
    if label in VOCAL_LABELS and not words:
        problems.append(f"{where}: [{label}] has no text; a sung section needs some, else it is [inst]")
    if label in VOCAL_LABELS and len(tags) > 1:
        problems.append(f"{where}: [{label}] stands {len(tags)} times; only sections without text repeat their tag")
    if label in SECTION_LABELS and label not in VOCAL_LABELS and words:
        problems.append(f"{where}: [{label}] has text; only {_list_tags(VOCAL_LABELS)} do")
    return label, bool(words), problems


def _list_tags(labels: Sequence[str] = SECTION_LABELS) -> str:
    return ", ".join(f"[{label}]" for label in labels)


def _make_part(section: Section, texts: tuple[str, ...]) -> _Part:
    end_frame = time_to_frame(section.end_s, MAX_FRAMES)
    num_frames = end_frame - time_to_frame(section.start_s, MAX_FRAMES)
    is_vocal = section.label in VOCAL_LABELS
    if texts:
        return _Part(label=section.label if is_vocal else "verse", num_frames=num_frames, texts=texts)
    return _Part(label="inst" if is_vocal else section.label, num_frames=num_frames, texts=())


def _merge_parts(parts: Sequence[_Part]) -> list[_Part]:
    merged: list[_Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last is not None and not last.texts and not part.texts and last.label == part.label:
            merged[-1] = _Part(label=part.label, num_frames=last.num_frames + part.num_frames, texts=())
        else:
            merged.append(part)
    return merged


def _is_written(part: _Part, seconds_per_tag: float, min_gap_s: float) -> bool:
    return part.num_frames >= min_gap_s * FRAME_RATE_HZ and count_tags(part.num_frames, seconds_per_tag) > 0


def _write_part(part: _Part, seconds_per_tag: float) -> str:
    if part.texts:
        return f"[{part.label}] {join_phrases(part.texts)}"
    return " ".join([f"[{part.label}]"] * count_tags(part.num_frames, seconds_per_tag))
