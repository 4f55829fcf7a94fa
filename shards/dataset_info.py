"""dataset.json: what holds for a whole dataset."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.atomic_file import open_atomic
from shards.index_row import IndexRow
from shards.schema import CODEBOOK_SIZE, FRAME_RATE_HZ, MAX_LATENT_CHANNELS, SCHEMA_VERSION, SPLITS, ShardError
from shards.storage import Root, open_storage

INFO_NAME = "dataset.json"
_MAX_INFO_BYTES = 2**20  # with 1024 channels, 50 kB; a list of lists takes twenty times its bytes in memory
_MAX_NUMBER = 2**53  # integers beyond are not floats; no number here comes near


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """What training must know before it opens a shard."""

    schema_version: int = SCHEMA_VERSION
    codebook_size: int = CODEBOOK_SIZE
    latent_channels: int  # C
    frame_rate_hz: int = FRAME_RATE_HZ
    latent_mean: tuple[float, ...]  # [C] over all frames of the train split
    latent_std: tuple[float, ...]  # [C] likewise, each above 0
    num_samples: int
    num_shards: int
    hours: float  # of audio
    fingerprint: str  # of the inputs and settings that made the dataset
    models: dict[str, Any]  # stage name to model name, hash and settings
    splits: dict[str, int]  # samples per split

    def __post_init__(self) -> None:
        """Refuse a description that no dataset of this version has."""
        for column in fields(self):
            name = column.name
            if column.type is int and type(getattr(self, name)) is not int:
                raise _error(f"{name} is {getattr(self, name)!r}, expected an integer")
        if self.schema_version != SCHEMA_VERSION:
            raise _error(
                f"schema version {self.schema_version}, this reader knows {SCHEMA_VERSION}; "
                "update the checkout or extract the dataset again"
            )
        if self.frame_rate_hz != FRAME_RATE_HZ:
            raise _error(f"frame_rate_hz is {self.frame_rate_hz}, expected {FRAME_RATE_HZ}")
        if not 1 <= self.codebook_size <= CODEBOOK_SIZE:
            raise _error(f"codebook_size is {self.codebook_size}, expected 1 to {CODEBOOK_SIZE}")
        if not 1 <= self.latent_channels <= MAX_LATENT_CHANNELS:
            raise _error(f"latent_channels is {self.latent_channels}, expected 1 to {MAX_LATENT_CHANNELS}")
        self._check_latents()
        self._check_counts()

    @property
    def phoneme_mode(self) -> str:
        """How lyric text became ids: "plain", or "reference", as released weights were trained."""
        settings = self.models.get("settings")
        return str(settings.get("phonemes", "plain")) if isinstance(settings, dict) else "plain"

    @classmethod
    def from_rows(
        cls,
        rows: "Iterable[IndexRow] | Totals",
        *,
        latent_mean: Sequence[float],
        latent_std: Sequence[float],
        models: Mapping[str, Any],
        fingerprint: str,
        codebook_size: int = CODEBOOK_SIZE,
    ) -> "DatasetInfo":
        """Return the description of the dataset that `rows` index, given or counted; their order does not matter."""
        totals = rows if isinstance(rows, Totals) else Totals(rows)
        return cls(
            codebook_size=codebook_size,
            latent_channels=len(latent_mean),
            latent_mean=tuple(map(float, latent_mean)),
            latent_std=tuple(map(float, latent_std)),
            num_samples=totals.num_samples,
            num_shards=len(totals.shards),
            hours=totals.hours,
            fingerprint=fingerprint,
            models=dict(models),
            splits=dict(totals.splits),
        )

    def _check_latents(self) -> None:
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            if len(values) != self.latent_channels or not all(map(_is_number, values)):
                raise _error(f"{name} must be {self.latent_channels} numbers, one for each latent channel")
        if min(self.latent_std) <= 0:
            raise _error(f"latent_std holds {min(self.latent_std)}, expected more than 0: a channel that never changes")

    def _check_counts(self) -> None:
        if self.splits.keys() != set(SPLITS) or not all(type(n) is int and n >= 0 for n in self.splits.values()):
            raise _error(f"splits is {self.splits}, expected the number of samples of {' and '.join(SPLITS)}")
        if self.num_samples != sum(self.splits.values()):
            raise _error(f"num_samples is {self.num_samples}, the splits hold {sum(self.splits.values())}")
        if not 0 <= self.num_shards <= self.num_samples or not _is_number(self.hours) or self.hours < 0:
            raise _error(f"{self.num_shards} shards and {self.hours} hours cannot be, with {self.num_samples} samples")
        if type(self.fingerprint) is not str or not all(type(name) is str for name in self.models):
            raise _error("fingerprint must be text and models an object")


class Totals:
    """Counts rows of an index, whatever their number and order, for dataset.json."""

    def __init__(self, rows: Iterable[IndexRow] = ()) -> None:
        """Count some rows."""
        self.splits = Counter(dict.fromkeys(SPLITS, 0))
        self.shards: set[str] = set()
        self._partial_sums: list[float] = []  # of the durations, exactly
        for row in rows:
            self.splits[row.split] += 1
            self.shards.add(row.shard)
            self._add_duration(row.duration_s)

    def add_batch(self, rows: pa.RecordBatch) -> None:
        """Count rows that are columns of an index."""
        for count in rows.column("split").value_counts().to_pylist():
            self.splits[count["values"]] += count["counts"]
        self.shards.update(rows.column("shard").unique().to_pylist())
        for duration_s in rows.column("duration_s").to_pylist():
            self._add_duration(duration_s)

    @property
    def num_samples(self) -> int:
        """Return the number of rows."""
        return self.splits.total()

    @property
    def hours(self) -> float:
        """Return the hours of all rows, rounded once, so that no order of the rows changes it."""
        return math.fsum(self._partial_sums) / 3600

    def _add_duration(self, duration_s: float) -> None:
        """Add to numbers whose exact sum is that of all durations: Shewchuk's algorithm, as in math.fsum."""
        kept = 0
        for partial in self._partial_sums:
            small, large = sorted((duration_s, partial), key=abs)
            duration_s = large + small
            rest = small - (duration_s - large)
            if rest:
                self._partial_sums[kept] = rest
                kept += 1
        self._partial_sums[kept:] = [duration_s]


