"""Makes a damaged dataset whole again: index and dataset.json from the shards, without the shards that are damaged."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shards.dataset_info import DatasetInfo, Totals, read_dataset_info, write_dataset_info
from shards.index import IndexRow, read_index
from shards.index_row import find_damaged, split_by_shard
from shards.index_writer import IndexWriter
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
    old = _OldIndex(root, done)
    old_info = _read_old_info(root, done)
    shards = [f"{split}/{path.name}" for split in SPLITS for path in sorted((root / split).glob("*.tar"))]
    for shard in sorted(old.sha256.keys() - set(shards)):
        _lose(done, shard, f"{shard}: missing", old.keys(shard))
    writer = IndexWriter(root)
    models: list[Any] = []
    sha256: set[str] = set()
    statistics: LatentStatistics | None = None
    for shard in shards:
        try:
            scanned = _scan(root, shard, old.sha256.get(shard), old_info)
        except (ShardError, OSError) as error:
            _lose(done, shard, str(error), old.keys(shard) or _read_keys(root, shard))
            path = root / shard
            path.rename(path.with_name(path.name + DAMAGED_SUFFIX))
            continue
        writer.add(scanned.rows)
        sha256.add(scanned.rows[0].shard_sha256)
        models += [model for model in scanned.models if model not in models]
        if shard.startswith("train/"):
            statistics = statistics or LatentStatistics(scanned.statistics.num_channels)
            statistics.merge(scanned.statistics)
    if statistics is None:
        raise ShardError(f"{root}: no sound shard of the train split is left; extract the dataset again")
    writer.check()
    info = _describe(root, writer.totals, models, statistics, old_info)
    if done.dropped or old_info is None:
        info = replace(info, fingerprint=hashlib.sha256("".join(sorted(sha256)).encode()).hexdigest())
    write_dataset_info(root, info)
    writer.write()
    done.num_samples = info.num_samples
    return done


class _OldIndex:
    """What the index said of each shard; nothing where it cannot be read."""

    def __init__(self, root: Path, done: Repair) -> None:
        self.sha256: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}  # first row of a shard, and behind its last one
        try:
            self._index = read_index(root)
            self._read()
        except (ShardError, OSError) as error:
            done.lines.append(f"{error} (made anew; a value changed inside a shard cannot be noticed without it)")
            self.sha256, self._places = {}, {}

    def keys(self, shard: str) -> list[str]:
        """Return the keys of the samples of a shard."""
        if shard not in self._places:
            return []
        return [row.key for row in self._index.slice(*self._places[shard]) if row.shard == shard]

    def _read(self) -> None:
        first_row = 0
        for batch in self._index.batches():
            for _, error in find_damaged(batch):
                raise error
            for shard, start, end in split_by_shard(batch):
                self.sha256.setdefault(shard, batch.column("shard_sha256")[start].as_py())
                begin, _ = self._places.get(shard, (first_row + start, 0))
                self._places[shard] = begin, first_row + end
            first_row += len(batch)


def _read_old_info(root: Path, done: Repair) -> DatasetInfo | None:
    try:
        return read_dataset_info(root)
    except (ShardError, OSError) as error:
        done.lines.append(f"{error} (made anew)")
        return None


def _lose(done: Repair, shard: str, reason: str, keys: Sequence[str]) -> None:
    done.dropped.append(shard)
    done.lost += keys
    done.lines.append(f"dropped {shard}: {reason} (lost: {', '.join(keys) or 'nobody knows what'})")


@dataclass(slots=True)
class _Scan:
    rows: list[IndexRow]
    models: list[Any]  # each different account of the models once
    statistics: LatentStatistics


def _scan(root: Path, shard: str, old_sha256: str | None, info: DatasetInfo | None) -> _Scan:
    """Read a whole shard and return its rows; ShardError if anything is wrong with it."""
    path = find_shard(root, shard)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if old_sha256 not in (None, sha256):
        raise ShardError(f"sha256 is {sha256}, the index says {old_sha256}: its bytes have changed")
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


def _describe(
    root: Path, totals: Totals, models: Sequence[Any], statistics: LatentStatistics, old: DatasetInfo | None
) -> DatasetInfo:
    if old is None and (len(models) != 1 or not isinstance(models[0], dict)):
        raise ShardError(
            f"{root}: dataset.json is lost, and the samples give {len(models)} accounts of the models that made them; "
            "extract the dataset again"
        )
    return DatasetInfo.from_rows(
        totals,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(floor=MIN_STD),
        models=old.models if old else models[0],
        fingerprint=old.fingerprint if old else "",
        codebook_size=old.codebook_size if old else CODEBOOK_SIZE,
    )
