"""From a dataset to batches: which songs, spans and prompts make step k is a pure function of dataset, seed and k.

A step has slots; what a slot holds, down to each random draw, does not depend on the rank that computes it, nor on how
many songs a step has: it is a function of the song's place in the stream. Lengths are planned from the index alone, so
that every rank deals the slots alike without reading what the others read. The state of the loader is the number of
songs that the run has heard, so that a run resumes at once, on any number of ranks and with any batch size.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model.data.crops import UnusableSongError, choose_length, spread
from model.data.examples import SUBSTITUTE, Example, ExampleMaker, MicroBatch, RankBatch, generator
from model.data.packing import Share, share_by_tokens, share_slots
from model.network.song_batch import BatchError
from model.network.song_length import count_tokens
from model.settings.settings import RunConfig
from shards.index import Index, IndexRow
from shards.plan import Plan, PlanError, derive_seed
from shards.remote_retry import UnreadableError
from shards.sample import Sample
from shards.schema import FRAME_RATE_HZ, ShardError

__all__ = ["Batches", "Example", "MicroBatch", "Prefetcher", "RankBatch", "SampleReader", "derive_seed", "share_songs"]

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 100  # songs tried for one slot before the dataset is called unusable
DENIED = "denied: a step with it had no finite loss, or a spike"  # why a song is passed over


class SampleReader(Protocol):
    """Reads a sample by its index row; may be used from several threads."""

    def read(self, row: IndexRow) -> Sample:
        """Return the sample, checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    """One place of a step, as far as the index tells."""

    number: int
    row: int  # of the index
    seed: int  # of everything random about this song in this step
    wanted_frames: int  # length that the crop should have


class Batches:
    """The batches of one split, in training order or, for validation, always the same ones."""

    def __init__(self, index: Index, reader: SampleReader, config: RunConfig, split: str) -> None:
        """Select the songs of `split` that are long enough.

        Raises:
            BatchError: no song is.
        """
        self._config = config
        self._reader = reader
        self._split = split
        self._index = index.select(split)
        self._bad_shards: set[str] = set()
        self._denied: set[str] = set()
        self._maker = ExampleMaker(config)
        data = config.data
        if not len(self._index):
            raise BatchError(
                f"split {split}: the index lists no songs; extract some, or another --val-fraction of them"
            )
        shortest = self._maker.min_frames
        seed = config.trainer.seed if split == "train" else data.val_seed
        shares = {part.language: part.share for part in data.languages} if split == "train" else None
        try:
            self._plan = Plan(self._index, seed=seed, min_frames=shortest, shares=shares)
        except PlanError as error:
            longest_s = float(self._index.column("num_frames").max()) / FRAME_RATE_HZ
            raise BatchError(
                f"split {split}: {error}; of {len(self._index)} songs the longest has {longest_s:.1f} s, and "
                f"data.min_crop_s = {data.min_crop_s}"
            ) from error

    @property
    def num_songs(self) -> int:
        """Songs that are long enough, and of the languages of the run."""
        return self._plan.num_songs

    @property
    def num_too_short(self) -> int:
        """Songs of the split that no crop fits in."""
        return self._plan.num_too_short

    def describe(self) -> str:
        """Return what there is to train on, in words."""
        return f"{self.num_songs} songs ({self.num_too_short} too short)"

    def deny(self, keys: Iterable[str]) -> None:
        """Pass over these songs from now on, as over songs that cannot be used."""
        self._denied.update(keys)

    def train_batch(self, global_step: int, rank: int, world_size: int) -> RankBatch:
        """Return this rank's share of step `global_step` of a run whose batch size has never changed."""
        return self.songs_from(global_step * self._config.trainer.batch_size, rank, world_size)

    def songs_from(self, first_song: int, rank: int, world_size: int) -> RankBatch:
        """Return this rank's share of the batch that begins at a place of the stream, counted from 0.

        Every epoch passes through the songs in a new order.
        """
        seed = self._config.trainer.seed
        of_lengths = derive_seed(seed, "length")
        slots = [
            self._plan_slot(number, self._plan.song(place), derive_seed(seed, "song", place), spread(of_lengths, place))
            for number, place in enumerate(range(first_song, first_song + self._config.trainer.batch_size))
        ]
        return self._load(slots, rank, world_size)

    def validation_batch(self, rank: int, world_size: int) -> RankBatch:
        """Return this rank's share of the validation songs: the same ones, cut the same way, for every run.

        They are drawn from the whole split, of each language as many as it has songs in proportion, but one at least
        as long as there is room. A song that is added to the dataset changes no other's place or cut.
        """
        slots = [
            self._plan_slot(number, row, seed, spread(seed, 0))
            for number, (row, key) in enumerate(self._draw_held_out())
            for seed in [derive_seed(self._config.data.val_seed, self._split, key)]
        ]
        return self._load(slots, rank, world_size)

    def _draw_held_out(self) -> list[tuple[int, str]]:
        """Return row and key of the validation songs."""
        codes, names = self._index.codes("language")
        keys = self._index.column("key")
        by_language: dict[str, list[tuple[int, int]]] = {}  # hash and row
        for row in np.flatnonzero(self._plan.num_frames >= self._maker.min_frames).tolist():
            order = derive_seed(self._config.data.val_seed, "held out", keys[row])
            by_language.setdefault(names[codes[row]], []).append((order, row))
        places = [  # a language's songs lie at equal distances on a common line, the first one at its start
            (number / len(songs), -len(songs), order, row)
            for songs in by_language.values()
            for number, (order, row) in enumerate(sorted(songs))
        ]
        return [(row, keys[row]) for *_, row in sorted(places)[: self._config.data.val_songs]]

    def _plan_slot(self, number: int, row: int, seed: int, share: float) -> _Slot:
        wanted_frames = choose_length(int(self._plan.num_frames[row]), self._maker.rules, share)
        return _Slot(number=number, row=row, seed=seed, wanted_frames=wanted_frames)

    def _load(self, slots: Sequence[_Slot], rank: int, world_size: int) -> RankBatch:
        num_skipped: Counter[str] = Counter()
        micro_batches = []
        lengths = [slot.wanted_frames for slot in slots]
        for share in share_songs(self._config, lengths, world_size)[rank]:
            counter = Counter[str]() if share.is_repeat else num_skipped
            examples = [self._load_slot(slots[number], counter) for number in share.slots]
            micro_batches.append(self._maker.collate(examples, is_repeat=share.is_repeat))
        return RankBatch(micro_batches=tuple(micro_batches), num_skipped=num_skipped)

    def _load_slot(self, slot: _Slot, num_skipped: Counter[str]) -> Example:
        """Return the example of a slot; a song that cannot be used is counted and another one drawn.

        Raises:
            ShardError: a sample is damaged or cannot be read, and data.on_bad_shard is stop.
            BatchError: one song after another cannot be used.
        """
        substitutes = generator(slot.seed, SUBSTITUTE)
        number = slot.row
        reasons: Counter[str] = Counter()
        for _ in range(MAX_ATTEMPTS):
            row = self._index.row(number)
            try:
                if row.key in self._denied:
                    raise UnusableSongError(DENIED)
                example = self._maker.cut(
                    self._reader.read(row), slot=slot.number, seed=slot.seed, wanted_frames=slot.wanted_frames
                )
            except UnusableSongError as error:
                reasons[str(error)] += 1
            except ShardError as error:
                if self._config.data.on_bad_shard == "stop":
                    raise
                self._warn_of_shard(row.shard, error)
                reasons[f"{'not read' if isinstance(error, UnreadableError) else 'damaged'}: {row.shard}"] += 1
            else:
                num_skipped.update(reasons)
                return example
            number = self._plan.song(int(substitutes.integers(self.num_songs)))
        listed = ", ".join(f"{count} times {reason}" for reason, count in reasons.most_common())
        raise BatchError(f"split {self._split}: none of {MAX_ATTEMPTS} songs drawn for one place can be used: {listed}")

    def _warn_of_shard(self, shard: str, error: ShardError) -> None:
        """Name a damaged shard the first time that it is met."""
        if shard not in self._bad_shards:
            self._bad_shards.add(shard)
            logger.warning("left out, with whatever else of %s is damaged or cannot be read: %s", shard, error)


