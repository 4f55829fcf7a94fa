"""A training run from its first or last checkpoint to its end: data, steps, validation, checkpoints."""

import json
import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from model.data.batches import Prefetcher
from model.data.examples import MicroBatch, RankBatch
from model.network.lora import merge_adapters
from model.network.song_batch import BatchError
from model.network.song_model import SongModel
from model.network.varlen import describe_attention
from model.settings.settings import RunConfig
from model.training.hardware import DTYPES, describe_device, peak_flops
from model.training.peers import Whereabouts
from model.training.profiling import StepProfiler
from model.training.progress import Progress
from model.training.ranks import Ranks, count_local_ranks
from model.training.run_data import SongSource, open_data
from model.training.run_folder import check_run_folder
from model.training.run_start import build_trainer, find_checkpoint
from model.training.samples import write_samples
from model.training.step_sums import BadStepError, NonFiniteLossError
from model.training.trainer import EMA
from model.weights import checkpoint
from model.weights.finetune import choose_trained
from model.weights.saver import CheckpointSaver
from shards.schema import ShardError

LOSSES_KEPT = 100  # in a checkpoint; a spike is one beside their median
MIN_LOSSES = 20  # before them nothing is called a spike
SLOW = 5.0  # patience for steps that take several times longer than others

logger = logging.getLogger(__name__)


