"""Checks a whole dataset and names everything that is wrong with it."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from shards.dataset_info import DatasetInfo, read_dataset_info
from shards.index import Index, IndexRow, read_index
from shards.latent_statistics import LatentStatistics
from shards.reader import ShardReader
from shards.sample import Sample, check_sample
from shards.schema import SPLITS, ShardError
from shards.storage import find_shard
from shards.tar import END_MARK

# float16 rounding and the order of sums stay far below this; a stale dataset.json does not.
_STATISTICS_TOLERANCE = 0.01  # in standard deviations of the channel
_HOURS_TOLERANCE = 1e-6


@dataclass(slots=True)
class Report:
    """What a verification has found; `problems` are single lines for people."""

    problems: list[str] = field(default_factory=list)
    num_samples: int = 0  # that were read and are sound
    num_shards: int = 0  # that exist and have the right bytes
    num_bytes: int = 0
    hours: float = 0.0


def verify(root: Path) -> Report:
    """Check dataset.json, the index and every byte of every shard of the dataset in `root` against each other."""
    report = Report()
    info, index = _read_info(root, report), _read_index(root, report)
    if index is None:
        return report
    rows = _read_rows(index, report)
    _check_rows(rows, report)
    if info is not None:
        report.problems += _compare_info(info, rows)
    statistics = LatentStatistics(info.latent_channels) if info else None
    for shard, shard_rows in groupby(rows, key=lambda row: row.shard):
        _check_shard(root, shard, list(shard_rows), statistics, report)
    listed = {row.shard for row in rows}
    for shard in _find_tars(root):
        if shard not in listed:
            report.problems.append(f"{shard}: not in the index; delete it, or extract the dataset again")
    if info is not None and statistics is not None and statistics.num_frames and not report.problems:
        report.problems += _compare_statistics(info, statistics)
    return report


def _read_info(root: Path, report: Report) -> DatasetInfo | None:
    try:
        return read_dataset_info(root)
    except (ShardError, OSError) as error:
        report.problems.append(str(error))
        return None


def _read_index(root: Path, report: Report) -> Index | None:
    try:
        index = read_index(root)
        index.check_cells()
        return index
    except (ShardError, OSError) as error:
        report.problems.append(str(error))
        return None


def _read_rows(index: Index, report: Report) -> list[IndexRow]:
    rows = []
    for number in range(len(index)):
        try:
            rows.append(index.row(number))
        except ShardError as error:
            report.problems.append(str(error))
    return rows


def _check_rows(rows: Sequence[IndexRow], report: Report) -> None:
    """Check what no single row can show: that keys and songs are unique and rows are in order."""
    for name in ("key", "song_id"):
        seen: set[str] = set()
        for row in rows:
            value = getattr(row, name)
            if value in seen:
                report.problems.append(f"index: {name} {value!r} is there twice, the second time in {row.shard}")
            seen.add(value)
    places = [(row.split, row.shard, row.metadata_offset) for row in rows]
    if places != sorted(places):
        report.problems.append("index: rows are not sorted by split, shard and offset; write the index again")


def _check_shard(
    root: Path, shard: str, rows: list[IndexRow], statistics: LatentStatistics | None, report: Report
) -> None:
    """Check the bytes of one shard as a whole, then each of its samples."""
    try:
        path = find_shard(root, shard)
        problems = [f"{shard}: {problem}" for problem in _check_bytes(path, rows)]
    except (ShardError, OSError) as error:
        report.problems.append(f"{error} (lost: {', '.join(row.key for row in rows)})")
        return
    report.problems += problems
    report.num_shards += not problems
    report.num_bytes += path.stat().st_size
    if statistics is None:  # without dataset.json no sample can be judged
        return
    reader = ShardReader(root)
    for row in rows:
        try:
            sample = reader.read(row)
            check_sample(sample, f"{shard}: sample {row.key!r}", codebook_size=reader.info.codebook_size)
            _compare_row(sample, row)
        except (ShardError, OSError) as error:
            report.problems.append(str(error))
            continue
        report.num_samples += 1
        report.hours += row.duration_s / 3600
        if row.split == "train":
            statistics.add(sample.latents)


def _check_bytes(path: Path, rows: Sequence[IndexRow]) -> Iterator[str]:
    """Yield what is wrong with a shard as a whole; every byte must belong to a sample or to the end mark."""
    expected_bytes, expected_sha256 = rows[0].shard_bytes, rows[0].shard_sha256
    if any((row.shard_bytes, row.shard_sha256) != (expected_bytes, expected_sha256) for row in rows):
        yield "the index gives it several sizes or checksums; write the index again"
    num_bytes = path.stat().st_size
    if num_bytes != expected_bytes:
        kind = "cut" if num_bytes < expected_bytes else "too long"
        yield f"has {num_bytes} bytes, the index says {expected_bytes}: it is {kind}"
    else:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != expected_sha256:
                yield f"sha256 is {sha256}, the index says {expected_sha256}: its bytes have changed"
            file.seek(-len(END_MARK), 2)
            if file.read() != END_MARK:
                yield "has no end mark"
    ends = [0, *(row.end for row in rows)]
    starts = [*(row.start for row in rows), expected_bytes - len(END_MARK)]
    for end, start in zip(ends, starts, strict=True):
        if end < start:
            yield f"bytes {end} to {start} belong to no sample of the index"
        elif end > start:
            yield f"bytes {start} to {end} belong to two samples of the index"


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


def _compare_info(info: DatasetInfo, rows: Sequence[IndexRow]) -> Iterator[str]:
    counted = DatasetInfo.from_rows(
        rows, latent_mean=info.latent_mean, latent_std=info.latent_std, models={}, fingerprint=""
    )
    for name in ("num_samples", "num_shards", "splits"):
        if getattr(info, name) != getattr(counted, name):
            yield f"dataset.json: {name} is {getattr(info, name)}, the index has {getattr(counted, name)}"
    if not math.isclose(info.hours, counted.hours, rel_tol=_HOURS_TOLERANCE, abs_tol=_HOURS_TOLERANCE):
        yield f"dataset.json: hours is {info.hours}, the index has {counted.hours}"


def _compare_statistics(info: DatasetInfo, statistics: LatentStatistics) -> Iterator[str]:
    scale = np.maximum(statistics.std(), np.finfo(np.float16).tiny)
    for name, measured in (("latent_mean", statistics.mean()), ("latent_std", statistics.std())):
        error = np.abs(np.subtract(getattr(info, name), measured)) / scale
        channel = int(error.argmax())
        if error[channel] > _STATISTICS_TOLERANCE:
            yield (
                f"dataset.json: {name}[{channel}] is {getattr(info, name)[channel]:.6g}, "
                f"the train split has {measured[channel]:.6g}; training would scale the latents wrongly"
            )


def _find_tars(root: Path) -> list[str]:
    return sorted(f"{split}/{path.name}" for split in SPLITS for path in (root / split).glob("*.tar"))
