"""Subtitles as lyrics: SRT, WebVTT (voices, word times, YouTube's rolling captions), SubViewer, SAMI, ASS.

A cue's first line gets its start; lines that a caption shows again while the next one rolls in are named duplicates.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.lyrics.stamps import MAX_TIME_S, STAMP, SourceText, StampedLine, join_pieces, read_clock

MAX_TRANSITION_S = 0.02  # YouTube's cues between two captions last 10 ms
MIN_ROLLING_CUES = 3  # that begin with what the cue before showed, and MIN_ROLLING_SHARE of all: captions that roll
MIN_ROLLING_SHARE = 0.5

_TIMING = re.compile(rf"\s*{STAMP}\s*(?:-->|,(?=\d{{1,2}}:\d\d:\d\d\.))\s*(?P<end>[\d:.,]{{4,14}})(?:\s.*)?")
_HAS_TIMING = re.compile(
    r"^[ \t]*\d{1,3}:\d{1,2}[\d:.,]{0,12}(?:[ \t]*-->[ \t]*[\d:.,]{4,14}(?=\s|$)|,\d{1,2}:\d\d:\d\d\.\d+[ \t]*$)",
    re.MULTILINE,
)
_CLOCK = re.compile(STAMP)
_CUE_NUMBER = re.compile(r"\d{1,6}")
_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_WORD_TIME = re.compile(rf"<{STAMP}>")
_CUE_TAG = re.compile(r"</?(?:c|v|i|b|u|ruby|rt|lang|font)(?:[\s.][^<>]{0,200})?>|\{\\[^{}]{0,200}\}", re.IGNORECASE)
_VOICE = re.compile(r"<v(?:\.[^\s<>]{1,50})?\s+(?P<name>[^<>]{1,80})>")
_LANGUAGE = re.compile(r"^Language:\s*(\S{2,20})", re.MULTILINE)

_SYNC = re.compile(r"<sync\s+start\s*=\s*[\"']?(?P<ms>\d{1,8})[^<>]{0,50}>", re.IGNORECASE)
_SAMI_CLASS = re.compile(r"<p\s+class\s*=\s*[\"']?(?P<name>\w{1,20})[^<>]{0,50}>", re.IGNORECASE)
_SAMI_BREAK = re.compile(r"<br\s?/?>|\n", re.IGNORECASE)
_ANY_TAG = re.compile(r"<[^<>]{0,200}>")

_EVENT = re.compile(r"(?P<kind>Dialogue|Comment):\s*(?P<fields>.*)")
_EVENT_FORMAT = "layer start end style name marginl marginr marginv effect text".split()
_OVERRIDE = re.compile(r"\{[^{}]*\}")
_KARAOKE = re.compile(r"\\[kK][fo]?\s?(?P<centis>\d{1,6})")
_DRAWING = re.compile(r"\{[^{}]*\\p[1-9][^{}]*\}")


@dataclass(slots=True)
class _Cue:
    start_s: float
    end_s: float
    places: list[int] = field(default_factory=list)  # of its lines in the list of all


def read_cues(text: str) -> SourceText | None:
    """Read SRT, WebVTT or SubViewer; None if there is no cue in the text."""
    if ("-->" not in text and ",0" not in text) or _HAS_TIMING.search(text) is None:
        return None
    raw_lines = text.split("\n")
    is_vtt = raw_lines[0].startswith("WEBVTT")
    lines: list[StampedLine] = []
    cues: list[_Cue] = []
    block = "head" if is_vtt else ""
    open_cue: _Cue | None = None
    for number, raw in enumerate(raw_lines, start=1):
        line = raw.strip()
        after = raw_lines[number] if number < len(raw_lines) else ""
        starts_block = number == 1 or not raw_lines[number - 2].strip()
        if timing := _TIMING.fullmatch(raw):
            open_cue = _Cue(read_clock(timing), _read_end(timing["end"]))
            cues.append(open_cue)
            block = ""
        block = "note" if is_vtt and starts_block and _BLOCK.match(line) else "" if not line else block
        is_name = starts_block and is_vtt and _TIMING.fullmatch(after) is not None
        is_number = _CUE_NUMBER.fullmatch(line) is not None and _TIMING.fullmatch(after) is not None
        if timing or not line or is_name or is_number:
            lines.append(StampedLine(raw=raw, text="", is_stamp=True, line_number=number))
        elif block:
            lines.append(StampedLine(raw=raw, text=line, reason="metadata", line_number=number))
        else:
            lines.append(_read_cue_line(raw, number, open_cue))
            if open_cue is not None:
                open_cue.places.append(len(lines) - 1)
    _end_cues(lines, cues)
    language = _LANGUAGE.search(text[:2000]) if is_vtt else None
    name = "webvtt" if is_vtt else "srt" if "-->" in text else "sbv"
    return SourceText(format_name=name, lines=lines, language=language[1] if language else "")


def _read_end(written: str) -> float:
    end = _CLOCK.fullmatch(written)
    return read_clock(end) if end else 0.0


def _read_cue_line(raw: str, number: int, cue: _Cue | None) -> StampedLine:
    """Read a line of a cue; its first line has the cue's start."""
    line = raw.strip()
    voice = _VOICE.search(line) if "<v" in line else None
    words: tuple[tuple[str, float], ...] = ()
    if "<" in line and _WORD_TIME.search(line):
        pieces, begin, time_s = [], 0, cue.start_s if cue else 0.0
        for stamp in _WORD_TIME.finditer(line):
            pieces.append((_CUE_TAG.sub("", line[begin : stamp.start()]), time_s))
            begin, time_s = stamp.end(), read_clock(stamp)
        pieces.append((_CUE_TAG.sub("", line[begin:]), time_s))
        line, words = join_pieces(pieces)
    elif "<" in line or "{" in line:
        line = _CUE_TAG.sub("", line).strip()
    is_first = cue is not None and not cue.places
    times_s = (cue.start_s,) if cue is not None and is_first and cue.start_s <= MAX_TIME_S else ()
    singer = voice["name"].strip() if voice else ""
    return StampedLine(raw=raw, text=line, times_s=times_s, words=words, singer=singer, line_number=number)


