"""Subtitles that count frames or tenths of seconds (MicroDVD, MPL2), and transcripts with clocks on their own lines.

Sources: MicroDVD's own description, "{first frame}{last frame}text|next line", with the frame rate as the text of a
first line of frames 0 or 1; MPL2, "[tenths][tenths]text|/line in italics"; the text that YouTube shows as a transcript.
"""

import re

from pipeline.lyrics.stamps import MAX_TIME_S, SourceText, StampedLine, read_clock

MIN_CUES = 3  # in a row of both numbers
MIN_SHARE = 0.8  # of the lines that are not blank
MAX_CUE_LINES = 20  # more stay one line
MIN_RATE, MAX_RATE = 10.0, 120.0  # frames a second

_CUE = re.compile(r"(?P<mark>[\[{])(?P<start>\d{1,7})[\]}][\[{](?P<end>\d{0,7})[\]}](?P<text>.*)")
_RATE = re.compile(r"[{](?P<first>[01])[}][{][01][}]\s*(?P<rate>\d{2,3}(?:[.,]\d{1,6})?)\s*")
_CODE = re.compile(r"\{[yYfFsScCpPoOhH]:[^{}]{0,60}\}")  # style, font, size, colour, place
_CLOCK_ALONE = re.compile(
    r"\s*(?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<seconds>\d\d)(?:[.,](?P<fraction>\d{1,9}))?\s*"
)
_TENTH_S = 0.1


def read_frames(text: str) -> SourceText | None:
    """Read MicroDVD or MPL2; None if the text is none. MicroDVD without a frame rate has words but no times."""
    if "}{" not in text and "][" not in text:
        return None
    raw_lines = text.split("\n")
    filled = [raw.strip() for raw in raw_lines if raw.strip()]
    cues = [cue for raw in filled if (cue := _CUE.fullmatch(raw))]
    marks = {cue["mark"] for cue in cues}
    if len(cues) < MIN_CUES or len(cues) < MIN_SHARE * len(filled) or len(marks) > 1:
        return None
    is_microdvd = marks == {"{"}
    rate = _RATE.fullmatch(filled[0]) if is_microdvd else None
    frame_rate = float(rate["rate"].replace(",", ".")) if rate else 0.0
    unit_s = _TENTH_S if not is_microdvd else 1 / frame_rate if MIN_RATE <= frame_rate <= MAX_RATE else None
    lines: list[StampedLine] = []
    for number, raw in enumerate(raw_lines, start=1):
        cue = _CUE.fullmatch(raw.strip())
        if cue is None or (rate and raw.strip() == filled[0]):
            reason = "metadata" if cue else ""
            lines.append(StampedLine(raw=raw, text=raw.strip(), reason=reason, line_number=number))
        else:
            lines += _read_cue(raw, cue, unit_s, number)
    return SourceText(format_name="microdvd" if is_microdvd else "mpl2", lines=lines)


def _read_cue(raw: str, cue: re.Match[str], unit_s: float | None, number: int) -> list[StampedLine]:
    """Return the lines of a cue; the first has its start, the last its end."""
    texts = [_CODE.sub("", part).strip().removeprefix("/") for part in cue["text"].split("|", MAX_CUE_LINES - 1)]
    texts = [part for part in texts if part]
    start_s = None if unit_s is None else round(int(cue["start"]) * unit_s, 3)
    end_s = None if unit_s is None or not cue["end"] else round(int(cue["end"]) * unit_s, 3)
    if not texts:
        return [StampedLine(raw=raw, text="", is_stamp=True, line_number=number)]
    lines = [StampedLine(raw=raw if len(texts) == 1 else part, text=part, line_number=number) for part in texts]
    if start_s is not None and start_s <= MAX_TIME_S:
        lines[0] = lines[0]._replace(times_s=(start_s,))
        if end_s is not None and end_s > start_s:
            lines[-1] = lines[-1]._replace(end_s=end_s)
    return lines


def read_transcript(text: str) -> SourceText | None:
    """Read a transcript whose lines stand under a clock each, which never goes back; None if the text is none."""
    if ":" not in text:
        return None
    raw_lines = text.split("\n")
    clocks = {n: read_clock(clock) for n, raw in enumerate(raw_lines) if (clock := _CLOCK_ALONE.fullmatch(raw))}
    filled = [n for n, raw in enumerate(raw_lines) if raw.strip()]
    times = list(clocks.values())
    if len(clocks) < MIN_CUES or 3 * len(clocks) < len(filled) or times != sorted(times) or len({*times}) < MIN_CUES:
        return None
    lines: list[StampedLine] = []
    time_s: float | None = None
    for number, raw in enumerate(raw_lines):
        is_clock = number in clocks
        is_timed = not is_clock and raw.strip() != "" and time_s is not None and time_s <= MAX_TIME_S
        lines.append(
            StampedLine(
                raw=raw,
                text="" if is_clock else raw.strip(),
                times_s=(time_s,) if is_timed and time_s is not None else (),
                is_stamp=is_clock,
                line_number=number + 1,
            )
        )
        time_s = clocks[number] if is_clock else time_s if not raw.strip() else None
    return SourceText(format_name="transcript", lines=lines)
