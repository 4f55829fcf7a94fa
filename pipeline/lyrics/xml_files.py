"""Timed text in XML: TTML with Apple's word times and voices, YouTube's timed text, QQ Music's wrapper.

Read with Expat, which needs no DTD here: a document type is refused, so no entity can be declared, let alone expand.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

from pipeline.lyrics.stamps import MAX_TIME_S, STAMP, SourceText, StampedLine, join_pieces, read_clock

MAX_DEPTH = 60  # of elements; a lyric needs about eight

_LOOKS_TTML = re.compile(r"<tt(?:\s|>)")
_LOOKS_YOUTUBE = re.compile(r"<(?:timedtext|transcript)(?:\s|>)")
_WRAPPED = re.compile(r"\bLyricContent=\"(?P<lyric>[^\"]*)\"")
_WRAPPED_BREAK = re.compile(r"\s+(?=\[\d{1,7},\d{1,7}\])")
_BLANK_BETWEEN = re.compile(r"</span> +<span")
_CLOCK = re.compile(STAMP)
_SECONDS = re.compile(r"(?P<number>\d{1,7}(?:\.\d{1,9})?)(?P<unit>h|ms|m|s|)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}
_ROLES = {"x-translation": "translation", "x-roman": "romanisation"}
_HELD_ROLES = ("x-bg", *_ROLES)


class _RefusedError(Exception):
    """XML that no lyrics file needs."""


@dataclass(slots=True)
class _Open:
    """An element that is open: its name without prefix, what it says about times, voice and role."""

    name: str
    begin_s: float | None
    end_s: float | None
    role: str = ""
    singer: str = ""
    number: int = 0


@dataclass(slots=True)
class _Line:
    """A line (or its background, its translation) while its element is open."""

    begin_s: float | None
    end_s: float | None
    singer: str
    number: int
    reason: str = ""
    pieces: list[tuple[str, float]] = field(default_factory=list)


def read_xml(text: str, read_inner: Callable[[str], SourceText]) -> SourceText | None:
    """Read TTML, YouTube's XML or a wrapped QRC; None if the text is none of them or is broken.

    Args:
        text: of the file.
        read_inner: reads what a wrapper holds.
    """
    start = text[:4000].lstrip()
    if not start.startswith("<"):
        return None
    if wrapped := _WRAPPED.search(text):
        return read_inner(_WRAPPED_BREAK.sub("\n", html.unescape(wrapped["lyric"])))
    reader: _TtmlReader | _YoutubeReader
    if _LOOKS_TTML.search(start):
        reader = _TtmlReader(has_blanks=_BLANK_BETWEEN.search(text) is not None)
    elif _LOOKS_YOUTUBE.search(start):
        reader = _YoutubeReader()
    else:
        return None
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = lambda name, attributes: reader.start(name, attributes, parser.CurrentLineNumber)
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.add
    try:
        parser.Parse(text.strip().encode("utf-8", "replace"), True)
    except (expat.ExpatError, _RefusedError):
        return None  # markup that a browser would forgive: read as a page
    skipped = len(text) - len(text.lstrip())
    offset = text.count("\n", 0, skipped)
    return SourceText(
        format_name=reader.name,
        lines=[line._replace(line_number=line.line_number + offset) for line in reader.lines],
        title=reader.title.strip(),
        language=reader.language,
    )


def _refuse(*_: object) -> None:
    raise _RefusedError("a document type")


def _plain_name(name: str) -> str:
    return name.rpartition(":")[2]


class _TtmlReader:
    """Collect the paragraphs of a TTML document as lines, Apple's song parts as headers."""

    name = "ttml"

    def __init__(self, *, has_blanks: bool) -> None:
        self.lines: list[StampedLine] = []
        self.title = ""
        self.language = ""
        self._has_blanks = has_blanks  # between some words; then a line break between others is layout
        self._open: list[_Open] = []
        self._under: list[_Line] = []
        self._part = ""
        self._in_title = False
        self._held: list[_Line] = []  # backgrounds and translations of the open paragraph

    def start(self, name: str, attributes: dict[str, str], number: int) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise _RefusedError("elements too deep")
        said = {_plain_name(key): value for key, value in attributes.items()}
        parent = self._open[-1] if self._open else None
        begin_s = _read_time(said.get("begin", ""))
        element = _Open(
            name=_plain_name(name),
            begin_s=begin_s,
            end_s=_read_time(said.get("end", "")),
            role=said.get("role", ""),
            singer=said.get("agent", "") or (parent.singer if parent else ""),
            number=number,
        )
        self._open.append(element)
        self._in_title = element.name == "title"
        if element.name == "tt":
            self.language = said.get("lang", "")
        if element.name == "div" and (part := said.get("songPart") or said.get("song-part")):
            self._add_part(part, begin_s, number)
        if element.name == "p":
            self._under = [_Line(begin_s, element.end_s, element.singer, number)]
        elif self._under and element.name == "br":
            self._under[-1].pieces.append((" ", self._clock()))
        elif self._under and element.role in _HELD_ROLES:
            singer = "background" if element.role == "x-bg" else ""
            self._under.append(_Line(begin_s, element.end_s, singer, number, _ROLES.get(element.role, "")))

    def end(self, name: str) -> None:
        element = self._open.pop()
        self._in_title = False
        if self._under and (element.name == "p" or element.role in _HELD_ROLES):
            line = self._under.pop()
            if element.name == "p":
                self._under = []
                self._close(line, self._held)
                self._held = []
            else:
                self._held = [*self._held, line]
                if self._under and self._under[-1].pieces:
                    self._under[-1].pieces.append((" ", self._clock()))

    def add(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif self._under:
            line = self._under[-1]
            if self._has_blanks and "\n" in data and not data.strip():
                return  # layout of the file, no blank between words
            words = re.sub(r"\s+", " ", data)
            line.pieces.append((words, self._clock()))

    def _clock(self) -> float:
        """Return when the innermost timed element within the paragraph begins; -1 where none is timed."""
        for element in reversed(self._open):
            if element.name == "p":
                break
            if element.begin_s is not None and element.role not in _HELD_ROLES:
                return element.begin_s
        return -1.0

    def _close(self, line: _Line, held: list[_Line]) -> None:
        for part in (line, *held):
            text, words = join_pieces(part.pieces)
            if not text:
                continue
            timed = tuple(word for word in words if word[1] >= 0)
            begin_s = part.begin_s if part.begin_s is not None else (timed[0][1] if timed else line.begin_s)
            is_timed = begin_s is not None and begin_s <= MAX_TIME_S
            self.lines.append(
                StampedLine(
                    raw=text,
                    text=text,
                    times_s=(begin_s,) if begin_s is not None and is_timed else (),
                    end_s=part.end_s,
                    words=timed if len(timed) > 1 and len(timed) == len(words) else (),
                    singer=part.singer,
                    reason=part.reason,
                    line_number=part.number,
                )
            )

    def _add_part(self, part: str, begin_s: float | None, number: int) -> None:
        """Add a header for a song part; Apple writes it on every paragraph group, "PreChorus" in one word."""
        label = re.sub(r"[\[\]\s]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", part)).strip()[:60]
        times_s = (begin_s,) if begin_s is not None and begin_s <= MAX_TIME_S else ()
        self.lines.append(StampedLine(raw=f"[{label}]", text=f"[{label}]", times_s=times_s, line_number=number))