def _end_cues(lines: list[StampedLine], cues: Sequence[_Cue]) -> None:
    """Give the last line of every cue its end, and name the lines that rolling captions show again."""
    repeated = {index: _count_repeated(lines, cues, index) for index in range(1, len(cues))}
    num_rolling = sum(count > 0 for count in repeated.values())
    has_words = any(line.words for line in lines)
    is_rolling = has_words or (
        num_rolling >= MIN_ROLLING_CUES and num_rolling >= MIN_ROLLING_SHARE * max(len(cues) - 1, 1)
    )
    for index, cue in enumerate(cues):
        count = 0
        if is_rolling:
            is_transition = has_words and cue.end_s - cue.start_s <= MAX_TRANSITION_S
            count = len(cue.places) if is_transition else repeated.get(index, 0)
        for place in cue.places[:count]:
            lines[place] = lines[place]._replace(times_s=(), reason="duplicate")
        shown = cue.places[count:]
        if shown and cue.end_s > cue.start_s:
            times_s = lines[shown[0]].times_s or ((cue.start_s,) if count and cue.start_s <= MAX_TIME_S else ())
            lines[shown[0]] = lines[shown[0]]._replace(times_s=times_s)
            lines[shown[-1]] = lines[shown[-1]]._replace(end_s=cue.end_s)


def _count_repeated(lines: Sequence[StampedLine], cues: Sequence[_Cue], index: int) -> int:
    """How many lines at the start of a cue are those at the end of the cue before, without times for words."""
    before = [lines[place].text for place in cues[index - 1].places][-4:]
    now = [lines[place] for place in cues[index].places]
    for count in range(min(len(before), len(now)), 0, -1):
        if [line.text for line in now[:count]] == before[-count:] and not any(line.words for line in now[:count]):
            return count
    return 0