class PeerError(RuntimeError):
    """Another rank has failed, and says why itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What a run came to."""

    steps: int
    is_finished: bool  # False: it was asked to leave early, and goes on from its checkpoint when started again
    first_loss: float | None
    last_loss: float | None
    first_val_loss: float | None
    last_val_loss: float | None
    checkpoint: str
    skipped_updates: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetched:
    """A batch, and what all ranks agree on before they compute it."""

    batch: RankBatch
    skipped: Counter[str]
    is_leaving: bool  # some rank was asked to
    is_saving: bool  # it is time to


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
        is_asked_to_leave: Callable[[], bool] = lambda: False,
        whereabouts: Whereabouts | None = None,
    ) -> None:
        """Open the dataset, join the other ranks, find the checkpoint to go on from, and build the model.

        Args:
            config: what to train on what.
            join: connects the ranks; called when the dataset is known to fit.
            max_steps: stop there, if the schedule is longer.
            resume: False refuses a run folder that holds a checkpoint.
            profile: record two early steps, see model/training/profiling.py.
            is_asked_to_leave: looked at before every step, on every rank; one is enough.
            whereabouts: is told what this rank is doing.

        Raises:
            ShardError, BatchError: the dataset is missing, damaged or without songs of use.
            ConfigError: dataset and model differ in codes or channels.
            CheckpointError: some rank does not see the run folder, or it holds another model, no checkpoint that is
                whole, or one although `resume` is False.
        """
        self.config = config
        self.last_step = min(config.schedule.num_steps, max_steps or config.schedule.num_steps)
        self.folder = Path(config.checkpoint.folder)
        self._profile = profile
        self._progress: Progress | None = None
        self._saver: CheckpointSaver | None = None
        self._is_asked_to_leave = is_asked_to_leave
        self._where = whereabouts or Whereabouts()
        data = open_data(config)
        self._info, self._train, self._languages = data.info, data.train, data.languages
        self.ranks = join()
        self._validation: RankBatch | None = None
        if data.validation is not None:
            self._validation = data.validation.validation_batch(self.ranks.rank, self.ranks.world_size)
        self._samples = self._pick_samples(data.validation)
        check_run_folder(self.folder, self.ranks, is_shared=config.checkpoint.shared)
        self._checkpoint = find_checkpoint(self.folder, self.ranks, resume=resume)
        self._state, self._trainer = build_trainer(config, self._info, self.ranks, self._checkpoint)
        self._trainer.on_progress = self._where.touch
        self._train.deny(self._state.denied_songs)
        self._saved_step = self._started_at = self._state.global_step
        self._saved_at = time.monotonic()

    def run(self) -> RunSummary:
        """Train to the last step, or until asked to leave, and return what came of it.

        Raises:
            BadStepError: a loss is not finite, or a spike, and trainer.on_nonfinite is stop, or its budget is spent.
        """
        started = time.monotonic()
        first_step = self._state.global_step
        with ExitStack() as stack:
            stack.callback(self._trainer.close)
            if self.ranks.is_main:
                self._open_reports(stack, first_step)
            profiler = stack.enter_context(closing(StepProfiler(self.folder, self.ranks))) if self._profile else None
            if first_step == 0:
                self._validate(0)
            is_leaving = False
            while self._state.global_step < self.last_step and not is_leaving:
                is_leaving = self._train_on(profiler)
            if is_leaving and self._state.global_step > self._saved_step:
                self._save()
            self._where.note("waiting for the disk", math.inf)
            if self._saver is not None:
                self._saver.wait()
        return RunSummary(
            steps=self._state.global_step,
            is_finished=self._state.global_step >= self.last_step,
            first_loss=self._state.first_loss,
            last_loss=self._state.losses[-1] if self._state.losses else None,
            first_val_loss=self._state.first_val_loss,
            last_val_loss=self._state.last_val_loss,
            checkpoint=str(self._checkpoint),
            skipped_updates=self._state.skipped_updates,
            seconds=round(time.monotonic() - started, 1),
        )

    def _open_reports(self, stack: ExitStack, first_step: int) -> None:
        """Open what only rank 0 has."""
        self._progress = stack.enter_context(
            closing(Progress(self.folder, self.config, self.ranks, first_step=first_step, last_step=self.last_step))
        )
        self._saver = stack.enter_context(closing(CheckpointSaver(self.folder, self.config)))
        self._describe(first_step)

    def _train_on(self, profiler: StepProfiler | None) -> bool:
        """Train until the last step, until a song is denied, or until asked to leave; return whether the last it was.

        What is read ahead is thrown away with the song: from the step after, on any number of ranks and after any
        resume, the batches are those of a run that knows of it.
        """
        first_step, first_song = self._state.global_step, self._state.songs_seen
        batch_size, num_denied = self.config.trainer.batch_size, len(self._state.denied_songs)

        def load(step: int) -> RankBatch:
            place = first_song + (step - first_step) * batch_size
            return self._train.songs_from(place, self.ranks.rank, self.ranks.world_size)

        steps = range(first_step, self.last_step)
        with closing(Prefetcher(load, steps, self.config.data.prefetch_steps)) as prefetcher:
            for global_step in steps:
                if not self._step(global_step, prefetcher):
                    return True
                if profiler is not None:
                    profiler.add_step()
                if len(self._state.denied_songs) > num_denied:
                    break
        self._train.deny(self._state.denied_songs)
        return False

    def _step(self, global_step: int, prefetcher: Prefetcher) -> bool:
        """Make one step and what is due after it; return False, without a step, where the run is asked to leave."""
        begun = time.monotonic()
        fetched = self._fetch(prefetcher, global_step)
        if fetched.is_leaving:
            return False
        waited_s = time.monotonic() - begun
        is_first = self._state.global_step == self._started_at
        self._where.note(f"step {global_step}: computing", math.inf if is_first else 1.0)  # it may compile
        try:
            result = self._trainer.train_step(fetched.batch, global_step, max_loss=self._max_loss())
        except BadStepError as error:
            self._skip_update(global_step, error)
        else:
            loss = result.losses.loss
            self._state = replace(
                self._state,
                first_loss=loss if self._state.first_loss is None else self._state.first_loss,
                losses=(*self._state.losses, loss)[-LOSSES_KEPT:],
            )
            if self._progress is not None:
                step_s = time.monotonic() - begun
                self._progress.add_step(
                    global_step + 1, result, step_s=step_s, data_wait_s=waited_s, skipped=fetched.skipped
                )
        songs_seen = self._state.songs_seen + self.config.trainer.batch_size
        self._state = replace(self._state, global_step=global_step + 1, songs_seen=songs_seen)
        self._finish_step(global_step + 1, is_saving=fetched.is_saving)
        return True

    def _max_loss(self) -> float:
        """Return the loss above which a step is a spike."""
        factor, losses = self.config.trainer.max_loss_spike, self._state.losses
        return factor * statistics.median(losses) if factor and len(losses) >= MIN_LOSSES else math.inf

    def _skip_update(self, global_step: int, error: BadStepError) -> None:
        """Count a step that made no update and deny its songs, or raise `error` where that is not wanted."""
        trainer, num_skipped = self.config.trainer, self._state.skipped_updates + 1
        if trainer.on_nonfinite == "stop":
            raise error
        if num_skipped > trainer.max_skipped_updates:
            raise type(error)(
                f"step {global_step}",
                f"{error.reason}; that is the {num_skipped}. such step of the run, expected at most "
                f"{trainer.max_skipped_updates} (trainer.max_skipped_updates)",
                error.songs,
            )
        denied = dict.fromkeys((*self._state.denied_songs, *error.songs))
        self._state = replace(self._state, skipped_updates=num_skipped, denied_songs=tuple(denied))
        if self._progress is not None:
            logger.warning("%s; these songs are left out from here on", error)
            self._progress.add_skipped_update(global_step + 1, error)

    def _finish_step(self, step: int, *, is_saving: bool) -> None:
        """Validate, sample and save after `step` steps where it is time to."""
        is_last = step == self.last_step
        val_every, samples_every = self.config.trainer.val_every, self.config.report.samples_every
        if is_last or (val_every and step % val_every == 0):
            self._validate(step)
        if samples_every and (is_last or step % samples_every == 0):
            self._write_samples(step)
        if self._saver is not None:
            self._saver.check()
        if is_last or is_saving or step % self.config.checkpoint.every == 0:
            self._save()

    def _fetch(self, prefetcher: Prefetcher, global_step: int) -> _Fetched:
        """Return this rank's batch and what all ranks agree on; if one rank cannot read, all end."""
        self._where.note(f"step {global_step}: reading songs")
        error: Exception | None = None
        batch: RankBatch | None = None
        try:
            batch = prefetcher.next()
        except (ShardError, BatchError, OSError) as caught:
            error = caught
        self._where.note(f"step {global_step}: waiting for the others", math.inf)
        reasons = Counter[str]() if batch is None else batch.num_skipped
        every_s = 60 * self.config.checkpoint.every_minutes
        is_saving = self.ranks.is_main and 0 < every_s < time.monotonic() - self._saved_at
        facts = [batch is None, reasons.total(), self._is_asked_to_leave(), is_saving]
        num_failed, num_skipped, num_leaving, num_saving = self.ranks.add_up(facts).tolist()
        if error is not None:
            raise error
        if batch is None or num_failed:
            raise PeerError(f"{num_failed:.0f} other ranks could not read their batch")
        skipped: Counter[str] = Counter()
        if num_skipped:
            for text in self.ranks.collect(json.dumps(reasons)):
                skipped.update(json.loads(text))
        return _Fetched(batch=batch, skipped=skipped, is_leaving=num_leaving > 0, is_saving=num_saving > 0)

    def _validate(self, step: int) -> None:
        if self._validation is None:
            return
        self._where.note(f"step {step}: validating", SLOW)
        try:
            losses = self._trainer.evaluate(self._validation, self._languages)
            averaged = None
            if self.config.trainer.ema_decay:
                averaged = self._trainer.evaluate(self._validation, self._languages, averaged=True)
        except NonFiniteLossError as error:
            if self.config.trainer.on_nonfinite == "stop":
                raise
            logger.warning("step %d: %s; the run goes on without this validation", step, error)
            return
        self._state = replace(
            self._state,
            first_val_loss=losses.total.loss if step == 0 else self._state.first_val_loss,
            last_val_loss=losses.total.loss,
            last_val_step=step,
            val_score=(averaged or losses).total.loss,
        )
        if self._progress is not None:
            self._progress.add_validation(step, losses, averaged)

    def _pick_samples(self, validation: SongSource | None) -> MicroBatch | None:
        """Return the songs whose lyrics and prompts are sung again and again: held-out ones where there are any."""
        if not self.config.report.samples_every or not self.ranks.is_main:
            return None
        batch = self._train.train_batch(0, 0, 1) if validation is None else validation.validation_batch(0, 1)
        return batch.micro_batches[0]

    def _write_samples(self, step: int) -> None:
        """Let rank 0 generate; the others help to gather the weights and wait at the next step."""
        self._where.note(f"step {step}: writing samples", math.inf)
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
        self._saved_step, self._saved_at = self._state.global_step, time.monotonic()
        self._where.note(f"step {self._saved_step}: waiting for the disk", math.inf)
        if self._saver is not None:
            self._saver.wait()
        self.ranks.add_up([0])  # the others wait for rank 0 here, where they are patient
        self._where.note(f"step {self._saved_step}: gathering a checkpoint", SLOW)
        if self._saver is not None:
            self._saver.save(self._state, self._trainer.gather_state())
            return
        for _ in self._trainer.gather_state():
            pass

    def _describe(self, first_step: int) -> None:
        trainer = self.config.trainer
        logger.info("%s", yaml.safe_dump(self.config.to_dict(), sort_keys=False).rstrip())
        logger.info(
            "%s of %s, %d a step on %d ranks in micro-batches of %s, %s, ZeRO %d by %s, "
            "steps %d to %d",
            self._train.describe(), self.config.data.root, trainer.batch_size,
            self.ranks.world_size, trainer.describe_micro_batches(), trainer.precision, trainer.zero_stage,
            self._trainer.optimizer_name, first_step, self.last_step,
        )  # fmt: skip
        self._describe_hardware()
        if self._validation is None:
            logger.info("no validation: the dataset has no held-out songs, or the configuration asks for none")

    def _describe_hardware(self) -> None:
        """Name what rank 0 computes on and with, and what of it is slower than it could be."""
        trainer, device = self.config.trainer, self.ranks.device
        compiled = "compiled" if self.config.compiles_layers(device.type) else "not compiled"
        logger.info("rank 0 computes on %s; layers are %s", describe_device(device), compiled)
        logger.info("%s", describe_attention(device, DTYPES[trainer.precision]))
        if trainer.zero_stage == 3 and trainer.checkpoint_activations == "cheap":
            logger.warning(
                "under ZeRO 3 trainer.checkpoint_activations: cheap computes matrix products twice, as DeepSpeed's "
                "linear layers cannot stop before them; selective or true keep less for that"
            )
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
