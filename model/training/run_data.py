"""The songs of a run: from an index, or streamed from shards without one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.data.batches import Batches
from model.data.examples import RankBatch
from model.data.streamed_batches import StreamedBatches
from model.network.config import ConfigError
from model.settings.settings import RunConfig
from model.training.run_start import refuse_other_data
from shards.index import DatasetInfo, read_dataset_info, read_index
from shards.reader import ShardReader
from shards.storage import is_url, parse_root
from shards.stream import list_shards


class SongSource(Protocol):
    """Batches of one split."""

    def describe(self) -> str:
        """Return what there is to train on, in words."""

    def deny(self, keys: Iterable[str]) -> None:
        """Pass over these songs from now on."""

    def train_batch(self, global_step: int, rank: int, world_size: int) -> RankBatch:
        """Return a rank's share of a step of a run whose batch size has never changed."""

    def songs_from(self, first_song: int, rank: int, world_size: int) -> RankBatch:
        """Return a rank's share of the batch that begins at a place of the stream."""

    def validation_batch(self, rank: int, world_size: int) -> RankBatch:
        """Return a rank's share of the validation songs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """What a run trains on and validates with."""

    info: DatasetInfo
    train: SongSource
    validation: SongSource | None
    languages: Mapping[str, str]  # of the held-out songs by key


def open_data(config: RunConfig) -> RunData:
    """Open the dataset that the configuration names.

    Raises:
        ShardError, BatchError: it is missing, damaged or without songs of use.
        ConfigError: dataset and model differ in codes or channels, or a URL is to be streamed.
    """
    root, has_validation = parse_root(config.data.root), bool(config.trainer.val_every and config.data.val_songs)
    if config.data.reader == "webdataset":
        if is_url(root):
            raise ConfigError(
                f"data.reader is webdataset and data.root {root}: it streams folders; for a URL write an index "
                "(python -m shards repair) and use data.reader: index"
            )
        folder = Path(root)
        info = read_dataset_info(folder)
        refuse_other_data(info, config, folder)
        train = StreamedBatches(folder, info.codebook_size, config, "train")
        if not has_validation or not list_shards(folder, "val"):
            return RunData(info=info, train=train, validation=None, languages={})
        held_out = StreamedBatches(folder, info.codebook_size, config, "val")
        return RunData(info=info, train=train, validation=held_out, languages=held_out.languages)
    index, reader = read_index(root), ShardReader(root)
    refuse_other_data(reader.info, config, root)
    rows = index.select("val")
    validation = Batches(index, reader, config, "val") if has_validation and len(rows) else None
    return RunData(
        info=reader.info,
        train=Batches(index, reader, config, "train"),
        validation=validation,
        languages={row.key: row.language for row in rows},
    )