class _YoutubeReader:
    """Collect the captions of YouTube's XML: `<p t="ms" d="ms"><s t="ms">word</s></p>`, or `<text start="s">`."""

    name = "youtube"

    def __init__(self) -> None:
        self.lines: list[StampedLine] = []
        self.title = ""
        self.language = ""
        self._line: _Line | None = None
        self._word_s: float | None = None
        self._depth = 0

    def start(self, name: str, attributes: dict[str, str], number: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError("elements too deep")
        if name in ("p", "text"):
            unit = 0.001 if name == "p" else 1.0
            begin_s = _read_number(attributes.get("t" if name == "p" else "start", ""), unit)
            length_s = _read_number(attributes.get("d" if name == "p" else "dur", ""), unit)
            end_s = None if begin_s is None or length_s is None else round(begin_s + length_s, 3)
            self._line = _Line(begin_s, end_s, "", number)
        elif name == "s" and self._line is not None:
            self._word_s = (self._line.begin_s or 0.0) + (_read_number(attributes.get("t", "0"), 0.001) or 0.0)

    def add(self, data: str) -> None:
        if self._line is not None:
            time_s = self._word_s if self._word_s is not None else self._line.begin_s or 0.0
            self._line.pieces.append((data, round(time_s, 3)))

    def end(self, name: str) -> None:
        self._depth -= 1
        line = self._line
        if name in ("p", "text") and line is not None:
            text, words = join_pieces(line.pieces)
            is_timed = line.begin_s is not None and line.begin_s <= MAX_TIME_S
            if text:
                self.lines.append(
                    StampedLine(
                        raw=text,
                        text=text,
                        times_s=(line.begin_s,) if line.begin_s is not None and is_timed else (),
                        end_s=line.end_s,
                        words=words if self._word_s is not None and len(words) > 1 else (),
                        line_number=line.number,
                    )
                )
            self._line, self._word_s = None, None


def _read_number(value: str, unit: float) -> float | None:
    found = _SECONDS.fullmatch(value.strip())
    return round(float(found["number"]) * unit, 3) if found and not found["unit"] else None


def _read_time(value: str) -> float | None:
    """Return the seconds of a TTML time: a clock ("1:02.5", "00:01:02.500") or a count ("83.4", "83.4s", "500ms")."""
    value = value.strip()
    if clock := _CLOCK.fullmatch(value):
        return read_clock(clock)
    if count := _SECONDS.fullmatch(value):
        return round(float(count["number"]) * _UNITS[count["unit"]], 3)
    return None
