"""A training run from its first or last checkpoint to its end: data, steps, validation, checkpoints."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from model import checkpoint
from model.batches import Batches, Prefetcher, RankBatch
from model.checkpoint import CheckpointError, CheckpointWriter, TrainState
from model.config import ConfigError
from model.progress import Progress
from model.ranks import Ranks
from model.settings import RunConfig
from model.song_batch import BatchError
from model.song_model import SongModel
from model.tally import BatchLosses
from model.trainer import Trainer
from shards.index import DatasetInfo, read_index
from shards.reader import ShardReader
from shards.schema import ShardError
from shards.storage import Root, parse_root

LOSSES_KEPT = 100  # in a checkpoint

logger = logging.getLogger(__name__)


class PeerError(RuntimeError):
    """Another rank has failed, and says why itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What a run came to."""

    steps: int
    first_loss: float | None
    last_loss: float
    first_val_loss: float | None
    last_val_loss: float | None
    checkpoint: str
    seconds: float


class TrainingRun:
    """Trains up to a number of updates and can be killed at any time: it goes on from its newest checkpoint."""

    def __init__(
        self, config: RunConfig, join: Callable[[], Ranks], *, max_steps: int | None = None, resume: bool = True
    ) -> None:
        """Open the dataset, join the other ranks, find the checkpoint to go on from, and build the model.

        Args:
            config: what to train on what.
            join: connects the ranks; called when the dataset is known to fit.
            max_steps: stop there, if the schedule is longer.
            resume: False refuses a run folder that holds a checkpoint.

        Raises:
            ShardError, BatchError: the dataset is missing, damaged or without songs of use.
            ConfigError: dataset and model differ in codes or channels.
            CheckpointError: the run folder holds another model, or holds one although `resume` is False.
        """
        self.config = config
        self.last_step = min(config.schedule.num_steps, max_steps or config.schedule.num_steps)
        self.folder = Path(config.checkpoint.folder)
        root = parse_root(config.data.root)
        index, reader = read_index(root), ShardReader(root)
        self._info = reader.info
        _refuse_other_data(reader.info, config, root)
        self._train = Batches(index, reader, config, "train")
        has_validation = config.trainer.val_every and config.data.val_songs and len(index.select("val"))
        validation = Batches(index, reader, config, "val") if has_validation else None
        self.ranks = join()
        self._validation: RankBatch | None = None
        if validation is not None:
            self._validation = validation.validation_batch(self.ranks.rank, self.ranks.world_size)
        self._checkpoint = self._find_checkpoint(resume)
        self._state, self._trainer = self._build()

    def _build(self) -> tuple[TrainState, Trainer]:
        """Return state and trainer as the checkpoint holds them, or fresh ones."""
        config, found = self.config, self._checkpoint
        torch.manual_seed(config.trainer.seed)
        model = SongModel(config.model, checkpoint_activations=config.trainer.checkpoint_activations)
        if config.trainer.compile_layers:
            model.compile_layers()
        if found is None:
            model.set_latent_statistics(torch.tensor(self._info.latent_mean), torch.tensor(self._info.latent_std))
            state = TrainState(
                global_step=0,
                seed=config.trainer.seed,
                dataset_fingerprint=self._info.fingerprint,
                first_loss=None,
                first_val_loss=None,
                last_val_loss=None,
                losses=(),
            )
            return state, Trainer(model, config, self.ranks)
        state = self._read_state(found)
        checkpoint.load_weights(found / checkpoint.WEIGHTS_NAME, model)
        trainer = Trainer(model, config, self.ranks)
        files = sorted(found.glob("*.safetensors"))
        trainer.restore({path.stem: checkpoint.read_tensors(path) for path in files}, state.global_step)
        return state, trainer

    def run(self) -> RunSummary:
        """Train to the last step and return what came of it."""
        started = time.monotonic()
        first_step = self._state.global_step
        progress = None
        if self.ranks.is_main:
            progress = Progress(
                self.folder,
                first_step=first_step,
                last_step=self.last_step,
                log_every=self.config.trainer.log_every,
            )
            self._describe(first_step)
        if first_step == 0:
            self._validate(0, progress)
        load = partial(self._train.train_batch, rank=self.ranks.rank, world_size=self.ranks.world_size)
        prefetcher = Prefetcher(load, range(first_step, self.last_step), self.config.data.prefetch_steps)
        try:
            for global_step in range(first_step, self.last_step):
                self._step(global_step, prefetcher, progress)
                step, is_last = global_step + 1, global_step + 1 == self.last_step
                if is_last or (self.config.trainer.val_every and step % self.config.trainer.val_every == 0):
                    self._validate(step, progress)
                if is_last or step % self.config.checkpoint.every == 0:
                    self._save()
        finally:
            prefetcher.close()
            self._trainer.close()
        return RunSummary(
            steps=self._state.global_step,
            first_loss=self._state.first_loss,
            last_loss=self._state.losses[-1],
            first_val_loss=self._state.first_val_loss,
            last_val_loss=self._state.last_val_loss,
            checkpoint=str(self._checkpoint),
            seconds=round(time.monotonic() - started, 1),
        )

    def _step(self, global_step: int, prefetcher: Prefetcher, progress: Progress | None) -> None:
        begun = time.monotonic()
        batch, num_skipped = self._fetch(prefetcher)
        waited_s = time.monotonic() - begun
        result = self._trainer.train_step(batch, global_step)
        loss = result.losses.loss
        self._state = replace(
            self._state,
            global_step=global_step + 1,
            first_loss=loss if global_step == 0 else self._state.first_loss,
            losses=(*self._state.losses, loss)[-LOSSES_KEPT:],
        )
        if progress is not None:
            step_s = time.monotonic() - begun
            progress.add_step(global_step + 1, result, step_s=step_s, data_wait_s=waited_s, num_skipped=num_skipped)

    def _fetch(self, prefetcher: Prefetcher) -> tuple[RankBatch, int]:
        """Return this rank's batch and the songs that all ranks skipped; if one rank cannot read, all end."""
        error: Exception | None = None
        batch: RankBatch | None = None
        try:
            batch = prefetcher.next()
        except (ShardError, BatchError, OSError) as caught:
            error = caught
        num_skipped = 0 if batch is None else batch.num_skipped.total()
        num_failed, num_skipped_by_all = self.ranks.add_up([batch is None, num_skipped]).tolist()
        if error is not None:
            raise error
        if batch is None or num_failed:
            raise PeerError(f"{num_failed:.0f} other ranks could not read their batch")
        return batch, round(num_skipped_by_all)

    def _validate(self, step: int, progress: Progress | None) -> None:
        if self._validation is None:
            return
        losses: BatchLosses = self._trainer.evaluate(self._validation)
        first = losses.loss if step == 0 else self._state.first_val_loss
        self._state = replace(self._state, first_val_loss=first, last_val_loss=losses.loss)
        if progress is not None:
            progress.add_validation(step, losses)

    def _save(self) -> None:
        """Write a checkpoint; every rank takes part, rank 0 writes."""
        self._checkpoint = checkpoint.name_folder(self.folder, self._state.global_step)
        if not self.ranks.is_main:
            for _ in self._trainer.gather_state():
                pass
            return
        with CheckpointWriter(self.folder, self._state, self.config, keep=self.config.checkpoint.keep) as writer:
            for name, tensors in self._trainer.gather_state():
                writer.add(name, tensors)
        logger.info("saved %s", self._checkpoint)

    def _find_checkpoint(self, resume: bool) -> Path | None:
        """Return the newest whole checkpoint; rank 0 looks, so that all ranks take the same."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"run folder {self.folder} cannot be made: {error.strerror}") from error
        newest = checkpoint.find_newest(self.folder) if self.ranks.is_main else None
        step = self.ranks.tell(-1 if newest is None else checkpoint.read_state(newest)[0].global_step)
        if step < 0:
            return None
        found = checkpoint.name_folder(self.folder, step)
        if not resume:
            raise CheckpointError(
                f"{found} exists; without --resume a run needs an empty folder: name another --out, or delete this one"
            )
        return found

    def _read_state(self, found: Path) -> TrainState:
        state, config = checkpoint.read_state(found)
        checkpoint.refuse_other_model(found, config, self.config)
        for key, (there, here) in checkpoint.compare(config, self.config).items():
            logger.warning("%s was trained with %s = %s; from here on it is %s", found, key, there, here)
        if state.dataset_fingerprint != self._info.fingerprint:
            logger.warning("%s was trained on another dataset than %s", found, self.config.data.root)
        return replace(state, seed=self.config.trainer.seed, dataset_fingerprint=self._info.fingerprint)

    def _describe(self, first_step: int) -> None:
        trainer = self.config.trainer
        logger.info(
            "%d songs of %s (%d too short), %d a step on %d ranks in micro-batches of %d, %s, ZeRO %d, steps %d to %d",
            self._train.num_songs, self.config.data.root, self._train.num_too_short, trainer.batch_size,
            self.ranks.world_size, trainer.micro_batch_size, trainer.precision, trainer.zero_stage, first_step,
            self.last_step,
        )  # fmt: skip
        if self._validation is None:
            logger.info("no validation: the dataset has no held-out songs, or the configuration asks for none")


def _refuse_other_data(info: DatasetInfo, config: RunConfig, root: Root) -> None:
    """Raise ConfigError where the dataset does not fit the model."""
    for name in ("codebook_size", "latent_channels"):
        found, expected = getattr(info, name), getattr(config.model, name)
        if found != expected:
            raise ConfigError(
                f"{root}/dataset.json: {name} is {found}, but model.{name} is {expected}; "
                f"set model.{name}, or extract the songs with another codebook or VAE"
            )
