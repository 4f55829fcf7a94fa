"""Batches from shards without an index (`data.reader: webdataset`): every rank streams its share of the shards.

Nothing is exact here but the loss of a batch: which songs make step k depends on the number of ranks, and a run that
goes on begins a new order, so songs may be repeated or left out. Ranks know nothing of each other's songs, so that work
is not shared out by length, and every rank computes as many micro-batches as if all crops were the longest.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from model.data.batches import DENIED, MAX_ATTEMPTS
from model.data.crops import UnusableSongError, choose_length, spread
from model.data.examples import Example, ExampleMaker, MicroBatch, RankBatch
from model.data.packing import share_slots
from model.network.song_batch import BatchError
from model.settings.settings import RunConfig
from shards.plan import derive_seed
from shards.sample import Sample
from shards.schema import ShardError
from shards.stream import list_shards, stream_samples

logger = logging.getLogger(__name__)

TOO_SHORT = "shorter than data.min_crop_s"


class StreamedBatches:
    """Batches of one split, as `model.data.batches.Batches` gives them from an index."""

    def __init__(self, root: Path, codebook_size: int, config: RunConfig, split: str) -> None:
        """Look for shards, and read the held-out songs at once.

        Raises:
            BatchError: there are no shards, or no held-out song can be used.
            ShardError: a held-out sample is damaged, and data.on_bad_shard is stop.
        """
        self._root, self._codebook_size, self._config, self._split = root, codebook_size, config, split
        self._maker = ExampleMaker(config)
        self._denied: set[str] = set()
        self._damage: Counter[str] = Counter()
        self._stream: Iterator[Sample] | None = None
        self.num_shards = len(list_shards(root, split))
        if not self.num_shards:
            raise BatchError(f"split {split}: {root}/{split} holds no .tar files; put shards there")
        self._held_out = self._read_held_out() if split == "val" else []

    def describe(self) -> str:
        """Return what there is to train on, in words."""
        return f"a stream of {self.num_shards} shards (resumed without exactness)"

    @property
    def languages(self) -> Mapping[str, str]:
        """Languages of the held-out songs by key."""
        return {sample.key: str(sample.metadata["language"]) for sample in self._held_out}

    def deny(self, keys: Iterable[str]) -> None:
        """Pass over these songs from now on."""
        self._denied.update(keys)

    def train_batch(self, global_step: int, rank: int, world_size: int) -> RankBatch:
        """Return songs as at a start with this step, from a stream of their own."""
        fresh = StreamedBatches(self._root, self._codebook_size, self._config, self._split)
        return fresh.songs_from(global_step * self._config.trainer.batch_size, rank, world_size)

    def songs_from(self, first_song: int, rank: int, world_size: int) -> RankBatch:
        """Return the next songs of this rank's stream, whose order the first call decides.

        Raises:
            ShardError: a sample is damaged, and data.on_bad_shard is stop.
            BatchError: one song after another cannot be used.
        """
        seed, num_songs = self._config.trainer.seed, self._config.trainer.batch_size
        if self._stream is None:
            self._stream = self._open(derive_seed(seed, "stream", first_song), rank, world_size)
        num_skipped: Counter[str] = Counter()
        numbers = range(rank, num_songs, world_size) or [0]  # more ranks than songs: one that counts nothing
        examples = [self._next_example(number, first_song + number, num_skipped) for number in numbers]
        return self._share(examples, num_songs, rank, world_size, num_skipped)

    def validation_batch(self, rank: int, world_size: int) -> RankBatch:
        """Return this rank's share of the first held-out songs by name of shard and place: the same for every run."""
        numbers = range(rank, len(self._held_out), world_size) or [0]
        examples = [self._cut_held_out(number, self._held_out[number]) for number in numbers]
        return self._share(examples, len(self._held_out), rank, world_size, Counter())

    def _open(self, seed: int | None, rank: int, world_size: int) -> Iterator[Sample]:
        return stream_samples(
            self._root, self._split, codebook_size=self._codebook_size, on_damage=self._note_damage, seed=seed,
            rank=rank, world_size=world_size,
        )  # fmt: skip

    def _note_damage(self, error: ShardError) -> None:
        if self._config.data.on_bad_shard == "stop":
            raise error
        if not self._damage:
            logger.warning("left out, with whatever else is damaged: %s", error)
        self._damage["damaged: in a stream"] += 1

    def _next_example(self, number: int, place: int, num_skipped: Counter[str]) -> Example:
        assert self._stream is not None
        seed = self._config.trainer.seed
        share = spread(derive_seed(seed, "length"), place)
        reasons: Counter[str] = Counter()
        while reasons.total() < MAX_ATTEMPTS:
            self._damage.clear()
            sample = next(self._stream, None)
            reasons += self._damage
            if sample is None:
                break
            try:
                if sample.key in self._denied:
                    raise UnusableSongError(DENIED)
                example = self._cut(sample, number, derive_seed(seed, "song", place), share)
            except UnusableSongError as error:
                reasons[str(error)] += 1
            else:
                num_skipped += reasons
                return example
        listed = ", ".join(f"{count} times {reason}" for reason, count in reasons.most_common())
        raise BatchError(f"split {self._split}: no song of {reasons.total()} in a row can be used: {listed}")

    def _read_held_out(self) -> list[Sample]:
        songs: list[Sample] = []
        for sample in self._open(None, 0, 1):
            if len(songs) == self._config.data.val_songs:
                break
            try:
                self._cut_held_out(0, sample)
            except UnusableSongError as error:
                logger.info("held-out song %s is left out: %s", sample.key, error)
            else:
                songs.append(sample)
        if not songs:
            raise BatchError(f"split {self._split}: no song of {self._root}/{self._split} can be used")
        return songs

    def _cut_held_out(self, number: int, sample: Sample) -> Example:
        seed = derive_seed(self._config.data.val_seed, self._split, sample.key)
        return self._cut(sample, number, seed, spread(seed, 0))

    def _cut(self, sample: Sample, number: int, seed: int, share: float) -> Example:
        if sample.num_frames < self._maker.min_frames:
            raise UnusableSongError(TOO_SHORT)
        if sample.latent_channels != self._config.model.latent_channels:
            raise ShardError(
                f"sample {sample.key!r}: {sample.latent_channels} latent channels, expected "
                f"{self._config.model.latent_channels} (model.latent_channels)"
            )
        wanted_frames = choose_length(sample.num_frames, self._maker.rules, share)
        return self._maker.cut(sample, slot=number, seed=seed, wanted_frames=wanted_frames)

    def _share(
        self, examples: Sequence[Example], num_songs: int, rank: int, world_size: int, num_skipped: Counter[str]
    ) -> RankBatch:
        """Return the examples in as many micro-batches as every rank has."""
        size = math.floor(self._config.count_longest_songs())
        num_micro_batches = math.ceil(math.ceil(num_songs / world_size) / size)
        lengths = [float(len(example.semantic_tokens)) for example in examples]
        is_filler = rank >= num_songs
        micro_batches: list[MicroBatch] = [
            self._maker.collate([examples[number] for number in share.slots], is_repeat=is_filler)
            for share in share_slots(lengths, size, 1)[0]
        ]
        shortest = examples[lengths.index(min(lengths))]
        while len(micro_batches) < num_micro_batches:
            micro_batches.append(self._maker.collate([shortest], is_repeat=True))
        return RankBatch(micro_batches=tuple(micro_batches), num_skipped=num_skipped)
