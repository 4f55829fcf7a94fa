"""The 330 symbols of the released SongBloom vocabulary, and the ids of its lyric format.

Id 0 is the empty string (padding and null), ids 1 to 7 are the section tags, the rest are sorted by code point.
The set is the union of five groups, most of them named by GPT-SoVITS; the Japanese ones are never produced.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shards.schema import FRAME_RATE_HZ, SECTION_LABELS, VOCAL_LABELS, ShardError

_PAUSES = "! , - . ? … SP SP2 SP3 UNK _".split()
_ARPABET_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
_ARPABET_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()  # each with stress 0, 1 and 2
_ARPABET_UNSTRESSED = ["ER", "IH"]
_MANDARIN_INITIALS = "AA EE OO b c ch d f g h j k l m n p q r s sh t w x y z zh".split()
_MANDARIN_FINALS = (  # each with tones 1 to 4 and 5, the neutral one
    "E En a ai an ang ao e ei en eng er i i0 ia ian iang iao ie in ing iong ir iu o ong ou"
    " u ua uai uan uang ui un uo v van ve vn"
).split()
_JAPANESE = "I U a by cl dy e gy hy i ky my ny o py ry ts u v".split()

PAD_ID = 0
TAG_IDS = {label: number for number, label in enumerate(SECTION_LABELS, start=1)}

SYMBOLS: tuple[str, ...] = (
    "",
    *(f"[{label}]" for label in SECTION_LABELS),
    *sorted(
        {
            *_PAUSES,
            *_ARPABET_CONSONANTS,
            *(vowel + stress for vowel in _ARPABET_VOWELS for stress in "012"),
            *_ARPABET_UNSTRESSED,
            *_MANDARIN_INITIALS,
            *(final + tone for final in _MANDARIN_FINALS for tone in "12345"),
            *_JAPANESE,
        }
    ),
)
assert len(SYMBOLS) == 330, "the released embedding table has 330 rows"

COMMA_ID = SYMBOLS.index(",")  # between sections
PERIOD_ID = SYMBOLS.index(".")  # between the lines of a section

# One section of the composed lyrics: its label, its frames inside the span, and the ids of its lines.
_Part = tuple[str, int, list[list[int]]]


def count_tags(num_frames: int, seconds_per_tag: float) -> int:
    """Return how often the tag of a section without lyrics is written: its duration in tags, halves rounded up.

    Source: 1 s per tag in the released 150 s models, 5 s in the 240 s model (SongBloom's lyric format page).
    Zero means that the section is too short to be written at all, which the format allows.
    """
    if not seconds_per_tag > 0:
        raise ValueError(f"seconds_per_tag is {seconds_per_tag}, expected more than 0; the released models use 1 or 5")
    return int(num_frames / (FRAME_RATE_HZ * seconds_per_tag) + 0.5)


def compose_lyric_ids(
    sections: Sequence[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    *,
    start_frame: int,
    end_frame: int,
    seconds_per_tag: float,
) -> list[int]:
    """Return the ids of SongBloom's lyric format for frames [start_frame, end_frame) of a song.

    A sung section is its tag and its lines, with a period between lines; any other section is its tag, repeated
    by the duration inside the span; a comma stands between sections. A line is in the span if its midpoint is;
    a line without frames (lyrics as found) is in every span. The tag follows what is sung: a vocal section
    without lines in the span is written as inst, any other section with lines as verse, since the released
    format allows neither. Equal neighbours without lyrics are one section.

    Args:
        sections: the `sections` of a sample's metadata.
        lines: the `lines` of a sample's metadata.
        start_frame: first frame of the span.
        end_frame: first frame after the span.
        seconds_per_tag: duration that one tag stands for.

    Returns:
        ids below 330; empty if nothing is sung and every section is too short for a tag.

    Raises:
        ShardError: a line names a section that does not exist.
    """
    if not 0 <= start_frame < end_frame:
        raise ValueError(f"span {start_frame}..{end_frame} is empty; expected 0 <= start_frame < end_frame")
    section_lines = _select_lines(len(sections), lines, start_frame, end_frame)
    parts: list[_Part] = []
    for section, sung in zip(sections, section_lines, strict=True):
        clipped = min(section["end_frame"], end_frame) - max(section["start_frame"], start_frame)
        if clipped > 0 or sung:
            parts.append((_choose_label(section["label"], bool(sung)), max(clipped, 0), sung))
    parts = [part for part in _merge_neighbours(parts) if part[2] or count_tags(part[1], seconds_per_tag)]
    ids: list[int] = []
    for label, num_frames, sung in _merge_neighbours(parts):
        if ids:
            ids.append(COMMA_ID)
        if sung:
            ids += [TAG_IDS[label], *_join_lines(sung)]
        else:
            ids += [TAG_IDS[label]] * count_tags(num_frames, seconds_per_tag)
    return ids


def _select_lines(
    num_sections: int, lines: Sequence[Mapping[str, Any]], start_frame: int, end_frame: int
) -> list[list[list[int]]]:
    """Return for each section the ids of its lines in the span; lines that have no sound of their own are left out."""
    selected: list[list[list[int]]] = [[] for _ in range(num_sections)]
    for number, line in enumerate(lines):
        section_index = line["section_index"]
        if not 0 <= section_index < num_sections:
            raise ShardError(f"line {number} is in section {section_index}, but the song has {num_sections} sections")
        ids = _strip_separators(line["phoneme_ids"])
        if ids and _is_inside(line, start_frame, end_frame):
            selected[section_index].append(ids)
    return selected


def _is_inside(line: Mapping[str, Any], start_frame: int, end_frame: int) -> bool:
    if line["start_frame"] is None:
        return True
    return bool(2 * start_frame <= line["start_frame"] + line["end_frame"] < 2 * end_frame)


def _strip_separators(ids: Sequence[int]) -> list[int]:
    """Return `ids` without the commas and periods at the end: the format puts its own there."""
    end = len(ids)
    while end and ids[end - 1] in (COMMA_ID, PERIOD_ID):
        end -= 1
    return list(ids[:end])


def _choose_label(label: str, is_sung: bool) -> str:
    if is_sung:
        return label if label in VOCAL_LABELS else "verse"
    return "inst" if label in VOCAL_LABELS else label


def _merge_neighbours(parts: Sequence[_Part]) -> list[_Part]:
    """Join neighbours without lyrics that carry the same label; sung neighbours stay apart, as in the reference."""
    merged: list[_Part] = []
    for label, num_frames, sung in parts:
        if merged and not sung and not merged[-1][2] and merged[-1][0] == label:
            merged[-1] = (label, merged[-1][1] + num_frames, [])
        else:
            merged.append((label, num_frames, sung))
    return merged


def _join_lines(lines: Sequence[Sequence[int]]) -> Iterator[int]:
    for number, ids in enumerate(lines):
        if number:
            yield PERIOD_ID
        yield from ids
