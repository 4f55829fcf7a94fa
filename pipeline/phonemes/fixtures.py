"""How far the reference mode of the phonemes equals the reference: counts per category for a fixture file.

A row of a fixture says by its keys what it holds: `text` with `tokens` and `ids` (lines), `text` with `error`, `lyrics`
with `ids` and two index streams (whole songs), `word` with `tokens` per chunk, or `raw` with `clean`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.lyrics.line_text import HAN
from pipeline.phonemes.phonemizer import Phonemizer
from pipeline.phonemes.reference import clean_lyrics, read_symbols
from shards.vocabulary import COMMA_ID, PERIOD_ID, TAG_IDS

MIN_CHINESE_RATE = 0.97  # of lines with Chinese; the rest of the lines counts as English
MIN_ENGLISH_RATE = 0.94
MIN_SONG_RATE = 0.9  # of the id sequences of whole songs, which one differing word makes unequal
MAX_SENTENCE_INDEX = 49  # 50 sentence embeddings

Row = dict[str, Any]
Checks = dict[str, bool]


def check_g2p(path: Path) -> dict[str, Any]:
    """Compare a g2p fixture with the reference mode.

    Returns:
        `rows`, `equal`, and a share per kind; `categories` with [equal, rows] each; `differing` with what was expected
        and found, and the class of the difference; `ok`, whether every rate is high enough (Chinese lines 0.97, English
        lines 0.94, ids of whole songs 0.9, all else 1).

    Raises:
        ValueError: the file is no g2p fixture.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected JSON objects, one a line")
    counts: dict[str, list[int]] = {}
    categories: dict[str, list[int]] = {}
    differing: list[Row] = []
    for row in rows:
        compare = _choose_check(row, path)
        checks, detail = compare(row)
        for name, is_equal in checks.items():
            _count(counts, name, is_equal)
        _count(categories, row.get("cat", "all"), all(checks.values()))
        if not all(checks.values()):
            differing.append(detail | {"unequal": [name for name, is_equal in checks.items() if not is_equal]})
    rates = {f"{name}_rate": round(equal / total, 4) for name, (equal, total) in sorted(counts.items())}
    floors = {
        "chinese_lines_rate": MIN_CHINESE_RATE,
        "english_lines_rate": MIN_ENGLISH_RATE,
        "song_ids_rate": MIN_SONG_RATE,
    }
    return {
        "rows": len(rows),
        "equal": len(rows) - len(differing),
        **rates,
        "categories": {name: tuple(count) for name, count in sorted(categories.items())},
        "differing": differing,
        "ok": all(rate >= floors.get(name, 1.0) for name, rate in rates.items()),
    }


def index_streams(ids: list[int]) -> tuple[list[int], list[int]]:
    """Return the two index streams of the lyric embedding: the current section's tag, and the sentence in the section.

    Tags, commas and periods stand for themselves in the first and are 0 in the second; sentences count from 1, anew at
    every tag, up to 49.
    """
    tags: list[int] = []
    sentences: list[int] = []
    tag, sentence = 0, 1
    for number in ids:
        is_tag = number in TAG_IDS.values()
        if is_tag:
            tag, sentence = number, 1
        is_mark = is_tag or number in (COMMA_ID, PERIOD_ID)
        tags.append(number if is_mark else tag)
        sentences.append(0 if is_mark else min(sentence, MAX_SENTENCE_INDEX))
        sentence += number == PERIOD_ID
    return tags, sentences


def classify_difference(expected: list[str], found: list[str]) -> str:
    """Name how two readings differ: only in `tones` (or stress), in `marks` (pauses, empty symbols), or in `sounds`."""
    if [symbol.rstrip("012345") for symbol in expected] == [symbol.rstrip("012345") for symbol in found]:
        return "tones"
    sounds = [[symbol for symbol in symbols if any(map(str.isalnum, symbol))] for symbols in (expected, found)]
    return "marks" if sounds[0] == sounds[1] else "sounds"


def _choose_check(row: Row, path: Path) -> Callable[[Row], tuple[Checks, Row]]:
    for keys, check in _CHECKS:
        if keys <= row.keys():
            return check
    raise ValueError(f"{path}: a row has the keys {sorted(row)}; expected one of the layouts of the g2p fixtures")


def _check_line(row: Row) -> tuple[Checks, Row]:
    found = read_symbols(row["text"])
    result = Phonemizer("reference").lyric_ids(row["text"])
    kind = "chinese_lines" if HAN.search(row["text"]) else "english_lines"
    is_equal = found == row["tokens"] and result.ids == row["ids"] and list(result.unknown) == row.get("dropped", [])
    detail = {"text": row["text"], "class": classify_difference(row["tokens"], found)}
    return {kind: is_equal}, detail | {"expected": row["tokens"], "found": found}


def _check_error(row: Row) -> tuple[Checks, Row]:
    try:
        found: Any = read_symbols(row["text"])
    except ValueError:
        return {"errors": True}, {}
    return {"errors": False}, {"text": row["text"], "expected": row["error"], "found": found}


def _check_song(row: Row) -> tuple[Checks, Row]:
    found = Phonemizer("reference").lyric_ids(row["lyrics"]).ids
    tags, sentences = index_streams(row["ids"])  # of the expected ids: a differing phoneme is counted once
    checks = {
        "song_ids": found == row["ids"],
        "section_tag_id": tags == row["section_tag_id"],
        "sentence_index": sentences == row["sentence_index"],
    }
    return checks, {"lyrics": row["lyrics"], "expected": row["ids"], "found": found}


def _check_chunks(row: Row) -> tuple[Checks, Row]:
    found = {chunk: read_symbols(chunk) for chunk in row["tokens"]}
    return {"homographs": found == row["tokens"]}, {"text": row["word"], "expected": row["tokens"], "found": found}


def _check_clean(row: Row) -> tuple[Checks, Row]:
    found = clean_lyrics(row["raw"])
    return {"cleaned": found == row["clean"]}, {"text": row["raw"], "expected": row["clean"], "found": found}


def _count(counts: dict[str, list[int]], name: str, is_equal: bool) -> None:
    counts.setdefault(name, [0, 0])
    counts[name][0] += is_equal
    counts[name][1] += 1


_CHECKS: tuple[tuple[set[str], Callable[[Row], tuple[Checks, Row]]], ...] = (
    ({"text", "tokens", "ids"}, _check_line),
    ({"text", "error"}, _check_error),
    ({"lyrics", "ids", "section_tag_id", "sentence_index"}, _check_song),
    ({"word", "tokens"}, _check_chunks),
    ({"raw", "clean"}, _check_clean),
)
