"""Metadata: its bytes, and every rule with a song that breaks it."""

from collections.abc import Callable
from typing import Any

import pytest

from shards.metadata import check_metadata, decode_metadata, encode_metadata
from shards.reader import Sample
from shards.schema import ShardError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def metadata(make_sample: Callable[..., Sample]) -> dict[str, Any]:
    return make_sample().metadata


def test_bytes_are_sorted_utf8(metadata: dict[str, Any]) -> None:
    data = encode_metadata(dict(reversed(metadata.items())), "x")
    assert data == encode_metadata(metadata, "x")
    assert data.startswith(b'{"duration_s":24.0,"language":"en",')
    assert "风".encode() in data
    assert decode_metadata(data, "x") == metadata


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", "\ud800"])
def test_values_that_are_not_json_are_refused(metadata: dict[str, Any], value: object) -> None:
    metadata["metrics"] = {"x": value}
    with pytest.raises(ShardError, match="cannot be written as JSON"):
        encode_metadata(metadata, "x")


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe", b"[" * 100_000, b"[]", b'"text"', b"1" * 5000]
)
def test_hostile_json_is_refused(data: bytes) -> None:
    with pytest.raises(ShardError, match="^x: metadata is"):
        decode_metadata(data, "x")


def test_song_as_found_has_lines_without_times(metadata: dict[str, Any]) -> None:
    metadata |= {"lyrics_source": "raw", "words": [], "sections": [{**metadata["sections"][0], "end_frame": 600}]}
    for line in metadata["lines"]:
        line |= {"section_index": 0, "start_s": None, "end_s": None, "start_frame": None, "end_frame": None}
    check_metadata(metadata, "x")
    metadata["lyrics_source"] = "clean"
    with pytest.raises(ShardError, match=r"Expected `float`, got `null` - at `\$.lines\[0\].start_s`, found None"):
        check_metadata(metadata, "x")


def test_unknown_keys_are_accepted(metadata: dict[str, Any]) -> None:
    check_metadata({**metadata, "title": "later version"}, "x")


BROKEN: dict[str, tuple[Change, str]] = {
    "version": (lambda song: song.update(schema_version=2), "schema version 2, this reader knows 1"),
    "no version": (lambda song: song.pop("schema_version"), "schema version None"),
    "no lines": (lambda song: song.pop("lines"), "missing required field `lines`"),
    "empty id": (lambda song: song.update(song_id=""), "`str` of length >= 1 - at .*song_id`, found ''"),
    "huge": (lambda song: song.update(num_frames=10**400), "num_frames`, found 1000"),
    "late": (lambda song: song["lines"][0].update(end_s=10**400), "end_s`, found 1000"),
    "bool": (lambda song: song.update(num_frames=True), "got `bool` - at .*num_frames`, found True"),
    "infinite": (lambda song: song.update(duration_s=float("inf")), "duration_s`, found inf"),
    "clock": (lambda song: song.update(duration_s=36.0), "600 frames at 25 Hz are not 36.0 s"),
    "source": (lambda song: song.update(lyrics_source="guessed"), "lyrics_source is 'guessed'"),
    "sha256": (lambda song: song["provenance"].update(sha256="abc"), "provenance.sha256"),
    "list": (lambda song: song.update(words={}), "Expected `array`, got `object` - at .*words`, found {}"),
    "no sections": (lambda song: song.update(sections=[]), "no sections"),
    "label": (lambda song: song["sections"][0].update(label="solo"), "section 0: label 'solo'"),
    "gap": (lambda song: song["sections"][1].update(start_frame=101), "section 1: starts at frame 101, expected 100"),
    "backwards": (lambda song: song["lines"][0].update(end_frame=5), "line 0: spans .* frames 125..5"),
    "past the end": (lambda song: song["lines"][2].update(end_frame=601), "within 0..600 frames"),
    "seconds": (lambda song: song["words"][0].update(end_s=1), "word 0: spans 5.0..1.0 s"),
    "section": (lambda song: song["lines"][0].update(section_index=3), "section_index is 3, the song has 3"),
    "phoneme": (
        lambda song: song["lines"][0].update(phoneme_ids=[330]),
        "`int` <= 329 - at .*phoneme_ids.0.`, found 330",
    ),
    "phoneme type": (
        lambda song: song["lines"][0].update(phoneme_ids=["AH0"]),
        "Expected `int`, got `str` - at .*found 'AH0'",
    ),
    "word line": (lambda song: song["words"][0].update(line=3), "word 0: line is 3"),
    "prompt": (lambda song: song["prompt_start_frames"].append(600), "prompt 2 starts at frame 600 of 600"),
    "not an object": (
        lambda song: song["lines"].append("text"),
        "Expected `object`, got `str` - at .*lines.3.`, found 'text'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_song_is_refused_by_name(metadata: dict[str, Any], name: str) -> None:
    change, message = BROKEN[name]
    check_metadata(metadata, "sample 'x'")
    change(metadata)
    with pytest.raises(ShardError, match=f"^sample 'x': .*{message}"):
        check_metadata(metadata, "sample 'x'")
