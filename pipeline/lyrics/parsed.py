"""What a lyrics file says, once it is read: lines to sing, section headers, and what was left out."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.song import DroppedLine


class LyricLine(NamedTuple):  # not a dataclass: those take ten times as long to make, and a catalogue has millions
    """One line to sing, as given; whether it is sung is for the audio to say."""

    text: str  # without ad-libs, unless the line is nothing but one
    full_text: str  # with them in their place
    section: str | None  # label of its header, None before the first
    section_index: int  # into ParsedLyrics.headers; -1 before the first
    time_s: float | None  # as the file gives it, its offset applied
    raw: str
    line_number: int  # of the input line, from 1
    repeats: int = 1  # how often the input says it is sung here; each further time is a line of its own
    edit: Literal["kept", "expanded"] = "kept"  # expanded: from "(x2)", "Repeat chorus", a second stamp
    adlibs: tuple[str, ...] = ()  # parts in parentheses
    is_adlib: bool = False  # the whole line is in parentheses
    is_copy: bool = False  # equal to the line before it in its section
    is_doubtful: bool = False  # reads like "Title - Artist", without proof
    stanza: int = 0  # lines between blank lines or headers share one; a hint at sections where headers are missing
    end_s: float | None = None  # where the format says it
    word_times: tuple[tuple[str, float], ...] = ()  # the line's words as stamped, each with its second
    singer: str = ""  # "female", "male", "duet", "background" or as the file marks it


@dataclass(frozen=True, kw_only=True, slots=True)
class LyricHeader:
    """A section header; expanded ones stand for repeats."""

    label: str
    name: str  # tells "prechorus" from "verse"
    raw: str
    time_s: float | None
    line_number: int
    number: int | None = None  # 2 in "Verse 2"
    edit: Literal["kept", "expanded"] = "kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedLyrics:
    """What one lyrics file says."""

    lines: tuple[LyricLine, ...]
    headers: tuple[LyricHeader, ...]
    dropped: tuple[DroppedLine, ...]
    has_times: bool
    has_headers: bool
    is_marked_instrumental: bool  # no lines, and the file says so
    format_name: str = "plain"  # "plain", "lrc", "srt", "webvtt", "sbv", "sami", "ass", "ttml", "youtube", "ultrastar",
    # "audacity", "whisper", "json", "microdvd", "mpl2", "transcript"
    offset_s: float = 0.0  # the file's [offset:], taken off every time already
    title: str = ""  # as the file states it
    artist: str = ""
    language: str = ""  # ISO 639-1, as the file states it
