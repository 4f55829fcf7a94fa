"""Joins datasets: shards are copied as they are, under new numbers; index and dataset.json are made from the parts."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from shards.atomic_file import open_atomic
from shards.dataset_info import INFO_NAME, DatasetInfo, read_dataset_info, write_dataset_info
from shards.index import INDEX_NAME, IndexRow, read_index, write_index
from shards.latent_statistics import MIN_STD, LatentStatistics
from shards.schema import SPLITS, ShardError
from shards.storage import find_shard

_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    root: Path
    info: DatasetInfo
    rows: tuple[IndexRow, ...]


def merge(out: Path, sources: Sequence[Path]) -> DatasetInfo:
    """Write the songs of all `sources` into the folder `out`, in their order, and return its dataset.json.

    Every shard is checked against its SHA-256 while it is copied. A merge that was stopped goes on when it is called
    again: shards that are there already, and right, are not copied twice.

    Raises:
        ShardError: the datasets were made with different models, share a song, have a recording in different splits,
            or a shard is damaged; or `out` holds something else.
    """
    parts = [_Part(root=root, info=read_dataset_info(root), rows=tuple(read_index(root))) for root in sources]
    _refuse_other_models(parts)
    _refuse_shared_songs(parts)
    if (out / INDEX_NAME).exists() or (out / INFO_NAME).exists():
        raise ShardError(f"{out}: holds a dataset already; name a new folder")
    shards = [
        (part.root, shard, list(rows))
        for part in parts
        for shard, rows in groupby(part.rows, key=lambda row: row.shard)
    ]
    numbers = dict.fromkeys(SPLITS, 0)
    merged: list[IndexRow] = []
    for root, shard, rows in shards:
        split = rows[0].split
        name = f"{split}/{numbers[split]:06d}.tar"
        numbers[split] += 1
        _copy(find_shard(root, shard), out / name, rows[0])
        merged += [replace(row, shard=name) for row in rows]
    _refuse_strangers(out, {row.shard for row in merged})
    info = _describe(parts, merged)
    write_dataset_info(out, info)
    write_index(out, merged)
    return info


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


def _refuse_shared_songs(parts: Sequence[_Part]) -> None:
    owners: dict[str, Path] = {}
    splits: dict[str, tuple[str, Path]] = {}
    for part in parts:
        for row in part.rows:
            if row.song_id in owners:
                raise ShardError(f"song {row.song_id!r} is in {owners[row.song_id]} and in {part.root}; drop it in one")
            owners[row.song_id] = part.root
            split, root = splits.setdefault(row.sha256, (row.split, part.root))
            if split != row.split:
                raise ShardError(
                    f"song {row.song_id!r} is in {row.split} of {part.root}, the same recording in {split} of {root}; "
                    "validation would be on songs that were trained on"
                )


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


def _describe(parts: Sequence[_Part], rows: Sequence[IndexRow]) -> DatasetInfo:
    statistics = LatentStatistics(parts[0].info.latent_channels)
    for part in parts:
        num_frames = sum(row.num_frames for row in part.rows if row.split == "train")
        statistics.merge(LatentStatistics.from_moments(num_frames, part.info.latent_mean, part.info.latent_std))
    return DatasetInfo.from_rows(
        rows,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(floor=MIN_STD),
        models=parts[0].info.models,
        fingerprint=hashlib.sha256("".join(part.info.fingerprint for part in parts).encode()).hexdigest(),
        codebook_size=parts[0].info.codebook_size,
    )
