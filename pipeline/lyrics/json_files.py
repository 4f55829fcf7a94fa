"""Transcripts and lyrics in JSON: Whisper and its relatives, players' line lists, JSON that holds a lyrics file."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.lyrics.stamps import MAX_TIME_S, SourceText, StampedLine, join_pieces

_LIST_KEYS = ("segments", "transcription", "chunks", "lines")
_TEXT_KEYS = ("text", "words", "line", "lyric")
_INNER_KEYS = ("syncedLyrics", "synced_lyrics", "plainLyrics", "plain_lyrics", "lrc", "lyric", "lyrics", "text")
_SPECIAL = re.compile(r"<\|[^|<>]{1,20}\|>|\[_[A-Z]{2,5}_\d*\]?")  # Whisper's own tokens
MAX_DEPTH = 4  # of objects around the list


def read_json(text: str, read_inner: Callable[[str], SourceText]) -> SourceText | None:
    """Read a whole file of JSON; None if it is none, or none that is known.

    Known are Whisper's segments (also of faster-whisper, WhisperX, whisper.cpp, transformers), Spotify's lines,
    Musixmatch's subtitles, and an object of which one member is a lyrics file (LRCLIB, NetEase).

    Args:
        text: of the file.
        read_inner: reads a lyrics file inside.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    rows = _find_rows(data, 0)
    if rows is not None:
        lines = _read_rows(rows, text)
        return SourceText(format_name="json", lines=lines, language=_find_language(data)) if lines else None
    inner = _find_inner(data, 0)
    return read_inner(inner) if inner is not None else None


def _find_rows(data: Any, depth: int) -> list[dict[str, Any]] | None:
    if isinstance(data, list):
        rows = [row for row in data if isinstance(row, dict)]
        is_known = bool(rows) and len(rows) == len(data) and all(_start(row) is not None for row in rows[:3])
        return rows if is_known and any(isinstance(row.get(key), str) for key in _TEXT_KEYS for row in rows) else None
    if isinstance(data, dict) and depth < MAX_DEPTH:
        for key in (*(key for key in _LIST_KEYS if key in data), "lyrics", "message", "body"):
            if (found := _find_rows(data.get(key), depth + 1)) is not None:
                return found
    return None


def _find_inner(data: Any, depth: int) -> str | None:
    """Return the member that is a lyrics file: more than one line."""
    if not isinstance(data, dict) or depth > MAX_DEPTH:
        return None
    for key in _INNER_KEYS:
        value = data.get(key)
        if isinstance(value, str) and "\n" in value.strip():
            return value
        if isinstance(value, dict) and (found := _find_inner(value, depth + 1)) is not None:
            return found
    return None


def _find_language(data: Any) -> str:
    for part in (data, data.get("result") if isinstance(data, dict) else None):
        if isinstance(part, dict) and isinstance(part.get("language"), str):
            return str(part["language"])
    return ""


def _number(value: Any, unit: float = 1.0) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        return None
    return round(float(value) * unit, 3)


def _start(row: dict[str, Any]) -> float | None:
    """Return the second that a row starts at, in whichever member it stands."""
    if "startTimeMs" in row:
        return _number(row["startTimeMs"], 0.001)
    if isinstance(offsets := row.get("offsets"), dict):
        return _number(offsets.get("from"), 0.001)
    if isinstance(stamp := row.get("timestamp"), list) and stamp:
        return _number(stamp[0])
    if isinstance(time := row.get("time"), dict):
        return _number(time.get("total"))
    return _number(row.get("start"))


def _end(row: dict[str, Any]) -> float | None:
    if isinstance(offsets := row.get("offsets"), dict):
        return _number(offsets.get("to"), 0.001)
    if isinstance(stamp := row.get("timestamp"), list) and len(stamp) > 1:
        return _number(stamp[1])
    if "endTimeMs" in row:
        return _number(row["endTimeMs"], 0.001) or None  # Spotify writes 0 where it does not know
    return _number(row.get("end"))


def _read_rows(rows: Sequence[dict[str, Any]], text: str) -> list[StampedLine]:
    """Make a line of every row; line numbers are found by looking for the words in the file."""
    lines = []
    position, number = 0, 1
    for row in rows:
        written = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)), "")
        start_s = _start(row)
        for form in (json.dumps(written, ensure_ascii=False), json.dumps(written)):
            place = text.find(form, position) if written else -1
            if place >= 0:
                number += text.count("\n", position, place)
                position = place
                break
        words = _read_words(row.get("words"))
        cleaned = " ".join(_SPECIAL.sub(" ", written).split())
        lines.append(
            StampedLine(
                raw=cleaned or written,
                text=cleaned,
                times_s=(start_s,) if cleaned and start_s is not None and start_s <= MAX_TIME_S else (),
                is_stamp=not cleaned,
                end_s=_end(row),
                words=words,
                line_number=number,
            )
        )
    return [line for line in lines if line.raw.strip()]


def _read_words(words: Any) -> tuple[tuple[str, float], ...]:
    """Return Whisper's words with their seconds; empty unless every word has one."""
    if not isinstance(words, list):
        return ()
    pieces: list[tuple[str, float]] = []
    for word in words:
        written = word.get("word", word.get("text")) if isinstance(word, dict) else None
        start_s = _start(word) if isinstance(word, dict) else None
        if not isinstance(written, str) or start_s is None:
            return ()
        pieces.append((written, start_s))
    if not any(piece[:1].isspace() for piece, _ in pieces[1:]):  # WhisperX writes words without their blanks
        pieces = [(f"{piece} ", start_s) for piece, start_s in pieces]
    return join_pieces(pieces)[1]
