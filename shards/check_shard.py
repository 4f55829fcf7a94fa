"""Checks one shard against the rows of the index, byte by byte and sample by sample."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from isal.isal_zlib import crc32

from shards.dataset_info import DatasetInfo
from shards.index import Index, IndexRow
from shards.index_row import find_damaged
from shards.latent_statistics import LatentStatistics
from shards.reader import RawSample, ShardReader, walk_shard
from shards.remote_retry import UnreadableError
from shards.sample import Sample, check_sample
from shards.schema import ShardError
from shards.storage import ByteSource, Root, open_storage
from shards.tar import END_MARK

MAX_LINES = 10_000  # about one shard; what is wrong beyond is counted
_MAX_NAMED = 1_000  # samples of a shard that is lost
_SEVERAL = "the index gives it several sizes or checksums; write the index again"
_CHUNK_BYTES = 8 * 2**20


class ShardTask(NamedTuple):
    """What to check: a shard and its rows in the index, [start, stop)."""

    shard: str
    start: int
    stop: int


@dataclass(slots=True)
class ShardResult:
    """What a check has found."""

    problems: list[str] = field(default_factory=list)
    num_problems: int = 0  # also those beyond MAX_LINES
    num_samples: int = 0  # that were read and are sound
    num_shards: int = 0  # 1 if all bytes are right
    num_bytes: int = 0
    hours: float = 0.0  # of the sound samples
    statistics: LatentStatistics | None = None  # of the sound samples of the train split

    def add(self, problem: str) -> None:
        """Count a problem, and keep its line while there are few."""
        self.num_problems += 1
        if len(self.problems) < MAX_LINES:
            self.problems.append(problem)


class ShardCheck:
    """Checks shards of one dataset; one of these is in each process that does."""

    def __init__(self, root: Root, index: Index, info: DatasetInfo | None) -> None:
        """Open the dataset in the folder or behind the URL `root`; without dataset.json no sample can be judged."""
        self._index = index
        self._info = info
        self._storage = open_storage(root)
        self._reader = ShardReader(root)

    def check(self, task: ShardTask) -> ShardResult:
        """Return what is wrong with a shard. A sound one is read once, from end to end."""
        result, reason = ShardResult(), ""
        try:
            source = self._storage.open_shard(task.shard)
            if self._info is not None:
                try:
                    return self._read_through(task, source, self._info)
                except UnreadableError:
                    raise
                except ShardError as error:  # what is wrong is looked for below, in all samples
                    reason = str(error)
            self._check_bytes(task, source, result)
        except (UnreadableError, OSError) as error:
            return _lose(f"{error} (not verified: {self._name_samples(task)})")
        except ShardError as error:
            return _lose(f"{error} (lost: {self._name_samples(task)})")
        if self._info is not None:
            self._check_samples(task, self._info, result)
        if reason and not result.num_problems:
            result.add(reason)
        if result.num_problems > len(result.problems):
            result.problems.append(f"{task.shard}: {result.num_problems - len(result.problems)} more problems")
        return result

    def explain_loss(self, task: ShardTask, how: str) -> ShardResult:
        """Return the result of a shard whose check did not come to its end."""
        return _lose(f"{task.shard}: {how} while it checked this shard (not verified: {self._name_samples(task)})")

    def _rows(self, task: ShardTask) -> Iterator[IndexRow]:
        """Yield the rows of a shard that are no problem themselves, as often as it is asked for."""
        for batch in self._index.slice(task.start, task.stop).batches():
            damaged = {number for number, _ in find_damaged(batch)}
            for number, record in enumerate(batch.to_pylist()):
                if number not in damaged:
                    yield IndexRow(**record)

    def _read_through(self, task: ShardTask, source: ByteSource, info: DatasetInfo) -> ShardResult:
        """Return the counts of a shard that is sound in all; raise ShardError where it is not."""
        result, sha256 = ShardResult(), hashlib.sha256()
        result.statistics = LatentStatistics(info.latent_channels)
        expected: tuple[int, str] | None = None  # size and SHA-256 of the shard
        for raw, row in zip_longest(walk_shard(source, task.shard), self._rows(task)):
            if raw is None or row is None or not _is_named_by(raw, row):
                raise ShardError(f"{task.shard}: holds other samples than the index says")
            expected = expected or (row.shard_bytes, row.shard_sha256)
            if (row.shard_bytes, row.shard_sha256) != expected:
                raise ShardError(f"{task.shard}: {_SEVERAL}")
            sha256.update(raw.data.data)
            self._count(raw.decode(f"{task.shard}: sample {row.key!r}", info.codebook_size), row, info, result)
        sha256.update(END_MARK)
        if (source.num_bytes, sha256.hexdigest()) != expected:
            raise ShardError(f"{task.shard}: size or sha256 differs from the index: its bytes have changed")
        result.num_shards, result.num_bytes = 1, source.num_bytes
        return result

    def _count(self, sample: Sample, row: IndexRow, info: DatasetInfo, result: ShardResult) -> None:
        """Count a sample if it is sound in itself and is what its row says; raise ShardError if not."""
        where = f"{row.shard}: sample {row.key!r}"
        if sample.latent_channels != info.latent_channels:
            raise ShardError(
                f"{where}: {sample.latent_channels} latent channels, dataset.json says {info.latent_channels}"
            )
        check_sample(sample, where, codebook_size=info.codebook_size)
        _compare_row(sample, row)
        result.num_samples += 1
        result.hours += row.duration_s / 3600
        if row.split == "train" and result.statistics is not None:
            result.statistics.add(sample.latents)

    def _check_samples(self, task: ShardTask, info: DatasetInfo, result: ShardResult) -> None:
        """Read each sample by its place, and name those that are not sound."""
        result.statistics = LatentStatistics(info.latent_channels)
        for row in self._rows(task):
            try:
                self._count(self._reader.read(row), row, info, result)
            except (ShardError, OSError) as error:
                result.add(str(error))

    def _check_bytes(self, task: ShardTask, source: ByteSource, result: ShardResult) -> None:
        """Name what is wrong with a shard as a whole; every byte must belong to a sample or to the end mark."""
        shard, num_before = task.shard, result.num_problems
        expected_bytes, expected_sha256 = next((row.shard_bytes, row.shard_sha256) for row in self._rows(task))
        if any((row.shard_bytes, row.shard_sha256) != (expected_bytes, expected_sha256) for row in self._rows(task)):
            result.add(f"{shard}: {_SEVERAL}")
        if source.num_bytes != expected_bytes:
            kind = "cut" if source.num_bytes < expected_bytes else "too long"
            result.add(f"{shard}: has {source.num_bytes} bytes, the index says {expected_bytes}: it is {kind}")
        else:
            sha256 = _hash(source)
            if sha256 != expected_sha256:
                result.add(f"{shard}: sha256 is {sha256}, the index says {expected_sha256}: its bytes have changed")
            if source.read_at(expected_bytes - len(END_MARK), len(END_MARK)).tobytes() != END_MARK:
                result.add(f"{shard}: has no end mark")
        end = 0
        for row in self._rows(task):
            _check_gap(shard, end, row.start, result)
            end = row.end
        _check_gap(shard, end, expected_bytes - len(END_MARK), result)
        result.num_shards = int(result.num_problems == num_before)
        result.num_bytes = source.num_bytes

    def _name_samples(self, task: ShardTask) -> str:
        names = [row.key for row, _ in zip(self._rows(task), range(_MAX_NAMED), strict=False)]
        num_more = task.stop - task.start - len(names)
        return ", ".join(names) + (f" and {num_more} more" if num_more and len(names) == _MAX_NAMED else "")


def _lose(problem: str) -> ShardResult:
    result = ShardResult()
    result.add(problem)
    return result


def _is_named_by(raw: RawSample, row: IndexRow) -> bool:
    """Say whether the row gives the place of these bytes and their checksum."""
    place = (raw.key, raw.start, raw.members) == (row.key, row.start, row.members)
    return place and crc32(raw.data.data) == row.crc32


def _check_gap(shard: str, end: int, start: int, result: ShardResult) -> None:
    if end < start:
        result.add(f"{shard}: bytes {end} to {start} belong to no sample of the index")
    elif end > start:
        result.add(f"{shard}: bytes {start} to {end} belong to two samples of the index")


def _hash(source: ByteSource) -> str:
    sha256 = hashlib.sha256()
    for start in range(0, source.num_bytes, _CHUNK_BYTES):
        sha256.update(source.read_at(start, _CHUNK_BYTES).data)
    return sha256.hexdigest()


def _compare_row(sample: Sample, row: IndexRow) -> None:
    """Raise ShardError unless the row says of the song what the sample says."""
    metadata = sample.metadata
    for name, value in (
        ("song_id", metadata["song_id"]),
        ("num_frames", sample.num_frames),
        ("language", metadata["language"]),
        ("duration_s", metadata["duration_s"]),
        ("sha256", metadata["provenance"]["sha256"]),
    ):
        if getattr(row, name) != value:
            raise ShardError(
                f"{row.shard}: sample {row.key!r}: {name} is {value!r}, the index says {getattr(row, name)!r}"
            )
