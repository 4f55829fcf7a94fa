"""A training run from its first or last checkpoint to its end: data, steps, validation, checkpoints."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import yaml

from model import checkpoint
from model.batches import Batches, MicroBatch, Prefetcher, RankBatch
from model.finetune import choose_trained
from model.hardware import DTYPES, describe_device, peak_flops
from model.lora import merge_adapters
from model.profiling import StepProfiler
from model.progress import Progress
from model.ranks import Ranks, count_local_ranks
from model.run_start import build_trainer, find_checkpoint, refuse_other_data
from model.samples import write_samples
from model.saver import CheckpointSaver
from model.settings import RunConfig
from model.song_batch import BatchError
from model.song_model import SongModel
from model.trainer import EMA
from model.varlen import describe_attention
from shards.index import read_index
from shards.reader import ShardReader
from shards.schema import ShardError
from shards.storage import parse_root

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
        self,
        config: RunConfig,
        join: Callable[[], Ranks],
        *,
        max_steps: int | None = None,
        resume: bool = True,
        profile: bool = False,
    ) -> None:
        """Open the dataset, join the other ranks, find the checkpoint to go on from, and build the model.

        Args:
            config: what to train on what.
            join: connects the ranks; called when the dataset is known to fit.
            max_steps: stop there, if the schedule is longer.
            resume: False refuses a run folder that holds a checkpoint.
            profile: record two early steps, see model/profiling.py.

        Raises:
            ShardError, BatchError: the dataset is missing, damaged or without songs of use.
            ConfigError: dataset and model differ in codes or channels.
            CheckpointError: the run folder holds another model, or holds one although `resume` is False.
        """
        self.config = config
        self.last_step = min(config.schedule.num_steps, max_steps or config.schedule.num_steps)
        self.folder = Path(config.checkpoint.folder)
        self._profile = profile
        self._progress: Progress | None = None
        self._saver: CheckpointSaver | None = None
        root = parse_root(config.data.root)
        index, reader = read_index(root), ShardReader(root)
        self._info = reader.info
        refuse_other_data(reader.info, config, root)
        self._train = Batches(index, reader, config, "train")
        held_out = index.select("val")
        self._languages = {row.key: row.language for row in held_out}
        has_validation = config.trainer.val_every and config.data.val_songs and len(held_out)
        validation = Batches(index, reader, config, "val") if has_validation else None
        self.ranks = join()
        self._validation: RankBatch | None = None
        if validation is not None:
            self._validation = validation.validation_batch(self.ranks.rank, self.ranks.world_size)
        self._samples = self._pick_samples(validation)
        self._checkpoint = find_checkpoint(self.folder, self.ranks, resume=resume)
        self._state, self._trainer = build_trainer(config, self._info, self.ranks, self._checkpoint)

    def run(self) -> RunSummary:
        """Train to the last step and return what came of it."""
        started = time.monotonic()
        first_step = self._state.global_step
        with ExitStack() as stack:
            stack.callback(self._trainer.close)
            if self.ranks.is_main:
                self._open_reports(stack, first_step)
            load = partial(self._train.train_batch, rank=self.ranks.rank, world_size=self.ranks.world_size)
            steps = range(first_step, self.last_step)
            prefetcher = stack.enter_context(closing(Prefetcher(load, steps, self.config.data.prefetch_steps)))
            profiler = stack.enter_context(closing(StepProfiler(self.folder, self.ranks))) if self._profile else None
            if first_step == 0:
                self._validate(0)
            for global_step in steps:
                self._step(global_step, prefetcher)
                if profiler is not None:
                    profiler.add_step()
                self._finish_step(global_step + 1)
            if self._saver is not None:
                self._saver.wait()
        return RunSummary(
            steps=self._state.global_step,
            first_loss=self._state.first_loss,
            last_loss=self._state.losses[-1],
            first_val_loss=self._state.first_val_loss,
            last_val_loss=self._state.last_val_loss,
            checkpoint=str(self._checkpoint),
            seconds=round(time.monotonic() - started, 1),
        )

    def _open_reports(self, stack: ExitStack, first_step: int) -> None:
        """Open what only rank 0 has."""
        self._progress = stack.enter_context(
            closing(Progress(self.folder, self.config, self.ranks, first_step=first_step, last_step=self.last_step))
        )
        self._saver = stack.enter_context(closing(CheckpointSaver(self.folder, self.config)))
        self._describe(first_step)

    def _finish_step(self, step: int) -> None:
        """Validate, sample and save after `step` updates where it is time to."""
        is_last = step == self.last_step
        val_every, samples_every = self.config.trainer.val_every, self.config.report.samples_every
        if is_last or (val_every and step % val_every == 0):
            self._validate(step)
        if samples_every and (is_last or step % samples_every == 0):
            self._write_samples(step)
        if self._saver is not None:
            self._saver.check()
        if is_last or step % self.config.checkpoint.every == 0:
            self._save()

    def _step(self, global_step: int, prefetcher: Prefetcher) -> None:
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
        if self._progress is not None:
            step_s = time.monotonic() - begun
            self._progress.add_step(
                global_step + 1, result, step_s=step_s, data_wait_s=waited_s, num_skipped=num_skipped
            )

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

    def _validate(self, step: int) -> None:
        if self._validation is None:
            return
        losses = self._trainer.evaluate(self._validation, self._languages)
        first = losses.total.loss if step == 0 else self._state.first_val_loss
        self._state = replace(self._state, first_val_loss=first, last_val_loss=losses.total.loss)
        if self._progress is not None:
            self._progress.add_validation(step, losses)

    def _pick_samples(self, validation: Batches | None) -> MicroBatch | None:
        """Return the songs whose lyrics and prompts are sung again and again: held-out ones where there are any."""
        if not self.config.report.samples_every or not self.ranks.is_main:
            return None
        batch = self._train.train_batch(0, 0, 1) if validation is None else validation.validation_batch(0, 1)
        return batch.micro_batches[0]

    def _write_samples(self, step: int) -> None:
        """Let rank 0 generate; the others help to gather the weights and wait at the next step."""
        weights = self._trainer.gather_weights(EMA if self.config.trainer.ema_decay else None)
        if self._samples is None:
            return
        model = SongModel(self.config.model)
        choose_trained(model, self.config.finetune)
        model.load_state_dict(weights)
        merge_adapters(model)
        model = model.eval().to(self.ranks.device, DTYPES[self.config.trainer.precision])
        write_samples(self.folder, step, model, self._samples, self.config.report)

    def _save(self) -> None:
        """Write a checkpoint; every rank takes part, rank 0 writes, meanwhile training goes on."""
        self._checkpoint = checkpoint.name_folder(self.folder, self._state.global_step)
        if self._saver is not None:
            self._saver.save(self._state, self._trainer.gather_state())
            return
        for _ in self._trainer.gather_state():
            pass

    def _describe(self, first_step: int) -> None:
        trainer = self.config.trainer
        logger.info("%s", yaml.safe_dump(self.config.to_dict(), sort_keys=False).rstrip())
        logger.info(
            "%d songs of %s (%d too short), %d a step on %d ranks in micro-batches of %d, %s, ZeRO %d, steps %d to %d",
            self._train.num_songs, self.config.data.root, self._train.num_too_short, trainer.batch_size,
            self.ranks.world_size, trainer.micro_batch_size, trainer.precision, trainer.zero_stage, first_step,
            self.last_step,
        )  # fmt: skip
        self._describe_hardware()
        if self._validation is None:
            logger.info("no validation: the dataset has no held-out songs, or the configuration asks for none")

    def _describe_hardware(self) -> None:
        """Name what rank 0 computes on and with, and what of it is slower than it could be."""
        trainer, device = self.config.trainer, self.ranks.device
        compiled = "compiled" if trainer.compile_layers else "not compiled"
        logger.info("rank 0 computes on %s; layers are %s", describe_device(device), compiled)
        logger.info("%s", describe_attention(device, DTYPES[trainer.precision]))
        if device.type != "cuda":
            return
        num_ranks, num_gpus = count_local_ranks() or self.ranks.world_size, torch.cuda.device_count()
        if num_ranks < num_gpus:
            logger.warning(
                "%d of the %d GPUs of this machine are idle: start a rank on each with deepspeed, or with torchrun "
                "--nproc_per_node %d", num_gpus - num_ranks, num_gpus, num_gpus,
            )  # fmt: skip
        if trainer.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            logger.warning(
                "this GPU has no bfloat16 arithmetic and imitates it, slowly: trainer.precision: fp32 may be faster"
            )
        if not self.config.report.peak_tflops and peak_flops(device) is None:
            logger.warning("no MFU: the peak of this GPU is not known; set report.peak_tflops to its data sheet's")
