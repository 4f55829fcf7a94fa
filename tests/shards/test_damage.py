"""Thousands of damaged files: whatever happened to them, readers name it, and nothing but their own error leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.__main__ import main
from shards.dataset_info import read_dataset_info
from shards.index import IndexRow, read_index
from shards.npy import decode_array, encode_array
from shards.reader import Sample, ShardReader
from shards.schema import ARRAY_FIELDS, ShardError
from shards.writer import write_shard
from tests.shards.damage import damage

_COUNT = 1_000


def count_refused(data: bytes, read: Callable[[bytes], object], count: int = _COUNT) -> int:
    """Return how many of the damaged versions of `data` are refused with a ShardError in one line."""
    messages = []
    for changed in damage(data, count):
        try:
            read(changed)
        except ShardError as error:
            messages.append(str(error))
    assert not [message for message in messages if "\n" in message]
    return len(messages)


def test_arrays(make_sample: Callable[..., Sample]) -> None:
    """Values that changed are for the checksum to notice; a header that changed is not read."""
    num_refused = 0
    for field in ARRAY_FIELDS:
        data = encode_array(np.asarray(getattr(make_sample(num_frames=40), field.name)[:2]), field)[:400]
        array = encode_array(np.zeros((4,) * len(field.axes), field.dtype), field) if field.name != "prompts" else data

        def read(changed: bytes, field: Any = field) -> object:
            return decode_array(np.frombuffer(changed, np.uint8), field, "a sample")

        num_refused += count_refused(array, read, _COUNT // 4)
    assert num_refused > _COUNT * 0.8


@pytest.mark.parametrize("how", ["iterate", "read"])
def test_shards(tmp_path: Path, make_sample: Callable[..., Sample], rows: list[IndexRow], how: str) -> None:
    sample = make_sample(num_frames=600)
    (row,) = write_shard(tmp_path / "train" / "9.tar", [sample])
    path = tmp_path / "train" / "9.tar"
    data = path.read_bytes()

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        reader = ShardReader(tmp_path)
        if how == "iterate":
            list(reader.iterate("train/9.tar"))
        else:
            reader.read(row)

    num_refused = count_refused(data, read, _COUNT // 2)
    assert num_refused > _COUNT * (0.3 if how == "iterate" else 0.45)  # iterate sees no values that changed


def test_index(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / "index.parquet"

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        index = read_index(tmp_path)
        assert list(index)[0] == rows[0]  # what is not refused is right
        for name in ("split", "key", "num_frames"):
            index.column(name)

    assert count_refused(path.read_bytes(), read) > _COUNT * 0.8


def test_dataset_info(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / "dataset.json"

    def read(changed: bytes) -> None:
        path.write_bytes(changed)
        read_dataset_info(tmp_path)

    assert count_refused(path.read_bytes(), read) > _COUNT * 0.5  # a digit of a mean is as good as another


@pytest.mark.parametrize("command", ["verify", "stats", "inspect", "repair", "merge"])
@pytest.mark.parametrize("name", ["index.parquet", "dataset.json"])
def test_commands_end_with_json_and_an_exit_code(
    tmp_path: Path, rows: list[IndexRow], command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    originals = {path: path.read_bytes() for path in (tmp_path / "index.parquet", tmp_path / "dataset.json")}
    for number, changed in enumerate(damage(originals[path], 20, seed=1)):
        path.write_bytes(changed)
        out = [str(tmp_path / f"out{number}")] if command == "merge" else []
        assert main([command, *out, str(tmp_path)]) in (0, 1)
        assert "ok" in json.loads(capsys.readouterr().out.splitlines()[-1])
        for original, data in originals.items():  # repair writes both
            original.write_bytes(data)


def test_the_largest_description_is_read_in_no_time(tmp_path: Path, rows: list[IndexRow]) -> None:
    (tmp_path / "dataset.json").write_bytes(b"[" + b"[]," * 10_000_000)
    with pytest.raises(ShardError, match=r"dataset.json has 30000001 bytes, expected at most 1048576; it is damaged"):
        read_dataset_info(tmp_path)
