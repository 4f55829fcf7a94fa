"""The released vocabulary and the ids of the lyric format."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from shards.schema import ShardError
from shards.vocabulary import COMMA_ID, PAD_ID, PERIOD_ID, SYMBOLS, TAG_IDS, compose_lyric_ids, count_tags

VERSE, CHORUS, INTRO, OUTRO, INST = (TAG_IDS[label] for label in ("verse", "chorus", "intro", "outro", "inst"))


def section(label: str, start_s: float, end_s: float) -> dict[str, Any]:
    return {"label": label, "start_frame": int(start_s * 25), "end_frame": int(end_s * 25)}


def line(section_index: int, ids: list[int], start_s: float, end_s: float) -> dict[str, Any]:
    span = {"start_frame": int(start_s * 25), "end_frame": int(end_s * 25)}
    return {"section_index": section_index, "phoneme_ids": ids, **span}


SECTIONS = [
    section("intro", 0, 4),
    section("verse", 4, 20),
    section("inst", 20, 25),
    section("chorus", 25, 40),
    section("outro", 40, 42.4),
]
LINES = [line(1, [20, 21], 5, 9), line(1, [22], 10, 14), line(3, [23], 26, 30), line(3, [24], 31, 35)]


def compose(
    sections: list[dict[str, Any]], lines: list[dict[str, Any]], start_s: float, end_s: float, tag_s: float = 1
) -> list[int]:
    frames = {"start_frame": int(start_s * 25), "end_frame": int(end_s * 25)}
    return compose_lyric_ids(sections, lines, **frames, seconds_per_tag=tag_s)


def test_vocabulary_is_the_released_one(shared: Path) -> None:
    released = yaml.safe_load((shared / "g2p" / "vocab_g2p.yaml").read_text(encoding="utf-8"))
    assert list(SYMBOLS) == released


def test_special_ids() -> None:
    assert (PAD_ID, COMMA_ID, PERIOD_ID) == (0, 9, 11)
    assert [SYMBOLS[number] for number in TAG_IDS.values()] == [f"[{label}]" for label in TAG_IDS]
    assert list(TAG_IDS.values()) == [1, 2, 3, 4, 5, 6, 7]


def test_whole_song() -> None:
    verse, chorus = [VERSE, 20, 21, PERIOD_ID, 22], [CHORUS, 23, PERIOD_ID, 24]
    assert compose(SECTIONS, LINES, 0, 42.4) == [
        *[INTRO] * 4, COMMA_ID, *verse, COMMA_ID, *[INST] * 5, COMMA_ID, *chorus, COMMA_ID, *[OUTRO] * 2,
    ]  # fmt: skip


def test_span_clips_durations_and_takes_lines_by_their_midpoint() -> None:
    # 11.9 s leaves the second line (midpoint 12 s) in, 28 s (the midpoint of the third) leaves the third out.
    assert compose(SECTIONS, LINES, 11.9, 28) == [VERSE, 22, COMMA_ID, *[INST] * 8]
    assert compose(SECTIONS, LINES, 12, 28.1) == [VERSE, 22, COMMA_ID, *[INST] * 5, COMMA_ID, CHORUS, 23]
    assert compose(SECTIONS, LINES, 12.1, 20) == [INST] * 8


def test_longer_tags() -> None:
    assert compose(SECTIONS, LINES, 0, 42.4, tag_s=5)[:2] == [INTRO, COMMA_ID]
    assert OUTRO not in compose(SECTIONS, LINES, 0, 42.4, tag_s=5)  # 2.4 s are no tag of 5 s


def test_vocal_section_without_lines_joins_the_inst_beside_it() -> None:
    assert compose(SECTIONS, LINES[:2], 15, 40) == [INST] * 25


def test_short_section_between_two_equal_ones_leaves_one() -> None:
    sections = [section("inst", 0, 2), section("silence", 2, 2.4), section("inst", 2.4, 4.4)]
    assert compose(sections, [], 0, 4.4) == [INST] * 4


def test_equal_sung_neighbours_stay_apart() -> None:
    sections = [section("chorus", 0, 5), section("chorus", 5, 10)]
    lines = [line(0, [20], 1, 2), line(1, [20], 6, 7)]
    assert compose(sections, lines, 0, 10) == [CHORUS, 20, COMMA_ID, CHORUS, 20]


def test_lines_in_a_section_that_is_not_vocal_make_it_a_verse() -> None:
    assert compose([section("outro", 0, 5)], [line(0, [20], 1, 2)], 0, 5) == [VERSE, 20]


def test_line_that_reaches_over_its_section_keeps_its_tag() -> None:
    assert compose(SECTIONS, [line(1, [20], 19, 22)], 20, 25) == [VERSE, 20, COMMA_ID, *[INST] * 5]


def test_punctuation_at_the_end_of_a_line_is_not_doubled() -> None:
    lines = [line(1, [20, COMMA_ID], 5, 9), line(1, [PERIOD_ID], 9, 10), line(1, [21, PERIOD_ID], 10, 14)]
    assert compose([SECTIONS[0], SECTIONS[1]], lines, 4, 20) == [VERSE, 20, PERIOD_ID, 21]


def test_lines_without_times_are_in_every_span() -> None:
    raw = [{"section_index": 0, "phoneme_ids": [20], "start_frame": None, "end_frame": None}]
    assert compose([section("verse", 0, 100)], raw, 30, 40) == [VERSE, 20]


def test_nothing_to_write() -> None:
    assert compose([section("inst", 0, 0.4)], [], 0, 0.4) == []


@pytest.mark.parametrize(("start_s", "end_s"), [(5, 5), (6, 5), (-1, 5)])
def test_empty_span_is_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(ValueError, match="empty"):
        compose(SECTIONS, LINES, start_s, end_s)


def test_line_of_no_section_is_refused() -> None:
    with pytest.raises(ShardError, match="line 0 is in section 5"):
        compose(SECTIONS, [line(5, [20], 1, 2)], 0, 5)


@pytest.mark.parametrize(("frames", "tag_s", "expected"), [(12, 1, 0), (13, 1, 1), (37, 1, 1), (38, 1, 2), (125, 5, 1)])
def test_count_tags_rounds_to_the_nearest(frames: int, tag_s: float, expected: int) -> None:
    assert count_tags(frames, tag_s) == expected


@pytest.mark.parametrize("tag_s", [0, -1, float("nan")])
def test_count_tags_refuses_what_is_no_duration(tag_s: float) -> None:
    with pytest.raises(ValueError, match="seconds_per_tag"):
        count_tags(100, tag_s)


LEGAL_SONGS = ("en_basic", "zh_basic", "zh_space_after_period", "bridge", "silence_tag", "only_intro")


@pytest.mark.parametrize("category", LEGAL_SONGS)
def test_recomposes_the_ids_of_the_reference(shared: Path, category: str) -> None:
    """Cut the reference's ids into sections and lines; composing them again must give the same ids."""
    songs = [json.loads(text) for text in (shared / "g2p" / "format_dev.jsonl").read_text("utf-8").splitlines()]
    song = next(song for song in songs if song["cat"] == category)
    sections, lines, frame = [], [], 0
    for number, part in enumerate(song["sections"]):
        content = song["ids"][part["start"] + part["tags"] : part["end"]]
        content = content[:-1] if content[-1:] == [COMMA_ID] else content
        num_frames = 25 * (part["tags"] if not content else 10)
        sections.append({"label": part["tag"][1:-1], "start_frame": frame, "end_frame": frame + num_frames})
        sentences = " ".join(map(str, content)).split(f" {PERIOD_ID} ") if content else []
        for sentence in sentences:
            ids = [int(text) for text in sentence.split()]
            lines.append({"section_index": number, "phoneme_ids": ids, "start_frame": frame, "end_frame": frame + 2})
        frame += num_frames
    assert compose_lyric_ids(sections, lines, start_frame=0, end_frame=frame, seconds_per_tag=1) == song["ids"]
