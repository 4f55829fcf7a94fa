"""The plan: every song once an epoch, the same from any place, near each other on the disk, languages by share."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.bench import probe_index
from shards.bench_data import SONGS_PER_SHARD, write_bench_index
from shards.index import DatasetInfo, IndexRow, read_index, write_dataset_info, write_index, write_index_columns
from shards.plan import MIXTURE_CYCLE, Plan, PlanError
from shards.reader import ShardReader
from shards.storage import LocalSource, LocalStorage
from shards.writer import make_key, write_shard

from .conftest import build_sample

NUM_ROWS = 100 * SONGS_PER_SHARD


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    write_bench_index(folder, NUM_ROWS)
    return folder


def test_every_epoch_passes_through_every_song_once(root: Path) -> None:
    plan = Plan(read_index(root), seed=1)
    epochs = [[plan.song(epoch * NUM_ROWS + place) for place in range(NUM_ROWS)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_ROWS))
    assert epochs[0] != epochs[1]


def test_any_place_is_the_same_whatever_came_before(root: Path) -> None:
    index = read_index(root)
    used = Plan(index, seed=1)
    places = np.random.default_rng(0).integers(0, 5 * NUM_ROWS, 50).tolist()
    expected = [used.song(place) for place in places]
    assert [Plan(index, seed=1).song(place) for place in places] == expected
    assert [Plan(index, seed=2).song(place) for place in places] != expected


def test_reads_stay_near_each_other(root: Path) -> None:
    """Any thousand songs in a row come from the shards of two windows at most; whole windows from sixteen."""
    plan = Plan(read_index(root), seed=0, window_shards=16)
    rows = np.array([plan.song(place) for place in range(NUM_ROWS)])
    shards = rows // SONGS_PER_SHARD
    for first in range(0, NUM_ROWS, 1_000):
        assert len(np.unique(shards[first : first + 1_000])) <= 32
    window = 16 * SONGS_PER_SHARD
    assert [len(np.unique(shards[k : k + window])) for k in range(0, NUM_ROWS, window)] == [16] * 6 + [4]
    assert len(np.unique(shards[:100])) == 16, "mixed from the start"


def test_short_songs_are_left_out(root: Path) -> None:
    index = read_index(root)
    plan = Plan(index, seed=0, min_frames=5_000)
    num_frames = index.column("num_frames")
    assert plan.num_songs == (num_frames >= 5_000).sum() == NUM_ROWS - plan.num_too_short
    assert all(num_frames[plan.song(place)] >= 5_000 for place in range(0, plan.num_songs, 7))
    with pytest.raises(PlanError, match="no song has 9000 frames"):
        Plan(index, seed=0, min_frames=9_000)


def test_languages_alternate_by_share_and_each_passes_through_its_songs(root: Path) -> None:
    index = read_index(root)
    plan = Plan(index, seed=0, shares={"en": 1, "zh": 3})
    languages = index.column("language")
    rows = [plan.song(place) for place in range(20 * MIXTURE_CYCLE)]
    for cycle in range(20):
        found = Counter(languages[rows[cycle * MIXTURE_CYCLE : (cycle + 1) * MIXTURE_CYCLE]])
        assert found == {"en": 250, "zh": 750}
    num_chinese = int((languages == "zh").sum())
    chinese = [row for row in rows if languages[row] == "zh"]
    assert len(set(chinese[:num_chinese])) == min(num_chinese, len(chinese))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"en": 1.0, "fr": 1.0}, r"language 'fr': the index has no song of it that is long enough \(en, zh\)"),
        ({"en": 1.0, "zh": 1e-5}, "the smallest is below 1 in 1000"),
        ({"en": -1.0}, "expected positive numbers"),
        ({"en": float("nan")}, "expected positive numbers"),
    ],
)
def test_impossible_shares_are_refused(root: Path, shares: dict[str, float], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan(read_index(root), seed=0, shares=shares)


def test_rows_of_a_shard_that_do_not_stand_together_are_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    index = read_index(tmp_path)
    order = [0, 2, 1, 3, 4]
    table = next(iter(index._file.groups(0, 5)))[1].take(order)
    write_index_columns(tmp_path, {name: table.column(name).cast(_plain(table, name)) for name in table.column_names})
    with pytest.raises(PlanError, match="the rows of train/00000.* do not stand together"):
        Plan(read_index(tmp_path), seed=0)


def _plain(table: object, name: str) -> object:
    kind = table.schema.field(name).type  # type: ignore[attr-defined]
    return getattr(kind, "value_type", kind)


def test_the_probe_of_the_benchmark_finds_a_batch(root: Path) -> None:
    found = probe_index(root, step=10)
    assert 0 < found["seconds"] < 60
    assert found["peak_mb"] > 0


LANGUAGES = ["en", "es", "ja", "ko", "zh"]


@pytest.fixture(scope="module")
def by_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 shards of 25 songs, each shard of one of five languages, as a catalogue has that is sorted by language."""
    root = tmp_path_factory.mktemp("by_language")
    song, written = build_sample(channels=1), []
    for shard in range(80):
        of_shard = [song.metadata | {"song_id": f"{shard}-{n}", "language": LANGUAGES[shard // 16]} for n in range(25)]
        songs = [replace(song, key=make_key(metadata["song_id"]), metadata=metadata) for metadata in of_shard]
        written += write_shard(root / "train" / f"{shard:06d}.tar", songs)
    info = DatasetInfo.from_rows(written, latent_mean=[0.0], latent_std=[1.0], models={}, fingerprint="mixture")
    write_dataset_info(root, info)
    write_index(root, written)
    return root


@pytest.mark.parametrize("window_shards", [16, None])
def test_five_languages_do_not_thrash_the_open_shards(
    by_language: Path, monkeypatch: pytest.MonkeyPatch, window_shards: int | None
) -> None:
    """An epoch of each, once through every shard: 80 opens for 2000 songs; no byte is read in vain."""
    opened: Counter[str] = Counter()
    num_bytes = 0
    open_shard, read_at = LocalStorage.open_shard, LocalSource.read_at

    def count_open(self: LocalStorage, shard: Path | str) -> LocalSource:
        opened[str(shard)] += 1
        return open_shard(self, shard)

    def count_read(self: LocalSource, start: int, wanted: int) -> NDArray[np.uint8]:
        nonlocal num_bytes
        num_bytes += wanted
        return read_at(self, start, wanted)

    index, reader = read_index(by_language), ShardReader(by_language)
    plan = Plan(index, seed=0, shares=dict.fromkeys(LANGUAGES, 1.0), window_shards=window_shards)
    rows = [index.row(plan.song(place)) for place in range(len(index))]
    monkeypatch.setattr(LocalStorage, "open_shard", count_open)
    monkeypatch.setattr(LocalSource, "read_at", count_read)
    for row in rows:
        reader.read_raw(row)
    assert {row.shard for row in rows} == opened.keys()
    assert num_bytes == sum(row.end - row.start for row in rows)
    opens_per_song = opened.total() / len(rows)
    if window_shards is None:
        assert opens_per_song < 1.2 / 25
    else:
        assert opens_per_song > 4 / 25, "80 shards at a time, and 64 that are open"
