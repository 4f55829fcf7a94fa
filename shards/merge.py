"""Joins datasets: shards are copied as they are, under new numbers; index and dataset.json are made from the parts."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.atomic_file import open_atomic
from shards.dataset_info import INFO_NAME, DatasetInfo, Totals, read_dataset_info, write_dataset_info
from shards.external_sort import ExternalSort, add_texts, collect_texts, find_repeats
from shards.index import INDEX_NAME, Index, IndexRow, read_index
from shards.index_row import find_damaged, read_row, replace_columns, split_by_shard
from shards.index_writer import IndexWriter
from shards.latent_statistics import MIN_STD, LatentStatistics
from shards.schema import SPLITS, ShardError
from shards.storage import find_shard

_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    root: Path
    info: DatasetInfo
    index: Index
    first_row: int  # among the rows of all parts


def merge(out: Path, sources: Sequence[Path]) -> DatasetInfo:
    """Write the songs of all `sources` into the folder `out`, in their order, and return its dataset.json.

    Every shard is checked against its SHA-256 while it is copied. A merge that was stopped goes on when it is called
    again: shards that are there already, and right, are not copied twice. The indexes are read twice, by row group;
    texts that must differ are sorted in temporary files in `out`.

    Raises:
        ShardError: the datasets were made with different models, share a song, have a recording in different splits,
            or a shard is damaged; or `out` holds something else.
    """
    if (out / INDEX_NAME).exists() or (out / INFO_NAME).exists():
        raise ShardError(f"{out}: holds a dataset already; name a new folder")
    parts: list[_Part] = []
    num_rows = 0
    for root in sources:
        parts.append(_Part(root=root, info=read_dataset_info(root), index=read_index(root), first_row=num_rows))
        num_rows += len(parts[-1].index)
    _refuse_other_models(parts)
    statistics = _survey(out, parts)
    writer = IndexWriter(out)
    numbers = dict.fromkeys(SPLITS, 0)
    for part in parts:
        for batch in _copy_shards(part, out, numbers):
            writer.add_batch(batch)
    writer.check()
    _refuse_strangers(out, writer.totals.shards)
    info = _describe(parts, writer.totals, statistics)
    write_dataset_info(out, info)
    writer.write()
    return info


def _survey(out: Path, parts: Sequence[_Part]) -> LatentStatistics:
    """Read all rows once and return the statistics of the train split.

    Raises:
        ShardError: a row is damaged, a song is there twice, or a recording is in both splits.
    """
    songs, recordings = collect_texts(out), collect_texts(out)
    statistics = LatentStatistics(parts[0].info.latent_channels)
    for part in parts:
        first_row, num_frames = part.first_row, 0
        for batch in part.index.batches():
            for _, error in find_damaged(batch):
                raise error
            is_train = _are_train(batch)
            num_frames += int(np.from_dlpack(batch.column("num_frames"))[is_train].sum())
            places = first_row + np.arange(len(batch))
            add_texts(songs, batch.column("song_id"), places)
            add_texts(recordings, batch.column("sha256"), 2 * places + is_train)  # an odd place is of the train split
            first_row += len(batch)
        statistics.merge(LatentStatistics.from_moments(num_frames, part.info.latent_mean, part.info.latent_std))
    _refuse_repeats(parts, songs, recordings)
    return statistics


def _refuse_other_models(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name in ("codebook_size", "latent_channels", "models"):
            ours, theirs = getattr(first.info, name), getattr(part.info, name)
            if ours != theirs:
                raise ShardError(
                    f"{part.root}: {name} is {theirs}, but {first.root} has {ours}; tokens and latents of different "
                    "models mean different things: extract one of them again"
                )


def _refuse_repeats(parts: Sequence[_Part], songs: ExternalSort, recordings: ExternalSort) -> None:
    """Raise ShardError for the first row whose song is there already, or its recording in the other split."""
    shared = min(find_repeats(songs), key=itemgetter(2), default=None)
    if shared is not None:
        song_id, first, second = shared
        roots = [_find(parts, place)[0].root for place in (first, second)]
        raise ShardError(f"song {song_id!r} is in {roots[0]} and in {roots[1]}; drop it in one")
    in_both = (found for found in find_repeats(recordings) if found[1] % 2 != found[2] % 2)
    shared = min(in_both, key=itemgetter(2), default=None)
    if shared is not None:
        (other, earlier), (part, row) = (_find(parts, place // 2) for place in shared[1:])
        raise ShardError(
            f"song {row.song_id!r} is in {row.split} of {part.root}, the same recording in {earlier.split} of "
            f"{other.root}; validation would be on songs that were trained on"
        )


def _copy_shards(part: _Part, out: Path, numbers: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """Copy the shards of a part and yield its rows, which name the copies; `numbers` are the next ones by split."""
    shard = name = ""
    for batch in part.index.batches():
        names: list[str] = []
        for next_shard, start, end in split_by_shard(batch):
            if next_shard != shard:
                row = read_row(batch, start)
                shard, name = next_shard, f"{row.split}/{numbers[row.split]:06d}.tar"
                numbers[row.split] += 1
                _copy(find_shard(part.root, shard), out / name, row)
            names += [name] * (end - start)
        yield replace_columns(batch, shard=pa.array(names))


def _are_train(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    return np.array([split == "train" for split in batch.column("split").to_pylist()], np.bool_)


def _find(parts: Sequence[_Part], place: int) -> tuple[_Part, IndexRow]:
    """Return the part that holds row `place` of all, and the row."""
    part = next(part for part in reversed(parts) if part.first_row <= place)
    return part, part.index.row(place - part.first_row)


def _copy(source: Path, target: Path, row: IndexRow) -> None:
    """Copy a shard whose size and SHA-256 the index gives."""
    if target.exists():
        if _hash(target) != row.shard_sha256:
            raise ShardError(f"{target}: holds something else already; name a new folder")
        return
    with open_atomic(target) as file:
        sha256 = hashlib.sha256()
        for chunk in _chunks(source):
            sha256.update(chunk)
            file.write(chunk)
        if sha256.hexdigest() != row.shard_sha256:
            raise ShardError(
                f"{source}: sha256 is not that of the index: the shard is damaged; repair its dataset first"
            )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _refuse_strangers(out: Path, expected: set[str]) -> None:
    for split in SPLITS:
        for path in sorted((out / split).glob("*.tar")):
            if f"{split}/{path.name}" not in expected:
                raise ShardError(f"{path}: no part of this merge; name a new folder, or move it away")


def _describe(parts: Sequence[_Part], totals: Totals, statistics: LatentStatistics) -> DatasetInfo:
    return DatasetInfo.from_rows(
        totals,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(floor=MIN_STD),
        models=parts[0].info.models,
        fingerprint=hashlib.sha256("".join(part.info.fingerprint for part in parts).encode()).hexdigest(),
        codebook_size=parts[0].info.codebook_size,
    )
