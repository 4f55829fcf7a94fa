"""Tests of jobs/song_orders.py."""

import argparse
import json
from pathlib import Path

import pytest

from jobs.song_orders import check_orders, read_orders
from pipeline.input_file import InputError


def read_batch(folder: Path, *lines: object) -> list:
    (folder / "songs.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    (folder / "words.txt").write_text("[verse] la la la")
    for name in ("style.mp3", "start.wav"):
        (folder / name).touch()
    return read_orders(argparse.Namespace(batch=folder / "songs.jsonl", seed=5))


def test_a_line_is_a_song_with_a_seed_of_its_own(tmp_path: Path) -> None:
    entry = {"lyrics": "words.txt", "prompt": "style.mp3", "out": "a.flac"}
    more = {"out": "b.wav", "seed": 9, "prompt_start": 3, "continue": "start.wav", "continue_at": 4.5}
    first, second = read_batch(tmp_path, entry, "", entry | more)
    assert (first.lyrics, first.prompt, first.out) == ("[verse] la la la", tmp_path / "style.mp3", tmp_path / "a.flac")
    assert (first.seed, first.prompt_start_s, first.continued, first.continue_at_s) == (5, 0.0, None, None)
    assert (second.seed, second.prompt_start_s) == (9, 3.0)
    assert (second.continued, second.continue_at_s) == (tmp_path / "start.wav", 4.5)
    check_orders([first, second], streams=False)


@pytest.mark.parametrize("line", ["{", "[]", '{"lyrics": "words.txt"}', '{"lyrics": 1, "prompt": "", "out": ""}'])
def test_a_line_that_is_no_song_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match="songs.jsonl: line 1: .*; expected"):
        read_batch(tmp_path, line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "a.mp5"}, "no such audio format"),
        ({"out": "a.flac"}, "two songs would be written to it"),
        ({"out": "./x/../b.flac", "seed": -1}, "seed -1: expected 0 or more"),
        ({"out": "b.flac", "continue_at": 3}, "--continue-at without --continue"),
    ],
)
def test_what_could_not_be_written_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    entry = {"lyrics": "words.txt", "prompt": "style.mp3", "out": "a.flac"}
    with pytest.raises(InputError, match=message):
        check_orders(read_batch(tmp_path, entry, entry | changes), streams=False)


def test_a_stream_needs_floats(tmp_path: Path) -> None:
    orders = read_batch(tmp_path, {"lyrics": "words.txt", "prompt": "style.mp3", "out": "a.flac"})
    with pytest.raises(InputError, match="--stream writes .wav files"):
        check_orders(orders, streams=True)
