"""Sorting with hardly any memory: the same rows as `sorted` gives, whatever the order in which they came."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shards import external_sort
from shards.external_sort import ExternalSort, add_texts, collect_texts, find_repeats


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "ROWS_IN_MEMORY", 100)
    monkeypatch.setattr(external_sort, "ROWS_PER_BLOCK", 8)
    monkeypatch.setattr(external_sort, "MAX_RUNS", 4)  # so that runs are merged before all rows are there


def fill(rows: ExternalSort, items: list[tuple[str, int]]) -> None:
    for first in range(0, len(items), 37):
        texts, numbers = zip(*items[first : first + 37], strict=True)
        rows.add(pa.record_batch({"text": texts, "number": numbers}))


@pytest.mark.parametrize("num_texts", [3, 50, 100_000])
@pytest.mark.parametrize("num_rows", [0, 1, 99, 100, 2_500])
def test_rows_come_back_sorted(tmp_path: Path, num_texts: int, num_rows: int) -> None:
    generator = random.Random(num_rows + num_texts)
    items = [(f"é{generator.randrange(num_texts)}", generator.randrange(5)) for _ in range(num_rows)]
    rows = ExternalSort(("text", "number"), tmp_path)
    fill(rows, items)
    found = [
        pair
        for block in rows.blocks()
        for pair in zip(block.column("text").to_pylist(), block.column("number").to_pylist(), strict=True)
    ]
    assert found == sorted(items)
    assert not list(tmp_path.iterdir()), "the temporary file has no name"


def test_rows_in_order_are_one_run(tmp_path: Path) -> None:
    rows = ExternalSort(("text", "number"), tmp_path)
    fill(rows, [(f"{number:06d}", 0) for number in range(1_000)])
    assert len(rows._runs) == 1
    assert sum(map(len, rows.blocks())) == 1_000


def test_few_rows_touch_no_disk(tmp_path: Path) -> None:
    rows = ExternalSort(("text", "number"), tmp_path / "nowhere")
    fill(rows, [("b", 1), ("a", 2)])
    assert [block.column("text").to_pylist() for block in rows.blocks()] == [["a", "b"]]
    assert not (tmp_path / "nowhere").exists()


def test_every_repeat_is_found_across_blocks() -> None:
    generator = random.Random(0)
    texts = [f"t{generator.randrange(400)}" for _ in range(1_500)]
    rows = collect_texts()
    for first in range(0, len(texts), 37):
        part = texts[first : first + 37]
        add_texts(rows, pa.array(part), np.arange(first, first + len(part)))
    firsts: dict[str, int] = {}
    expected = [
        (text, firsts[text], place)
        for place, text in sorted(enumerate(texts), key=lambda item: (item[1], item[0]))
        if firsts.setdefault(text, place) != place
    ]
    assert len(expected) > 1_000
    assert list(find_repeats(rows)) == expected
