"""Checks a whole dataset and names everything that is wrong with it."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.check_shard import ShardCheck, ShardResult, ShardTask
from shards.dataset_info import DatasetInfo, Totals, read_dataset_info
from shards.external_sort import add_texts, collect_texts, find_repeats
from shards.index import Index, read_index
from shards.index_row import find_damaged, split_by_shard
from shards.latent_statistics import LatentStatistics
from shards.schema import SPLITS, ShardError
from shards.storage import Root, is_url
from shards.worker_processes import run_in_order

# float16 rounding and the order of sums stay far below this; a stale dataset.json does not.
_STATISTICS_TOLERANCE = 0.01  # in standard deviations of the channel
_HOURS_TOLERANCE = 1e-6


@dataclass(slots=True)
class Report:
    """What a verification has found."""

    problems: list[str] = field(default_factory=list)  # single lines for people; empty where they went elsewhere
    num_problems: int = 0
    num_samples: int = 0  # that were read and are sound
    num_shards: int = 0  # that exist and have the right bytes
    num_bytes: int = 0
    hours: float = 0.0


def verify(root: Root, *, num_workers: int = 1, on_problem: Callable[[str], None] | None = None) -> Report:
    """Check dataset.json, the index and every byte of every shard of a dataset against each other.

    The index is read by row group, and shards are checked meanwhile. What must differ from row to row is sorted in the
    system's folder for temporary files (TMPDIR).

    Args:
        root: folder or URL of the dataset. Behind a URL no folder is listed, so shards that the index leaves out are
            not noticed.
        num_workers: processes that check shards; the report does not depend on it.
        on_problem: gets each problem when it is found (default: they are kept in the report).

    Raises:
        ShardError: processes that check shards die one after the other.
    """
    report = Report()
    tell = on_problem or report.problems.append

    def add(problem: str) -> None:
        report.num_problems += 1
        tell(problem)

    info, index = None, None
    try:
        info = read_dataset_info(root)
    except (ShardError, OSError) as error:
        add(str(error))
    try:
        index = read_index(root)
        index.check_cells()
    except (ShardError, OSError) as error:
        add(str(error))
        return report
    statistics = LatentStatistics(info.latent_channels) if info else None
    survey = _Survey(index)
    check = partial(_Check, root, index, info)
    for result in run_in_order(survey.tasks(), check, check().explain_loss, num_workers):
        for problem in result.problems:
            tell(problem)
        _count(result, report)
        if statistics is not None and result.statistics is not None:
            statistics.merge(result.statistics)
    for problem in survey.finish():
        add(problem)
    if info is not None:
        for problem in _compare_info(info, survey.totals):
            add(problem)
    for shard in [] if is_url(root) else _find_tars(Path(root)):
        if shard not in survey.totals.shards:
            add(f"{shard}: not in the index; delete it, or extract the dataset again")
    if info is not None and statistics is not None and statistics.num_frames and not report.num_problems:
        for problem in _compare_statistics(info, statistics):
            add(problem)
    return report


class _Check:
    """What a worker does: checks a shard, and passes on what is known to be wrong with a row."""

    def __init__(self, root: Root, index: Index, info: DatasetInfo | None) -> None:
        self._check = ShardCheck(root, index, info)

    def __call__(self, task: ShardTask | str) -> ShardResult:
        return ShardResult(problems=[task], num_problems=1) if isinstance(task, str) else self._check.check(task)

    def explain_loss(self, task: ShardTask | str, how: str) -> ShardResult:
        return self(task) if isinstance(task, str) else self._check.explain_loss(task, how)


def _count(result: ShardResult, report: Report) -> None:
    report.num_problems += result.num_problems
    report.num_samples += result.num_samples
    report.num_shards += result.num_shards
    report.num_bytes += result.num_bytes
    report.hours += result.hours


class _Survey:
    """Reads all rows, which gives what is to be checked, and then what no single row can show."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._texts = {name: collect_texts() for name in ("key", "song_id")}
        self._is_sorted = True
        self._stretches: list[ShardTask] = []
        self.totals = Totals()  # of the rows that are no problem themselves

    def tasks(self) -> Iterator[ShardTask | str]:
        """Yield each stretch of rows of one shard, and what is wrong with single rows, in the order of the index."""
        first = 0
        last = ("", 0)  # shard and offset
        task: ShardTask | None = None
        for batch in self._index.batches():
            damaged = dict(find_damaged(batch))
            yield from map(str, damaged.values())
            numbers = np.setdiff1d(np.arange(len(batch)), list(damaged))
            rows = batch.take(pa.array(numbers)) if damaged else batch
            for name, texts in self._texts.items():
                add_texts(texts, rows.column(name), first + numbers)
            self.totals.add_batch(rows)
            offsets = np.from_dlpack(rows.column("metadata_offset"))
            for shard, start, end in split_by_shard(rows):
                self._is_sorted &= last <= (shard, offsets[start]) and bool((np.diff(offsets[start:end]) >= 0).all())
                last = (shard, offsets[end - 1])
                begin, stop = first + int(numbers[start]), first + int(numbers[end - 1]) + 1
                if task is not None and task.shard == shard:
                    task = task._replace(stop=stop)
                    continue
                if task is not None:
                    self._stretches.append(task)
                    yield task
                task = ShardTask(shard, begin, stop)
            first += len(batch)
        if task is not None:
            self._stretches.append(task)
            yield task

    def finish(self) -> Iterator[str]:
        """Yield what is wrong with the rows as a whole."""
        for name, texts in self._texts.items():
            for value, _, place in find_repeats(texts):
                number = bisect_right(self._stretches, place, key=lambda stretch: stretch.start) - 1
                shard = self._stretches[number].shard
                yield f"index: {name} {value!r} is there twice, the second time in {shard}"
        if not self._is_sorted:
            yield "index: rows are not sorted by split, shard and offset; write the index again"


def _compare_info(info: DatasetInfo, totals: Totals) -> Iterator[str]:
    for name, counted in (
        ("num_samples", totals.num_samples),
        ("num_shards", len(totals.shards)),
        ("splits", dict(totals.splits)),
    ):
        if getattr(info, name) != counted:
            yield f"dataset.json: {name} is {getattr(info, name)}, the index has {counted}"
    if not math.isclose(info.hours, totals.hours, rel_tol=_HOURS_TOLERANCE, abs_tol=_HOURS_TOLERANCE):
        yield f"dataset.json: hours is {info.hours}, the index has {totals.hours}"


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