def write_dataset_info(root: Path, info: DatasetInfo) -> None:
    """Write `root`/dataset.json; equal descriptions give equal bytes."""
    try:
        text = json.dumps(asdict(info), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _error(f"models cannot be written as JSON: {error}") from error
    data = (text + "\n").encode("utf-8")
    if len(data) > _MAX_INFO_BYTES:
        raise _error(f"takes {len(data)} bytes, expected at most {_MAX_INFO_BYTES}; say less about models")
    with open_atomic(root / INFO_NAME) as file:
        file.write(data)


def read_dataset_info(root: Root) -> DatasetInfo:
    """Return the description of the dataset in the folder or behind the URL `root`.

    Raises:
        ShardError: missing, not JSON, another schema version, an unknown or missing key, or a value that cannot be.
    """
    storage = open_storage(root)
    name = storage.describe(INFO_NAME)
    source = storage.open_file(INFO_NAME)
    if source is None:
        raise ShardError(f"{name} is missing; name a folder that jobs/extract_tokens.py --out has finished")
    if source.num_bytes > _MAX_INFO_BYTES:
        raise ShardError(f"{name} has {source.num_bytes} bytes, expected at most {_MAX_INFO_BYTES}; it is damaged")
    data = source.read_at(0, source.num_bytes).tobytes()
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{name} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise _error(f"found a {type(record).__name__}, expected an object")
    names = {column.name for column in fields(DatasetInfo)}
    for name in sorted(names ^ record.keys()):
        raise _error(f"key {name!r} is {'missing' if name in names else 'unknown'}")
    for name, kind in (("latent_mean", list), ("latent_std", list), ("models", dict), ("splits", dict)):
        if not isinstance(record[name], kind):
            raise _error(f"{name} is a {type(record[name]).__name__}, expected a {kind.__name__}")
    return DatasetInfo(
        **{**record, "latent_mean": tuple(record["latent_mean"]), "latent_std": tuple(record["latent_std"])}
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < _MAX_NUMBER  # type: ignore[arg-type]


def _error(problem: str) -> ShardError:
    return ShardError(f"{INFO_NAME}: {problem}")