class Prefetcher:
    """Reads the batches of the next steps on a thread while the current one computes."""

    def __init__(self, load: Callable[[int], RankBatch], steps: range, num_ahead: int) -> None:
        """Start to read what `load` returns for each of `steps`, `num_ahead` steps ahead."""
        self._load = load
        self._steps = iter(steps)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._futures: list[Future[RankBatch]] = []
        for _ in range(1 + num_ahead):
            self._submit()

    def next(self) -> RankBatch:
        """Return the batch of the next step, or raise what reading it raised."""
        batch = self._futures.pop(0).result()
        self._submit()
        return batch

    def close(self) -> None:
        """Stop reading."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        for step in self._steps:
            self._futures.append(self._executor.submit(self._load, step))
            return


def share_songs(config: RunConfig, num_frames: Sequence[int], world_size: int) -> list[list[Share]]:
    """Return the micro-batches of every rank for songs of planned lengths, within the limits of the configuration."""
    trainer, model = config.trainer, config.model
    work = [_count_work(count, model.dim) for count in num_frames]
    if not trainer.micro_batch_tokens:
        return share_slots(work, trainer.micro_batch_size, world_size)
    tokens = [count_tokens(model, count) for count in num_frames]
    return share_by_tokens(work, tokens, trainer.micro_batch_tokens, world_size, trainer.micro_batch_size)


def _count_work(num_frames: int, dim: int) -> float:
    """Return what a song of `num_frames` costs a transformer, in frames of a very short song.

    A token costs 24 dim^2 in the linear layers of a block (attention 8, feed-forward of fourfold width 16) and, with
    causal attention over L positions, 2 L dim in the mean: each frame costs 1 + L / (12 dim).
    """
    return num_frames * (1 + num_frames / (12 * dim))
