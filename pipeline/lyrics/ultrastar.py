"""UltraStar songs as lyrics: a syllable a note, timed in beats.

Source: the UltraStar format, usdx.eu/format: a beat is a quarter of what #BPM counts, #GAP is the first beat in
milliseconds, a syllable that begins or ends with a blank parts words, "~" holds the syllable before.
"""

import re

from pipeline.lyrics.stamps import MAX_TIME_S, SourceText, StampedLine, join_pieces

MIN_FITTING_SHARE = 0.8  # of the lines that are not blank
MAX_BPM = 100_000.0

_TAG = re.compile(r"#(?P<key>[A-Za-z0-9_]{1,30}):(?P<value>.*)")
_NOTE = re.compile(
    r"(?P<kind>[:*FRG])\s?(?P<beat>-?\d{1,7}) (?P<length>\d{1,7}) (?P<pitch>-?\d{1,5})(?: (?P<text>.*))?"
)
_BREAK = re.compile(r"-\s?(?P<beat>-?\d{1,7})(?:\s+(?P<next>-?\d{1,7}))?\s*")
_PLAYER = re.compile(r"P\s?[123]\s*")
_END = re.compile(r"E\s*")
_HOLD = re.compile(r"^~+|^\s*~+\s*$")


class _Song:
    """What is known while the lines of a song are read."""

    def __init__(self, tags: dict[str, str]) -> None:
        self.lines: list[StampedLine] = []
        self._tags = tags
        bpm = _read_number(tags.get("BPM", ""))
        self._beat_s = 15.0 / bpm if 0 < bpm <= MAX_BPM else None
        self._gap_s = _read_number(tags.get("GAP", "")) / 1000
        self._is_relative = tags.get("RELATIVE", "").strip().upper() == "YES"
        self._base_beat = 0
        self._pieces: list[tuple[str, float]] = []
        self._first = 0  # number of the line's first note
        self._end_s = 0.0
        self.player = ""

    def add_note(self, note: re.Match[str], number: int) -> None:
        start_s = self._time(int(note["beat"]))
        self._first = self._first if self._pieces else number
        self._pieces.append((_HOLD.sub("", note["text"] or ""), start_s))
        self._end_s = self._time(int(note["beat"]) + int(note["length"]))

    def end_line(self, line_break: re.Match[str] | None = None) -> None:
        text, words = join_pieces(self._pieces)
        if text:
            start_s = self._pieces[0][1]
            is_timed = self._beat_s is not None and start_s <= MAX_TIME_S
            self.lines.append(
                StampedLine(
                    raw=text,
                    text=text,
                    times_s=(start_s,) if is_timed else (),
                    end_s=self._end_s if is_timed else None,
                    words=words if is_timed and len(words) > 1 else (),
                    singer=self.player,
                    line_number=self._first,
                )
            )
        self._pieces = []
        if self._is_relative and line_break is not None:
            self._base_beat += int(line_break["next"] or line_break["beat"])

    def change_player(self, player: str) -> None:
        self.end_line()
        self.player, self._base_beat = player, 0

    def _time(self, beat: int) -> float:
        beats = beat + self._base_beat if self._is_relative else beat
        return max(round(self._gap_s + beats * (self._beat_s or 0.0), 3), 0.0)


def read_ultrastar(text: str) -> SourceText | None:
    """Read an UltraStar song, its lines put together from their notes; None if the text is none."""
    if "#" not in text:
        return None
    raw_lines = text.split("\n")
    filled = [raw for raw in raw_lines if raw.strip()]
    notes = sum(_NOTE.match(raw) is not None for raw in filled)
    fitting = notes + sum(
        any(form.fullmatch(raw.strip()) for form in (_TAG, _BREAK, _PLAYER, _END))
        for raw in filled
        if not _NOTE.match(raw)
    )
    if not notes or fitting < MIN_FITTING_SHARE * len(filled) or not _TAG.match(filled[0]):
        return None
    tags = {tag["key"].upper(): tag["value"].strip() for raw in filled if (tag := _TAG.fullmatch(raw.strip()))}
    song = _Song(tags)
    for number, raw in enumerate(raw_lines, start=1):
        line = raw.strip()
        if note := _NOTE.fullmatch(raw):
            song.add_note(note, number)
        elif line_break := _BREAK.fullmatch(line):
            song.end_line(line_break)
        elif _PLAYER.fullmatch(line):
            song.change_player(line.replace(" ", ""))
        elif line:
            song.end_line() if _END.fullmatch(line) else None
            song.lines.append(StampedLine(raw=raw, text=line, reason="metadata", line_number=number))
    song.end_line()
    return SourceText(
        format_name="ultrastar",
        lines=song.lines,
        title=tags.get("TITLE", ""),
        artist=tags.get("ARTIST", ""),
        language=tags.get("LANGUAGE", "").split(",")[0].strip(),
    )


def _read_number(value: str) -> float:
    try:
        number = float(value.strip().replace(",", "."))
    except ValueError:
        return 0.0
    return number if abs(number) < 1e9 else 0.0  # also what is no number
