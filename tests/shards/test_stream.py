"""Streams of stock WebDataset over shards without an index: all songs once an epoch, shared among readers, checked."""

import gzip
import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from shards.index import IndexRow
from shards.reader import ShardReader
from shards.sample import Sample
from shards.schema import CODEBOOK_SIZE, ShardError
from shards.stream import stream_samples


def fail(error: ShardError) -> None:
    raise error


def stream(root: Path, on_damage=fail, **options: object) -> list[Sample]:  # type: ignore[no-untyped-def]
    return list(stream_samples(root, "train", codebook_size=CODEBOOK_SIZE, on_damage=on_damage, **options))  # type: ignore[arg-type]


def write_as_others_do(path: Path, songs: list[Sample]) -> None:
    """Write a shard with tarfile and numpy.save, members in another order and in a folder."""
    import json

    with tarfile.open(path, "w") as tar:
        for song in songs:
            members = {"json": json.dumps(song.metadata).encode()}
            for suffix, array in zip(
                ("prompts", "latent_std", "latent", "semantic"), reversed(song.arrays.values()), strict=True
            ):
                buffer = io.BytesIO()
                np.save(buffer, array)
                members[f"{suffix}.npy"] = buffer.getvalue()
            for suffix, data in reversed(members.items()):
                header = tarfile.TarInfo(f"./part/{song.key}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def test_a_pass_gives_what_the_reader_gives_without_index_and_dataset_json(
    tmp_path: Path, rows: list[IndexRow]
) -> None:
    reader = ShardReader(tmp_path)
    expected = [reader.read(row) for row in rows if row.split == "train"]
    (tmp_path / "index.parquet").unlink()
    (tmp_path / "dataset.json").unlink()
    write_as_others_do(tmp_path / "train" / "000001.tar", expected[2:])
    found = stream(tmp_path)
    assert [song.key for song in found] == [song.key for song in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.metadata == other.metadata
        for name, array in other.arrays.items():
            np.testing.assert_array_equal(one.arrays[name], array)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_readers_share_each_endless_epoch(tmp_path: Path, rows: list[IndexRow], world_size: int) -> None:
    """By shards, and with three readers of two shards by songs."""
    keys = sorted(row.key for row in rows if row.split == "train")
    first: list[str] = []
    for rank in range(world_size):
        songs = stream_samples(
            tmp_path, "train", codebook_size=CODEBOOK_SIZE, on_damage=fail, seed=5, rank=rank, world_size=world_size
        )
        share = 4 // world_size + (world_size == 3 and rank == 0)
        first += [song.key for song in islice(songs, share)]
        assert len(list(islice(songs, 3 * share))) == 3 * share, "it goes on"
    assert sorted(first) == keys


def test_orders_differ_by_seed_and_epoch(tmp_path: Path, rows: list[IndexRow]) -> None:
    orders = []
    for seed in (1, 2):
        songs = stream_samples(tmp_path, "train", codebook_size=CODEBOOK_SIZE, on_damage=fail, seed=seed)
        keys = [song.key for song in islice(songs, 24)]
        orders += [tuple(keys[first : first + 4]) for first in range(0, 24, 4)]
    assert len(set(orders)) > 4
    assert all(len(set(order)) == 4 for order in orders)


def test_damage_is_reported_and_passed_over(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / rows[0].shard
    data = path.read_bytes()
    path.write_bytes(data[: rows[1].latents_offset + 100])  # cut inside the second song
    (tmp_path / "train" / "000002.tar").write_bytes(gzip.compress(data))
    damage: list[ShardError] = []
    found = stream(tmp_path, damage.append)
    assert [song.key for song in found] == [rows[0].key, rows[2].key, rows[3].key]
    assert any("000002.tar" in str(error) and "expected an uncompressed tar" in str(error) for error in damage)
    assert any("000000.tar" in str(error) for error in damage)
    with pytest.raises(ShardError):
        stream(tmp_path)


def test_missing_members_and_shards_are_named(tmp_path: Path, rows: list[IndexRow]) -> None:
    with tarfile.open(tmp_path / "train" / "000000.tar", "w") as tar:
        header = tarfile.TarInfo("a.json")
        header.size = 2
        tar.addfile(header, io.BytesIO(b"{}"))
    with pytest.raises(ShardError, match=r"000000.tar: sample 'a': no member semantic.npy"):
        stream(tmp_path)
    with pytest.raises(ShardError, match=r"nothing/train: no .tar files"):
        stream(tmp_path / "nothing")