def read_sami(text: str) -> SourceText | None:
    """Read SAMI (.smi): what follows a sync point is shown from it; None if the text is none."""
    if "<" not in text or not (syncs := list(_SYNC.finditer(text))):
        return None
    lines = [
        StampedLine(raw=raw, text=raw.strip(), reason="metadata", line_number=number)
        for number, raw in enumerate(text[: syncs[0].start()].split("\n"), start=1)
        if raw.strip()
    ]
    number, counted = 1, 0
    ends = [*(sync.start() for sync in syncs[1:]), len(text)]
    for sync, end in zip(syncs, ends, strict=True):
        number += text.count("\n", counted, sync.start())
        counted = sync.start()
        time_s = int(sync["ms"]) / 1000
        shown = [
            _ANY_TAG.sub("", part).replace("&nbsp;", " ").strip()
            for part in _SAMI_BREAK.split(_SAMI_CLASS.sub("\n", text[sync.end() : end]))
        ]
        shown = [part for part in shown if part]
        for index, part in enumerate(shown):
            times_s = (time_s,) if index == 0 and time_s <= MAX_TIME_S else ()
            lines.append(StampedLine(raw=part, text=part, times_s=times_s, line_number=number))
        if not shown:
            lines.append(StampedLine(raw=sync[0], text="", is_stamp=True, line_number=number))
    return SourceText(format_name="sami", lines=lines)


def read_ass(text: str) -> SourceText | None:
    r"""Read ASS or SSA with karaoke times (`{\k50}`); None if the text is none.

    Where a template was applied (lines of effect "fx"), the lines it was applied to are read and its output is not.
    """
    if "Dialogue:" not in text or not ("[Script Info]" in text or "[Events]" in text or text.startswith("Dialogue:")):
        return None
    raw_lines = text.split("\n")
    names = list(_EVENT_FORMAT)
    events: dict[int, dict[str, str]] = {}
    in_events = "[Events]" not in text
    for number, raw in enumerate(raw_lines, start=1):
        line = raw.strip()
        if line.startswith("["):
            in_events = line.lower() == "[events]"
        elif in_events and line.startswith("Format:"):
            names = [name.strip().lower() for name in line.removeprefix("Format:").split(",")]
        elif event := _EVENT.fullmatch(line):
            values = event["fields"].split(",", len(names) - 1)
            if len(values) == len(names):
                events[number] = {"kind": event["kind"], **dict(zip(names, values, strict=True))}
    is_templated = any(_effect(event) == "karaoke" and event["kind"] == "Comment" for event in events.values())
    lines: list[StampedLine] = []
    for number, raw in enumerate(raw_lines, start=1):
        found = events.get(number)
        if found is None or not _is_shown(found, is_templated):
            lines.append(StampedLine(raw=raw, text=raw.strip(), reason="metadata", line_number=number))
        else:
            lines += _read_event(raw, found, number)
    return SourceText(format_name="ass", lines=[line for line in lines if line.raw.strip()])


def _effect(event: dict[str, str]) -> str:
    return event.get("effect", "").strip().lower()


def _is_shown(event: dict[str, str], is_templated: bool) -> bool:
    if _DRAWING.search(event.get("text", "")):
        return False
    if is_templated:
        return _effect(event) == "karaoke" or (event["kind"] == "Dialogue" and _effect(event) != "fx")
    return event["kind"] == "Dialogue"


def _read_event(raw: str, event: dict[str, str], number: int) -> Iterator[StampedLine]:
    start, end = (_CLOCK.fullmatch(event.get(key, "").strip()) for key in ("start", "end"))
    start_s = read_clock(start) if start else None
    end_s = read_clock(end) if end else None
    clock_s = start_s or 0.0
    words: tuple[tuple[str, float], ...] = ()
    parts: list[str] = []
    timed: list[tuple[str, float]] = []
    for part in event.get("text", "").replace(r"\h", " ").replace(r"\n", r"\N").split(r"\N"):
        begin, pieces = 0, []
        wait_s = 0.0
        for override in _OVERRIDE.finditer(part):
            pieces.append((part[begin : override.start()], clock_s))
            begin = override.end()
            for beat in _KARAOKE.finditer(override[0]):
                clock_s += wait_s  # the syllable before ends where this one starts
                wait_s = int(beat["centis"]) / 100
        pieces.append((part[begin:], clock_s))
        clock_s += wait_s
        joined, stamped = join_pieces([(piece, round(time_s, 3)) for piece, time_s in pieces])
        parts.append(joined)
        timed += stamped
    text = " ".join(filter(None, parts))
    if _KARAOKE.search(event.get("text", "")) and len(timed) > 1:
        words = tuple(timed)
    yield StampedLine(
        raw=raw,
        text=text,
        times_s=(start_s,) if start_s is not None and start_s <= MAX_TIME_S and text else (),
        is_stamp=not text,
        end_s=end_s,
        words=words,
        singer=(event.get("name") or event.get("actor") or "").strip(),
        line_number=number,
    )
