"""Timed lines in tables: Audacity's labels (seconds), Whisper's TSV and CSV (milliseconds)."""

import re
from collections.abc import Iterator

from pipeline.lyrics.stamps import MAX_TIME_S, SourceText, StampedLine

MIN_LABEL_SHARE = 0.8  # of the lines that are not blank

_LABEL = re.compile(r"(?P<start>\d{1,7}(?:[.,]\d{1,9})?)\t(?P<end>\d{1,7}(?:[.,]\d{1,9})?)(?:\t(?P<text>.*))?")
_FREQUENCIES = re.compile(r"\\\t-?[\d.,]+\t-?[\d.,]+\s*")  # of the label above
_WHISPER_HEAD = re.compile(r"start(?P<comma>[\t,])end[\t,](?:speaker[\t,])?text")
_WHISPER_ROW = re.compile(r"(?P<start>\d{1,9})[\t,](?P<end>\d{1,9})[\t,](?P<text>.*)")


def read_table(text: str) -> SourceText | None:
    """Read labels or a transcript; None if the text is none."""
    if "\t" not in text and not text.lstrip().startswith("start,"):
        return None
    raw_lines = text.split("\n")
    filled = [raw for raw in raw_lines if raw.strip()]
    head = _WHISPER_HEAD.fullmatch(filled[0].strip()) if filled else None
    if head:
        return SourceText(format_name="whisper", lines=list(_read_whisper(raw_lines, head["comma"])))
    fitting = sum(bool(_LABEL.match(raw) or _FREQUENCIES.fullmatch(raw)) for raw in filled)
    if not filled or not _LABEL.match(filled[0]) or fitting < MIN_LABEL_SHARE * len(filled):
        return None
    return SourceText(format_name="audacity", lines=list(_read_labels(raw_lines)))


def _read_labels(raw_lines: list[str]) -> Iterator[StampedLine]:
    for number, raw in enumerate(raw_lines, start=1):
        label = _LABEL.fullmatch(raw.rstrip("\r"))
        if label is None:
            is_rest = _FREQUENCIES.fullmatch(raw) is not None
            yield StampedLine(raw=raw, text="" if is_rest else raw.strip(), is_stamp=is_rest, line_number=number)
            continue
        start_s, end_s = (round(float(label[key].replace(",", ".")), 3) for key in ("start", "end"))
        words = (label["text"] or "").strip()
        yield StampedLine(
            raw=raw,
            text=words,
            times_s=(start_s,) if start_s <= MAX_TIME_S else (),
            is_stamp=not words,
            end_s=end_s if end_s > start_s else None,
            line_number=number,
        )


def _read_whisper(raw_lines: list[str], comma: str) -> Iterator[StampedLine]:
    for number, raw in enumerate(raw_lines, start=1):
        row = _WHISPER_ROW.fullmatch(raw.strip())
        if row is None:
            is_head = _WHISPER_HEAD.fullmatch(raw.strip()) is not None
            yield StampedLine(raw=raw, text="" if is_head else raw.strip(), is_stamp=is_head, line_number=number)
            continue
        words = row["text"].strip()
        if comma == "," and words.startswith('"'):
            words = words.removeprefix('"').removesuffix('"').replace('""', '"').strip()
        start_s = int(row["start"]) / 1000
        yield StampedLine(
            raw=raw,
            text=words,
            times_s=(start_s,) if start_s <= MAX_TIME_S and words else (),
            is_stamp=not words,
            end_s=int(row["end"]) / 1000,
            line_number=number,
        )
