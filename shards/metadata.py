"""The metadata of a sample: its JSON bytes and what must hold in it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
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
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")  # of a path such as $.lines[3].text

_Name = Annotated[str, Meta(min_length=1)]
_Time = Annotated[float, Meta(ge=0, le=_MAX_TIME_S)]  # seconds from the start of the song
_Frame = Annotated[int, Meta(ge=0, le=MAX_NUM_FRAMES)]
_SymbolId = Annotated[int, Meta(ge=0, lt=len(SYMBOLS))]


# The types of every key that the format demands; keys that are not listed here may be there and hold anything.
class _Span(msgspec.Struct, gc=False):
    start_s: _Time
    end_s: _Time
    start_frame: _Frame
    end_frame: _Frame


class _Section(_Span, gc=False):
    label: str


class _Word(_Span, gc=False):
    text: str
    line: int


class _Line(_Span, gc=False):
    text: str
    section_index: int
    phoneme_ids: list[_SymbolId]


class _LineAsFound(msgspec.Struct, gc=False):
    text: str
    section_index: int
    phoneme_ids: list[_SymbolId]
    start_s: None
    end_s: None
    start_frame: None
    end_frame: None


class _Song(msgspec.Struct, gc=False):
    song_id: _Name
    language: _Name
    duration_s: _Time
    num_frames: Annotated[int, Meta(ge=1, le=MAX_NUM_FRAMES)]
    lines: list[_Line]
    words: list[_Word]
    sections: list[_Section]
    songbloom_lyrics: str
    prompt_start_frames: list[_Frame]
    metrics: dict[str, Any]
    provenance: dict[str, Any]


class _SongAsFound(_Song, gc=False):
    lines: list[_LineAsFound]  # type: ignore[assignment]  # the same name, other times


_SONG_TYPES: dict[str, type[_Song]] = dict(zip(LYRICS_SOURCES, (_Song, _SongAsFound), strict=True))


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
        metadata = msgspec.json.decode(bytes(data))
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ShardError(f"{where}: metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ShardError(f"{where}: metadata is a {type(metadata).__name__}, expected an object")
    return metadata


def check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    """Raise ShardError unless `metadata` is that of a song as shards/README.md describes it.

    Keys that the format does not know are accepted: readers ignore them.
    """
    found_version = metadata.get("schema_version")
    if found_version != SCHEMA_VERSION or type(found_version) is not int:
        raise ShardError(f"{where}: schema version {found_version!r}, this reader knows {SCHEMA_VERSION}")
    song_type = _SONG_TYPES.get(str(metadata.get("lyrics_source")))
    if song_type is None:
        found = metadata.get("lyrics_source")
        raise ShardError(f"{where}: lyrics_source is {found!r}, expected one of {LYRICS_SOURCES}")
    try:
        song = msgspec.convert(metadata, song_type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ShardError(f"{where}: metadata: {error}{_show_found(metadata, str(error))}") from error
    if abs(song.duration_s - song.num_frames / FRAME_RATE_HZ) > _MAX_CLOCK_ERROR_S:
        raise ShardError(
            f"{where}: {song.num_frames} frames at {FRAME_RATE_HZ} Hz are not {song.duration_s} s; "
            "was the audio resampled before it was encoded?"
        )
    if not is_sha256(song.provenance.get("sha256")):
        raise ShardError(f"{where}: provenance.sha256 is not the SHA-256 of the audio file")
    _check_sections(song, where)
    _check_lines(song, where)
    _check_words(song, where)
    for number, start_frame in enumerate(song.prompt_start_frames):
        if start_frame >= song.num_frames:
            raise ShardError(f"{where}: prompt {number} starts at frame {start_frame} of {song.num_frames}")


def _show_found(metadata: object, message: str) -> str:
    """Return what stands at the path that ends a message of msgspec."""
    found: Any = metadata
    try:
        for key, position in _STEP.findall(message.partition("`$")[2]):
            found = found[key] if key else found[int(position)]
    except (LookupError, TypeError):
        return ""
    return f", found {repr(found)[:80]}"


def _check_spans(spans: Sequence[_Span], num_frames: int, where: str, name: str) -> None:
    for number, span in enumerate(spans):
        if not span.start_frame <= span.end_frame <= num_frames or span.start_s > span.end_s:
            raise ShardError(
                f"{where}: {name} {number}: spans {span.start_s}..{span.end_s} s, frames {span.start_frame}.."
                f"{span.end_frame}; expected start <= end, within 0..{num_frames} frames"
            )


def _check_sections(song: _Song, where: str) -> None:
    if not song.sections:
        raise ShardError(f"{where}: no sections; expected at least one that covers the song")
    _check_spans(song.sections, song.num_frames, where, "section")
    expected_start = 0
    for number, section in enumerate(song.sections):
        name = f"{where}: section {number}"
        if section.label not in SECTION_LABELS:
            raise ShardError(f"{name}: label {section.label!r}, expected one of {', '.join(SECTION_LABELS)}")
        if section.start_frame != expected_start:
            raise ShardError(
                f"{name}: starts at frame {section.start_frame}, expected {expected_start}: sections leave no gaps"
            )
        expected_start = section.end_frame


def _check_lines(song: _Song, where: str) -> None:
    if not isinstance(song, _SongAsFound):
        _check_spans(song.lines, song.num_frames, where, "line")
    num_sections = len(song.sections)
    for number, line in enumerate(song.lines):
        if not 0 <= line.section_index < num_sections:
            raise ShardError(
                f"{where}: line {number}: section_index is {line.section_index}, the song has {num_sections} sections"
            )


def _check_words(song: _Song, where: str) -> None:
    _check_spans(song.words, song.num_frames, where, "word")
    num_lines = len(song.lines)
    for number, word in enumerate(song.words):
        if not 0 <= word.line < num_lines:
            raise ShardError(f"{where}: word {number}: line is {word.line}, the song has {num_lines} lines")
