"""The dataset for other trainers, with PyTorch's own loader: workers are forked while the parent has shards open."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shards.index import IndexRow, read_index, write_dataset_info, write_index
from shards.reader import ShardReader
from shards.schema import ShardError
from shards.torch_data import SongDataset, SongOrder
from shards.writer import write_shard

from .conftest import build_sample, describe_dataset


def pad(songs: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate as the README shows it."""
    tokens = [torch.from_numpy(song["semantic_tokens"]) for song in songs]
    return {"keys": [song["key"] for song in songs], "tokens": torch.nn.utils.rnn.pad_sequence(tokens, True, -1)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_every_song_of_an_epoch_once(tmp_path: Path, rows: list[IndexRow], num_workers: int) -> None:
    songs = SongDataset(tmp_path)
    songs[0]  # the parent has a shard open
    order = SongOrder(songs, seed=3)
    loader = DataLoader(
        songs, batch_size=3, sampler=order, collate_fn=pad, num_workers=num_workers, timeout=60 * (num_workers > 0)
    )
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        batches = list(loader)
        epochs.append([key for batch in batches for key in batch["keys"]])
        assert [len(batch["keys"]) for batch in batches] == [3, 1]
        assert sorted(epochs[-1]) == sorted(row.key for row in rows if row.split == "train")
        assert batches[0]["tokens"].dtype == torch.int64
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_song_is_that_of_the_reader(tmp_path: Path, rows: list[IndexRow]) -> None:
    songs = pickle.loads(pickle.dumps(SongDataset(tmp_path, "val")))
    assert len(songs) == 1
    expected = ShardReader(tmp_path).read(read_index(tmp_path).row(4))
    found = songs[0]
    assert found["key"] == expected.key
    assert found["metadata"] == expected.metadata
    for name, kind in (
        ("semantic_tokens", np.int64),
        ("latents", np.float32),
        ("latents_std", np.float32),
        ("prompts", np.float32),
    ):
        np.testing.assert_array_equal(found[name], expected.arrays[name])
        assert found[name].dtype == kind
    with pytest.raises(IndexError):
        songs[1]
    converted = next(iter(DataLoader(songs, batch_size=None)))
    assert converted["latents"].dtype == torch.float32, "numbers become tensors by themselves"


def test_ranks_share_an_epoch_and_short_songs_stay_out(tmp_path: Path) -> None:
    songs = [build_sample(f"train/{number}", 600 if number else 400) for number in range(8)]
    rows = write_shard(tmp_path / "train" / "000000.tar", songs)
    write_dataset_info(tmp_path, describe_dataset(rows, songs))
    write_index(tmp_path, rows)
    dataset = SongDataset(tmp_path, min_frames=500)
    orders = [SongOrder(dataset, seed=1, rank=rank, world_size=3) for rank in range(3)]
    seen = [number for order in orders for number in order]
    assert [len(order) for order in orders] == [2, 2, 2]
    assert len(set(seen)) == 6
    assert not {dataset.index.row(number).num_frames for number in seen} & {400}


def test_damage_is_an_error_in_a_worker_too(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / rows[0].shard
    data = bytearray(path.read_bytes())
    data[rows[0].latents_offset + 600] ^= 1
    path.write_bytes(data)
    loader = DataLoader(SongDataset(tmp_path), batch_size=None, num_workers=1, timeout=60)
    with pytest.raises(ShardError, match="checksum differs from the index"):
        list(loader)
