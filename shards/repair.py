"""Makes a damaged dataset whole again: index and dataset.json from the shards, without the shards that are damaged."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from shards.dataset_info import DatasetInfo, read_dataset_info, write_dataset_info
from shards.index import IndexRow, read_index, write_index
from shards.latent_statistics import MIN_STD, LatentStatistics
from shards.reader import walk_shard
from shards.sample import check_sample
from shards.schema import CODEBOOK_SIZE, SPLITS, ShardError
from shards.storage import LocalSource, find_shard
from shards.writer import describe_row

DAMAGED_SUFFIX = ".damaged"  # added to the name of a shard that is dropped: no reader looks at it, nothing is deleted


@dataclass(slots=True)
class Repair:
    """What was found and done; `lines` are single lines for people."""

    lines: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # shards
    lost: list[str] = field(default_factory=list)  # keys of samples, as far as anything still names them
    num_samples: int = 0  # that are left


def repair(root: Path) -> Repair:
    """Check every shard in `root`, drop those that are cut or changed, and write dataset.json and the index anew.

    A shard is judged by its own bytes and, where the old index can still be read, by its SHA-256 there: only that
    tells a changed latent. A dropped shard is renamed, not deleted.

    Raises:
        ShardError: no shard is sound, a song is in two of them, or dataset.json is lost and the samples do not agree on
            what it said.
    """
    done = Repair()
    old_rows = _read_old_rows(root, done)
    old_info = _read_old_info(root, done)
    shards = [f"{split}/{path.name}" for split in SPLITS for path in sorted((root / split).glob("*.tar"))]
    for shard in sorted(old_rows.keys() - set(shards)):
        _lose(done, shard, f"{shard}: missing", old_rows[shard])
    rows: list[IndexRow] = []
    models: list[Any] = []
    statistics: LatentStatistics | None = None
    for shard in shards:
        try:
            scanned = _scan(root, shard, old_rows.get(shard, []), old_info)
        except (ShardError, OSError) as error:
            _lose(done, shard, str(error), old_rows.get(shard) or _read_keys(root, shard))
            path = root / shard
            path.rename(path.with_name(path.name + DAMAGED_SUFFIX))
            continue
        rows += scanned.rows
        models += [model for model in scanned.models if model not in models]
        if shard.startswith("train/"):
            statistics = statistics or LatentStatistics(scanned.statistics.num_channels)
            statistics.merge(scanned.statistics)
    if not rows or statistics is None:
        raise ShardError(f"{root}: no sound shard of the train split is left; extract the dataset again")
    info = _describe(root, rows, models, statistics, old_info, is_whole=not done.dropped)
    write_dataset_info(root, info)
    write_index(root, rows)
    done.num_samples = len(rows)
    return done


def _read_old_rows(root: Path, done: Repair) -> dict[str, list[IndexRow]]:
    """Return what the index says of each shard; nothing where it cannot be read."""
    try:
        return {shard: list(rows) for shard, rows in groupby(read_index(root), key=lambda row: row.shard)}
    except (ShardError, OSError) as error:
        done.lines.append(f"{error} (made anew; a value changed inside a shard cannot be noticed without it)")
        return {}


def _read_old_info(root: Path, done: Repair) -> DatasetInfo | None:
    try:
        return read_dataset_info(root)
    except (ShardError, OSError) as error:
        done.lines.append(f"{error} (made anew)")
        return None


def _lose(done: Repair, shard: str, reason: str, rows: Sequence[IndexRow] | Sequence[str]) -> None:
    keys = [row if isinstance(row, str) else row.key for row in rows]
    done.dropped.append(shard)
    done.lost += keys
    done.lines.append(f"dropped {shard}: {reason} (lost: {', '.join(keys) or 'nobody knows what'})")


@dataclass(slots=True)
class _Scan:
    rows: list[IndexRow]
    models: list[Any]  # each different account of the models once
    statistics: LatentStatistics


def _scan(root: Path, shard: str, old_rows: Sequence[IndexRow], info: DatasetInfo | None) -> _Scan:
    """Read a whole shard and return its rows; ShardError if anything is wrong with it."""
    path = find_shard(root, shard)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if old_rows and old_rows[0].shard_sha256 != sha256:
        raise ShardError(f"sha256 is {sha256}, the index says {old_rows[0].shard_sha256}: its bytes have changed")
    source = LocalSource(path)
    codebook_size = info.codebook_size if info else CODEBOOK_SIZE
    scan: _Scan | None = None
    for raw in walk_shard(source, shard):
        where = f"{shard}: sample {raw.key!r}"
        sample = raw.decode(where, codebook_size)
        check_sample(sample, where, codebook_size=codebook_size)
        scan = scan or _Scan([], [], LatentStatistics(sample.latent_channels))
        if sample.latent_channels != (info.latent_channels if info else scan.statistics.num_channels):
            raise ShardError(f"{where}: {sample.latent_channels} latent channels, unlike the rest of the dataset")
        scan.statistics.add(sample.latents)
        account = sample.metadata["provenance"].get("models", {})
        scan.models += [account] if account not in scan.models else []
        scan.rows.append(describe_row(sample, raw, shard, source.num_bytes, sha256))
    if scan is None:
        raise ShardError(f"{shard}: holds no samples")
    return scan


def _read_keys(root: Path, shard: str) -> list[str]:
    """Return the keys of the samples that a damaged shard still names."""
    keys: list[str] = []
    try:
        for raw in walk_shard(LocalSource(find_shard(root, shard)), shard):
            keys.append(raw.key)
    except (ShardError, OSError):
        keys.append("and whatever came after")
    return keys


def _fingerprint(rows: Sequence[IndexRow]) -> str:
    """Return the fingerprint of a dataset of which only the shards are known."""
    return hashlib.sha256("".join(sorted({row.shard_sha256 for row in rows})).encode()).hexdigest()


def _describe(
    root: Path,
    rows: Sequence[IndexRow],
    models: Sequence[Any],
    statistics: LatentStatistics,
    old: DatasetInfo | None,
    *,
    is_whole: bool,
) -> DatasetInfo:
    if old is None and (len(models) != 1 or not isinstance(models[0], dict)):
        raise ShardError(
            f"{root}: dataset.json is lost, and the samples give {len(models)} accounts of the models that made them; "
            "extract the dataset again"
        )
    return DatasetInfo.from_rows(
        rows,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(floor=MIN_STD),
        models=old.models if old else models[0],
        fingerprint=old.fingerprint if old and is_whole else _fingerprint(rows),
        codebook_size=old.codebook_size if old else CODEBOOK_SIZE,
    )
