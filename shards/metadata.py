"""The metadata of a sample: its JSON bytes and what must hold in it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.schema import (
    FRAME_RATE_HZ,
    LYRICS_SOURCES,
    MAX_METADATA_BYTES,
    MAX_NUM_FRAMES,
    SCHEMA_VERSION,
    SECTION_LABELS,
    ShardError,
)
from shards.vocabulary import SYMBOLS

_MAX_TIME_S = MAX_NUM_FRAMES / FRAME_RATE_HZ
_MAX_CLOCK_ERROR_S = 1.0  # encoders may drop or pad a little at the end; a wrong sample rate is far off
_SHA256 = re.compile("[0-9a-f]{64}")

# kind of each key; the kinds are explained in _matches
_SONG_KEYS = {
    "schema_version": "integer",
    "song_id": "name",
    "language": "name",
    "duration_s": "time",
    "num_frames": "integer",
    "lyrics_source": "name",
    "lines": "list",
    "words": "list",
    "sections": "list",
    "songbloom_lyrics": "text",
    "prompt_start_frames": "integers",
    "metrics": "object",
    "provenance": "object",
}
_SPAN_KEYS = {"start_s": "time", "end_s": "time", "start_frame": "integer", "end_frame": "integer"}
_NO_SPAN_KEYS = dict.fromkeys(_SPAN_KEYS, "null")
_LINE_KEYS = {"text": "text", "section_index": "integer", "phoneme_ids": "integers"}
_WORD_KEYS = {"text": "text", "line": "integer", **_SPAN_KEYS}
_SECTION_KEYS = {"label": "name", **_SPAN_KEYS}


def is_sha256(value: object) -> bool:
    """Say whether `value` is a SHA-256 in lower-case hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def encode_metadata(metadata: Mapping[str, Any], where: str) -> bytes:
    """Return `metadata` as JSON bytes: sorted keys, no spaces, UTF-8, no NaN; equal values give equal bytes."""
    try:
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"{where}: metadata cannot be written as JSON: {error}") from error
    if len(data) > MAX_METADATA_BYTES:
        raise ShardError(f"{where}: metadata has {len(data)} bytes, expected at most {MAX_METADATA_BYTES}")
    return data


