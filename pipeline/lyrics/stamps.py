"""Time stamps in lyrics: LRC and its relatives, one or several stamps a line, stamps for words, the file's offset.

Word stamps are read in the forms of A2 ("<00:10.50>word"), of KuGou ("[10000,900]<0,500,0>word", from the start of the
line), of NetEase ("(10000,500,0)word"), of QQ Music and Lyricify ("word(10000,500)") and of LyricsX
("[tt]<0,0><500,8>", milliseconds and letters on a line of their own).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.lyrics.line_text import HAN, KANA, UNSPACED

MAX_TIME_S = 7200.0  # later stamps are broken, not late
MAX_OFFSET_S = 60.0
MIN_BARE_STAMPS = 3  # "5:30 in the morning" alone is a lyric
MAX_JSON_CHARS = 2_000

_HOURS = r"(?:(?P<hours>\d{1,2}):(?=\d\d:\d\d[.,]))?"
_CLOCK = r"(?P<minutes>\d{1,3}):(?P<seconds>\d{1,2})(?:[.,:](?P<fraction>\d{1,9}))?"
STAMP = _HOURS + _CLOCK
_UNNAMED = r"(?:\d{1,2}:)?\d{1,3}:\d{1,2}(?:[.,:]\d{1,9})?"
_LINE_STAMP = re.compile(rf"\s*\[\s*{STAMP}\s*(?:-->\s*(?P<end>{_UNNAMED})\s*)?\]")
_MAY_BE_STAMPED = re.compile(r"\d|[\[<]")
_SIMPLE_LINE = re.compile(r"\[(?P<minutes>\d\d):(?P<seconds>\d\d\.\d{2,3})\](?P<text>[^\[\]<>\u3010\uff3b\uff1c]*)")
_WORD_STAMP = re.compile(rf"[<\[]\s*{STAMP}\s*[>\]]")
_END = re.compile(STAMP)
_MILLISECOND_LINE = re.compile(r"\s*\[(?P<ms>\d{1,7}),(?P<length>\d{1,7})\]")
_MILLISECOND_WORD = re.compile(r"(?P<open>[<(])(?P<ms>\d{1,7}),\d{1,7}(?:,\d{1,7})?[>)]")
_LYRICIFY_LINE = re.compile(r"\s*\[\d?\](?=[^\[\]()]*\(\d{1,7},\d{1,7}\))")  # "[4]word(10000,500)"
_BARE_STAMP = re.compile(rf"\s*\(?{STAMP}\)?(?:\s*[-–]\s*\d{{1,2}}:\d\d\b)?\s+(?=\S)")
_MAY_BE_BARE = re.compile(r"^\s*\(?\d{1,3}:\d", re.MULTILINE)
_ESCAPED_BREAK = re.compile(r"(?:\\r)?\\n")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[\"'/t])")
_ATTACHED = re.compile(r"\s*\[(?P<kind>tt|tr(?::[\w-]{1,20})?)\]")  # LyricsX: word times, a translation
_LETTER_TIME = re.compile(r"<(\d{1,7}),(\d{1,4})>")
_BACKGROUND = re.compile(r"\s*\[bg:(?P<text>[^\[\]]*)\]\s*")
_OFFSET = re.compile(r"^[ \t]*\[offset\s*:\s*(?P<ms>[+-]?\d{1,7})\s*\]", re.IGNORECASE | re.MULTILINE)
_BLANK_AT_STAMP = re.compile(rf"[^\s\]>]\s+<\s*{_UNNAMED}\s*>|<\s*{_UNNAMED}\s*>\s+[^\s<\[]")
_WIDE = re.compile("[\uff3b\uff3d\uff1a\uff0e\u3010\u3011\uff10-\uff19\uff1c\uff1e]")
_TO_ASCII = str.maketrans(
    {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1B), 0xFF0E, 0xFF1C, 0xFF1E, 0xFF3B, 0xFF3D)}
    | {"\u3010": "[", "\u3011": "]"}
)
_CLOSE_UP = re.compile(f"[{HAN.pattern[1:-1]}{KANA}]")
_APART = re.compile(f"[{HAN.pattern[1:-1]}{KANA}{UNSPACED}]")  # letters that are words of their own to a singer

Pieces = tuple[tuple[str, float], ...]


class StampedLine(NamedTuple):  # not a dataclass, for speed: there is one for every input line
    """An input line without its stamps; `times_s` holds one time for each time the line is sung."""

    raw: str
    text: str
    times_s: tuple[float, ...] = ()
    is_stamp: bool = False  # nothing but stamps; in subtitles also the blank line that ends a cue
    end_s: float | None = None
    words: Pieces = ()  # what the first time has stamps for, each with its second
    singer: str = ""
    reason: str = ""  # why nobody sings it, where the format says so
    line_number: int = 0  # of the input line, from 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceText:
    """A lyrics file as its format has it; names and language as the file states them, empty where it does not."""

    format_name: str
    lines: Sequence[StampedLine]
    offset_s: float = 0.0  # what was taken off every stamp
    title: str = ""
    artist: str = ""
    language: str = ""


def read_stamps(text: str) -> Iterator[StampedLine]:
    """Yield every input line of plain or LRC-like text, blank ones too."""
    raw_lines = split_lines(text)
    if "[" not in text and "<" not in text and ":" not in text and not _WIDE.search(text):
        for number, raw in enumerate(raw_lines, start=1):
            yield StampedLine(raw=raw, text=raw.strip(), line_number=number)
        return
    offset_s = find_offset(text)
    num_bare = sum(_BARE_STAMP.match(raw) is not None for raw in raw_lines) if _MAY_BE_BARE.search(text) else 0
    has_bare = num_bare >= MIN_BARE_STAMPS and num_bare * 2 >= sum(bool(raw.strip()) for raw in raw_lines)
    has_blanks = "<" in text and _BLANK_AT_STAMP.search(text) is not None
    letter_times = _find_letter_times(raw_lines) if "[tt]" in text else {}
    for number, raw in enumerate(raw_lines, start=1):
        if not _MAY_BE_STAMPED.search(raw):
            yield StampedLine(raw, raw.strip(), (), False, None, (), "", "", number)
            continue
        if (simple := _SIMPLE_LINE.fullmatch(raw)) and not letter_times:
            minutes, seconds, words = simple.groups()
            words = words.strip()
            time_s = round(int(minutes) * 60 + float(seconds) - offset_s, 6)
            yield StampedLine(raw, words, (time_s if time_s > 0 else 0.0,), not words, None, (), "", "", number)
            continue
        line = _read_line(raw, offset_s, has_bare, has_blanks)
        if line.times_s and (letters := letter_times.get(line.times_s[0] + offset_s)) and not line.words:
            line = line._replace(words=_cut_at_letters(line.text, letters, line.times_s[0]))
        yield line._replace(line_number=number)


def split_lines(text: str) -> list[str]:
    r"""Split at line breaks; a text copied out of JSON without decoding it breaks at its literal `\n`."""
    if "\\n" in text:
        stripped = text.strip()
        num_escaped = len(_ESCAPED_BREAK.findall(stripped))
        if num_escaped > stripped.count("\n"):
            if len(stripped) > 1 and stripped[0] == stripped[-1] == '"':
                stripped = stripped[1:-1]
            lines = [part for line in stripped.split("\n") for part in _ESCAPED_BREAK.split(line)]
            return [_ESCAPE.sub(_unescape, line) for line in lines]
    return text.split("\n")


def _unescape(match: re.Match[str]) -> str:
    escape = match[0]
    if escape[1] != "u":
        return " " if escape[1] == "t" else escape[1]
    code = int(escape[2:], 16)
    return escape if code < 0x20 or 0xD800 <= code < 0xE000 else chr(code)


def _read_line(raw: str, offset_s: float, has_bare: bool, has_blanks: bool) -> StampedLine:
    if credit := _read_json(raw):
        return credit
    shape = raw.translate(_TO_ASCII) if _WIDE.search(raw) else raw  # one to one, so positions agree
    if line := _MILLISECOND_LINE.match(shape) or _LYRICIFY_LINE.match(shape):
        return _read_milliseconds(raw, line, offset_s)
    times: list[float] = []
    position, end_s = 0, None
    while match := _LINE_STAMP.match(shape, position):
        times.append(read_clock(match, offset_s))
        end_s = read_clock(end, offset_s) if match["end"] and (end := _END.fullmatch(match["end"])) else None
        position = match.end()
    if has_bare and not times and (match := _BARE_STAMP.match(shape)):
        times, position = [read_clock(match, offset_s)], match.end()
    if "[" in shape and (attached := _ATTACHED.match(shape, position)):
        words = raw[attached.end() :].strip()
        reason = "timestamp" if attached["kind"] == "tt" else "translation"
        return StampedLine(raw=raw, text=words, times_s=tuple(times), reason=reason)
    singer = ""
    if "[bg:" in shape and (background := _BACKGROUND.fullmatch(shape, position)):
        raw_words, singer = background["text"], "background"
    else:
        raw_words = raw[position:]
    text, pieces = _read_word_stamps(raw_words, offset_s, has_blanks)
    if not times and pieces:
        times = [pieces[0][1]]
    kept = tuple(sorted({time_s for time_s in times if time_s <= MAX_TIME_S}))
    return StampedLine(
        raw=raw,
        text=text,
        times_s=kept,
        is_stamp=bool(times) and not text,
        end_s=end_s,
        words=pieces if all(time_s <= MAX_TIME_S for _, time_s in pieces) else (),
        singer=singer,
    )


def _read_word_stamps(text: str, offset_s: float, has_blanks: bool) -> tuple[str, Pieces]:
    """Return the words between word stamps, and each with its second; empty if there are no stamps."""
    if "<" not in text and "[" not in text:
        return text.strip(), ()
    stamps = list(_WORD_STAMP.finditer(text))
    if not stamps:
        return text.strip(), ()
    ends = [*(stamp.start() for stamp in stamps[1:]), len(text)]
    pieces = [(text[: stamps[0].start()], -1.0)] if text[: stamps[0].start()].strip() else []
    for stamp, end in zip(stamps, ends, strict=True):
        pieces.append((text[stamp.end() : end], read_clock(stamp, offset_s)))
    if not has_blanks:  # whoever writes no blanks beside any stamp means words, not syllables
        pieces = [(f"{piece} ", time_s) for piece, time_s in pieces]
    joined, words = join_pieces(pieces)
    return joined, () if words and words[0][1] < 0 and len(words) == 1 else tuple(w for w in words if w[1] >= 0)


def _read_milliseconds(raw: str, line: re.Match[str], offset_s: float) -> StampedLine:
    """Read a line of KuGou, NetEase, QQ Music or Lyricify, with the times of its words."""
    rest = raw[line.end() :]
    stamps = list(_MILLISECOND_WORD.finditer(rest))
    start_s = int(line["ms"]) / 1000 if "ms" in line.groupdict() else None
    pieces: list[tuple[str, float]] = []
    if stamps and not rest[: stamps[0].start()].strip():  # the stamp stands before its word
        base_s = start_s or 0.0 if stamps[0]["open"] == "<" else 0.0
        ends = [*(stamp.start() for stamp in stamps[1:]), len(rest)]
        for stamp, end in zip(stamps, ends, strict=True):
            pieces.append((rest[stamp.end() : end], base_s + int(stamp["ms"]) / 1000))
    else:
        begin = 0
        for stamp in stamps:
            pieces.append((rest[begin : stamp.start()], int(stamp["ms"]) / 1000))
            begin = stamp.end()
        pieces += [(rest[begin:], pieces[-1][1])] if pieces and rest[begin:].strip() else []
    pieces = [(piece, max(round(time_s - offset_s, 3), 0.0)) for piece, time_s in pieces]
    text, words = join_pieces(pieces) if pieces else (rest.strip(), ())
    if start_s is None:
        start_s = int(stamps[0]["ms"]) / 1000 if stamps else 0.0
    end_s = start_s + int(line["length"]) / 1000 - offset_s if "length" in line.groupdict() else None
    return StampedLine(
        raw=raw,
        text=text,
        times_s=(max(round(start_s - offset_s, 3), 0.0),),
        is_stamp=not text,
        end_s=None if end_s is None else round(end_s, 3),
        words=words,
    )


def join_pieces(pieces: Sequence[tuple[str, float]]) -> tuple[str, Pieces]:
    """Join stamped pieces to a line; syllables without a blank between become one word, Han characters stay apart."""
    words: list[tuple[list[str], float]] = []
    parts: list[str] = []
    is_open = False  # whether the last word may go on
    for piece, time_s in pieces:
        stripped = piece.strip()
        if not stripped:
            is_open = is_open and not piece
            continue
        has_gap = bool(parts) and (not is_open or piece[0].isspace())
        last = parts[-1][-1] if parts else ""
        if has_gap and not (_CLOSE_UP.match(last) and _CLOSE_UP.match(stripped)):  # Chinese words have no blanks
            parts.append(" ")
        parts.append(stripped)
        if words and not has_gap and not (_APART.match(last) or _APART.match(stripped)):
            words[-1][0].append(stripped)
        else:
            words.append(([stripped], time_s))
        is_open = not piece[-1].isspace()
    return "".join(parts), tuple(("".join(syllables), time_s) for syllables, time_s in words)


def _find_letter_times(raw_lines: Sequence[str]) -> dict[float, list[tuple[float, int]]]:
    """Return, by the second of their lines, the seconds (from there) and letters of LyricsX's word times."""
    found: dict[float, list[tuple[float, int]]] = {}
    for raw in raw_lines:
        stamp = _LINE_STAMP.match(raw)
        attached = _ATTACHED.match(raw, stamp.end()) if stamp else None
        if stamp and attached and attached["kind"] == "tt":
            times = [(int(ms) / 1000, int(letter)) for ms, letter in _LETTER_TIME.findall(raw, attached.end())]
            found[read_clock(stamp, 0.0)] = times
    return found


def _cut_at_letters(text: str, times: Sequence[tuple[float, int]], start_s: float) -> Pieces:
    places = sorted({letter: time_s for time_s, letter in reversed(times) if letter < len(text)}.items())
    ends = [*(letter for letter, _ in places[1:]), len(text)][: len(places)]
    return join_pieces(
        [(text[begin:end], round(start_s + s, 3)) for (begin, s), end in zip(places, ends, strict=True)]
    )[1]


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


def read_clock(match: re.Match[str], offset_s: float = 0.0) -> float:
    """Return the seconds that a match of `STAMP` stands for, less the offset, at least 0, to the microsecond."""
    fraction = match["fraction"] or "0"
    whole_s = int(match["hours"] or 0) * 3600 + int(match["minutes"]) * 60 + int(match["seconds"])
    return max(round(whole_s + float(f"0.{fraction}") - offset_s, 6), 0.0)
