"""Time stamps in lyrics: LRC (also several stamps a line, word stamps, offset), SRT and WebVTT cues, JSON lines."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.lyrics_text import HAN

MAX_TIME_S = 7200.0  # later stamps are broken, not late
MAX_OFFSET_S = 60.0

_STAMP = (
    r"(?:(?P<hours>\d{1,2}):(?=\d\d:\d\d[.,]))?(?P<minutes>\d{1,3}):(?P<seconds>\d{1,2})(?:[.,:](?P<fraction>\d{1,3}))?"
)
_LINE_STAMP = re.compile(rf"\s*\[\s*{_STAMP}\s*\]")
_WORD_STAMP = re.compile(rf"[<\[]\s*{_STAMP}\s*[>\]]")
_ANGLE_STAMP = re.compile(rf"<\s*{_STAMP}\s*>")
# What KuGou, NetEase and QQ Music write for words: [12500,4700]<0,500,0>..., (12500,500,0)..., ...(12500,500)
_MILLISECOND_LINE = re.compile(r"\[(?P<ms>\d{1,7}),\d{1,7}\]")
_MILLISECOND_WORD = re.compile(r"[<(]\d{1,7},\d{1,7}(?:,\d{1,7})?[>)]")
_BARE_STAMP = re.compile(rf"\s*\(?{_STAMP}\)?(?:\s*[-–]\s*\d{{1,2}}:\d\d\b)?\s+(?=\S)")
MIN_BARE_STAMPS = 3  # "5:30 in the morning" alone is a lyric
_CUE = re.compile(rf"{_STAMP}\s*-->\s*[\d:.,]+.*")
_CUE_NUMBER = re.compile(r"\d{1,4}")
_ESCAPED_BREAK = re.compile(r"(?:\\r)?\\n")
_MARK = "\x1f"  # where a word stamp stood; no character of clean text
_HAN_GAP = re.compile(rf"(?<={HAN.pattern})\s*{_MARK}\s*(?={HAN.pattern})")  # Chinese words have no blanks between
MAX_JSON_CHARS = 2_000
_OFFSET = re.compile(r"^[ \t]*\[offset\s*:\s*(?P<ms>[+-]?\d{1,7})\s*\]", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class StampedLine:
    """An input line without its stamps; `times_s` holds one time for each time the line is sung."""

    raw: str
    text: str
    times_s: tuple[float, ...] = ()
    is_stamp: bool = False  # nothing but stamps; in subtitles also the blank line that ends a cue


def read_stamps(text: str) -> Iterator[StampedLine]:
    """Yield every input line, blank ones too."""
    raw_lines = text.split("\n")
    if len(raw_lines) == 1 and _ESCAPED_BREAK.search(text):  # copied out of JSON without decoding it
        raw_lines = _ESCAPED_BREAK.split(text)
    if _CUE.search(text):
        yield from _read_cues(raw_lines)
        return
    offset_s = find_offset(text)
    num_bare = sum(_BARE_STAMP.match(raw) is not None for raw in raw_lines)
    has_bare = num_bare >= MIN_BARE_STAMPS and num_bare * 2 >= sum(bool(raw.strip()) for raw in raw_lines)
    for raw in raw_lines:
        yield _read_line(raw, offset_s, has_bare)


def _read_cues(raw_lines: list[str]) -> Iterator[StampedLine]:
    """Read SRT or WebVTT: the first line of a cue gets its start."""
    times_s: tuple[float, ...] = ()
    for raw, after in zip(raw_lines, [*raw_lines[1:], ""], strict=True):
        line = raw.strip()
        cue = _CUE.fullmatch(line)
        if cue:
            times_s = (_seconds(cue, 0.0),)
        if cue or line == "WEBVTT" or (_CUE_NUMBER.fullmatch(line) and "-->" in after):
            yield StampedLine(raw=raw, text="", is_stamp=True)
            continue
        yield StampedLine(raw=raw, text=line, times_s=times_s if line else (), is_stamp=not line)
        times_s = () if line else times_s


def _read_line(raw: str, offset_s: float, has_bare: bool) -> StampedLine:
    if credit := _read_json(raw):
        return credit
    if line := _MILLISECOND_LINE.match(raw):
        words = _MILLISECOND_WORD.sub("", raw[line.end() :]).strip()
        return StampedLine(
            raw=raw, text=words, times_s=(max(int(line["ms"]) / 1000 - offset_s, 0.0),), is_stamp=not words
        )
    times: list[float] = []
    position = 0
    while match := _LINE_STAMP.match(raw, position):
        times.append(_seconds(match, offset_s))
        position = match.end()
    if has_bare and not times and (match := _BARE_STAMP.match(raw)):
        times, position = [_seconds(match, offset_s)], match.end()
    if not times and (match := _WORD_STAMP.search(raw)):
        times = [_seconds(match, offset_s)]
    words = _HAN_GAP.sub("", _WORD_STAMP.sub(_MARK, raw[position:])).replace(_MARK, " ").strip()
    kept = tuple(sorted({time_s for time_s in times if time_s <= MAX_TIME_S}))
    return StampedLine(raw=raw, text=words, times_s=kept, is_stamp=bool(times) and not words)


def read_word_times(raw: str, offset_s: float = 0.0) -> list[tuple[str, float]]:
    """Return the words of an enhanced LRC line with the second that each starts at; empty if it has no word stamps."""
    found: list[tuple[str, float]] = []
    stamps = list(_ANGLE_STAMP.finditer(raw))
    ends = [*(stamp.start() for stamp in stamps[1:]), len(raw)]
    for stamp, end in zip(stamps, ends, strict=False):
        if word := raw[stamp.end() : end].strip():
            found.append((word, _seconds(stamp, offset_s)))
    return found


def _read_json(raw: str) -> StampedLine | None:
    """Read a line as NetEase stamps its credits: {"t": ms, "c": [{"tx": text}, ...]}."""
    if not raw.startswith('{"t":') or len(raw) > MAX_JSON_CHARS:
        return None
    try:
        entry = json.loads(raw)
        text = "".join(str(part["tx"]) for part in entry["c"])
        time_s = float(entry["t"]) / 1000
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return StampedLine(raw=raw, text=text, times_s=(time_s,) if 0 <= time_s <= MAX_TIME_S else ())


def find_offset(text: str) -> float:
    """Seconds to take off every stamp: a positive [offset:] in ms makes lyrics appear sooner."""
    match = _OFFSET.search(text)
    offset_s = int(match["ms"]) / 1000 if match else 0.0
    return offset_s if abs(offset_s) <= MAX_OFFSET_S else 0.0


def _seconds(match: re.Match[str], offset_s: float) -> float:
    fraction = match["fraction"] or "0"
    whole_s = int(match["hours"] or 0) * 3600 + int(match["minutes"]) * 60 + int(match["seconds"])
    return max(round(whole_s + float(f"0.{fraction}") - offset_s, 3), 0.0)