def decode_metadata(data: NDArray[np.uint8] | bytes, where: str) -> dict[str, Any]:
    """Return the object in the JSON bytes `data`; what it holds is for `check_metadata` to judge."""
    if len(data) > MAX_METADATA_BYTES:
        raise ShardError(f"{where}: metadata has {len(data)} bytes, expected at most {MAX_METADATA_BYTES}")
    try:
        metadata = json.loads(bytes(data), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ShardError(f"{where}: metadata is a {type(metadata).__name__}, expected an object")
    return metadata


def check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    """Raise ShardError unless `metadata` is that of a song as shards/README.md describes it.

    Keys that the format does not know are accepted: readers ignore them.
    """
    found_version = metadata.get("schema_version")
    if found_version != SCHEMA_VERSION:
        raise ShardError(f"{where}: schema version {found_version!r}, this reader knows {SCHEMA_VERSION}")
    _check_keys(metadata, _SONG_KEYS, where)
    if metadata["lyrics_source"] not in LYRICS_SOURCES:
        raise ShardError(f"{where}: lyrics_source is {metadata['lyrics_source']!r}, expected one of {LYRICS_SOURCES}")
    if not 1 <= metadata["num_frames"] <= MAX_NUM_FRAMES:
        raise ShardError(f"{where}: num_frames is {metadata['num_frames']}, expected 1 to {MAX_NUM_FRAMES}")
    if abs(metadata["duration_s"] - metadata["num_frames"] / FRAME_RATE_HZ) > _MAX_CLOCK_ERROR_S:
        raise ShardError(
            f"{where}: {metadata['num_frames']} frames at {FRAME_RATE_HZ} Hz are not {metadata['duration_s']} s; "
            "was the audio resampled before it was encoded?"
        )
    if not is_sha256(metadata["provenance"].get("sha256")):
        raise ShardError(f"{where}: provenance.sha256 is not the SHA-256 of the audio file")
    _check_sections(metadata["sections"], metadata["num_frames"], where)
    _check_lines(metadata, where)
    _check_words(metadata, where)
    for number, start_frame in enumerate(metadata["prompt_start_frames"]):
        if not 0 <= start_frame < metadata["num_frames"]:
            raise ShardError(f"{where}: prompt {number} starts at frame {start_frame} of {metadata['num_frames']}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _matches(value: object, kind: str) -> bool:
    if kind == "integer":
        return type(value) is int
    if kind == "time":  # seconds from the start of the song
        return type(value) in (int, float) and 0 <= value <= _MAX_TIME_S  # type: ignore[operator]
    if kind == "text":
        return type(value) is str
    if kind == "name":
        return type(value) is str and value != ""
    if kind == "null":
        return value is None
    if kind == "list":
        return type(value) is list
    if kind == "integers":
        return type(value) is list and all(type(item) is int for item in value)
    assert kind == "object", kind
    return type(value) is dict


def _check_keys(record: object, kinds: Mapping[str, str], where: str) -> None:
    if not isinstance(record, Mapping):
        raise ShardError(f"{where}: found a {type(record).__name__}, expected an object")
    for key, kind in kinds.items():
        if key not in record:
            raise ShardError(f"{where}: key {key!r} is missing")
        if not _matches(record[key], kind):
            found = repr(record[key])
            raise ShardError(f"{where}: {key} is {found[:80]}, expected {kind}")


def _check_span(record: Mapping[str, Any], num_frames: int, where: str) -> None:
    if not 0 <= record["start_frame"] <= record["end_frame"] <= num_frames or record["start_s"] > record["end_s"]:
        raise ShardError(
            f"{where}: spans {record['start_s']}..{record['end_s']} s, frames {record['start_frame']}.."
            f"{record['end_frame']}; expected start <= end, within 0..{num_frames} frames"
        )


def _check_sections(sections: Sequence[Any], num_frames: int, where: str) -> None:
    if not sections:
        raise ShardError(f"{where}: no sections; expected at least one that covers the song")
    expected_start = 0
    for number, section in enumerate(sections):
        name = f"{where}: section {number}"
        _check_keys(section, _SECTION_KEYS, name)
        _check_span(section, num_frames, name)
        if section["label"] not in SECTION_LABELS:
            raise ShardError(f"{name}: label {section['label']!r}, expected one of {', '.join(SECTION_LABELS)}")
        if section["start_frame"] != expected_start:
            raise ShardError(
                f"{name}: starts at frame {section['start_frame']}, expected {expected_start}: sections leave no gaps"
            )
        expected_start = section["end_frame"]


def _check_lines(metadata: Mapping[str, Any], where: str) -> None:
    has_times = metadata["lyrics_source"] == "clean"
    kinds = {**_LINE_KEYS, **(_SPAN_KEYS if has_times else _NO_SPAN_KEYS)}
    num_sections = len(metadata["sections"])
    for number, line in enumerate(metadata["lines"]):
        name = f"{where}: line {number}"
        _check_keys(line, kinds, name)
        if has_times:
            _check_span(line, metadata["num_frames"], name)
        if not 0 <= line["section_index"] < num_sections:
            raise ShardError(f"{name}: section_index is {line['section_index']}, the song has {num_sections} sections")
        if not all(0 <= phoneme_id < len(SYMBOLS) for phoneme_id in line["phoneme_ids"]):
            raise ShardError(f"{name}: phoneme_ids hold an id outside 0..{len(SYMBOLS) - 1}")


def _check_words(metadata: Mapping[str, Any], where: str) -> None:
    num_lines = len(metadata["lines"])
    for number, word in enumerate(metadata["words"]):
        name = f"{where}: word {number}"
        _check_keys(word, _WORD_KEYS, name)
        _check_span(word, metadata["num_frames"], name)
        if not 0 <= word["line"] < num_lines:
            raise ShardError(f"{name}: line is {word['line']}, the song has {num_lines} lines")
