"""Songs for the data loaders of other trainers: `torch.utils.data.DataLoader` takes these two as dataset and sampler.

It asks for `__len__` and `__getitem__`, and of a sampler for `__iter__`; so nothing here needs PyTorch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from shards.index import read_index
from shards.plan import Plan
from shards.reader import ShardReader
from shards.storage import Root


class SongDataset:
    """The songs of one split by number, each whole; may be forked and pickled, so workers of a loader may share it."""

    def __init__(self, root: Root, split: str = "train", *, min_frames: int = 1) -> None:
        """Open a dataset.

        Args:
            root: folder or URL.
            split: train or val.
            min_frames: of a song; shorter ones are not in the order of `SongOrder`.

        Raises:
            ShardError: the dataset is missing or damaged.
        """
        self.index = read_index(root).select(split)
        self.reader = ShardReader(root)
        self.min_frames = min_frames

    def __len__(self) -> int:
        """Return the number of songs, short ones included."""
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return a song: its key, metadata, and arrays of T frames at 25 Hz, C channels and K prompts of P frames.

        semantic_tokens int64 [T]; latents and latents_std float32 [T, C], not whitened; prompts float32 [K, P, C].

        Raises:
            ShardError: the sample is damaged or cannot be read.
            IndexError: there is no such number.
        """
        sample = self.reader.read(self.index.row(number))
        return {
            "key": sample.key,
            "metadata": sample.metadata,
            "semantic_tokens": sample.semantic_tokens.astype(np.int64),
            "latents": sample.latents.astype(np.float32),
            "latents_std": sample.latents_std.astype(np.float32),
            "prompts": sample.prompts.astype(np.float32),
        }


class SongOrder:
    """The numbers of one rank's songs of an epoch, so that reading passes through few shards at a time.

    All ranks have the same number of them; up to `world_size` - 1 songs, others each epoch, are left out for that.
    """

    def __init__(self, songs: SongDataset, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Order the songs; ranks that give the same seed share each epoch among them.

        Raises:
            PlanError: no song is long enough.
        """
        self._plan = Plan(songs.index, seed=seed, min_frames=songs.min_frames)
        self._rank, self._world_size, self._epoch = rank, world_size, 0

    def __len__(self) -> int:
        """Return how many songs this rank gets."""
        return self._plan.num_songs // self._world_size

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of this rank's songs."""
        first = self._epoch * self._plan.num_songs + self._rank
        return (self._plan.song(first + k * self._world_size) for k in range(len(self)))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, before its loop, as for PyTorch's DistributedSampler."""
        self._epoch = epoch
