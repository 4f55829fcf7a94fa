"""Exact steps of the song model: counts and losses are added up over all ranks and micro-batches.

The loss of a global batch is (sum of all token losses / all tokens) + flow_weight * (sum of all block errors / all
blocks). Counts are added up over ranks before the backward pass, and each rank's sums are divided by them: how the
batch is cut into ranks and micro-batches changes nothing but the order of additions.
"""

import math
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta

import torch
from torch import Tensor

from model.data.batches import MicroBatch, RankBatch
from model.network.lora import SongDropout
from model.network.noise import Draws, count_rendered, draw
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.network.transfer import send
from model.settings.settings import RunConfig
from model.training.engine import EMA, Engine, forget_ranks, import_deepspeed
from model.training.hardware import keep_memory
from model.training.ranks import Ranks, choose_rank_device, count_local_ranks
from model.training.size import backward_factors, flops_per_step
from model.training.step_sums import (
    LossSpikeError,
    NonFiniteLossError,
    ScaledLoss,
    count_targets,
    name_songs,
    sum_tables,
)
from model.training.tally import NUM_PLACES, NUM_ROWS, BatchLosses, StepResult, ValidationLosses, song_losses

__all__ = ["EMA", "Trainer", "join_ranks", "leave_ranks"]

UNDETERMINED = "und"  # ISO 639-2: no language known
LAST_RESORT = timedelta(
    minutes=30
)  # for a collective operation; model/training/peers.py notices a hung rank long before


def join_ranks(requested: str = "auto") -> Ranks:
    """Join the other processes of the run, which `deepspeed`, `torchrun` or nobody has started.

    Args:
        requested: device to compute on, see `choose_rank_device`.

    Raises:
        ConfigError: see there.
    """
    device = choose_rank_device(requested)
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    has_gpu = device.type == "cuda"
    if has_gpu:
        torch.cuda.set_device(device)
        # cuDNN's attention plans anew for every length of a song, and hardly two songs have the same; flash does not.
        torch.backends.cuda.enable_cudnn_sdp(False)
    elif "OMP_NUM_THREADS" not in os.environ:  # processes of one machine share its cores
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // (count_local_ranks() or 1)))
    if not has_gpu:
        keep_memory()
    deepspeed = import_deepspeed(has_gpu)
    deepspeed.init_distributed(dist_backend="nccl" if has_gpu else "gloo", verbose=False, timeout=LAST_RESORT)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    needs_host_group = has_gpu and world_size > 1
    host_group = torch.distributed.new_group(backend="gloo", timeout=LAST_RESORT) if needs_host_group else None
    return Ranks(rank=rank, world_size=world_size, device=device, host_group=host_group)


def leave_ranks() -> None:
    """Close the connections to the other processes."""
    if torch.distributed.is_initialized():
        forget_ranks()


class Trainer:
    """Updates a song model, on one of several ranks."""

    def __init__(
        self, model: SongModel, config: RunConfig, ranks: Ranks, own_names: Collection[str] | None = None
    ) -> None:
        """Hand `model`, with its weights, to DeepSpeed.

        Args:
            model: what trains.
            config: how.
            ranks: that do it together.
            own_names: of the weights that checkpoints hold, see `model.weights.finetune.Start`; None: all.

        Raises:
            ConfigError: DeepSpeed refuses the settings, or runs another optimizer than they say.
        """
        self.config = config
        self.ranks = ranks
        self.model = model
        max_blocks = config.data.max_crop_frames // config.model.block_frames
        loss = ScaledLoss(model, config.trainer.flow_weight, math.ceil(max_blocks / NUM_PLACES))
        self._backward = backward_factors(model)
        self._engine = Engine(model, loss, config, ranks)
        self._own_names = own_names
        self._dropout = SongDropout(model)
        self.on_progress: Callable[[], None] = lambda: None  # called at every micro-batch

    @property
    def optimizer_name(self) -> str:
        """Module and class of the optimizer that runs."""
        return self._engine.optimizer_name

    def train_step(self, batch: RankBatch, global_step: int, *, max_loss: float = math.inf) -> StepResult:
        """Update the weights with this rank's share of step `global_step`, counted from 0.

        Args:
            batch: this rank's share.
            global_step: decides the learning rate.
            max_loss: a loss above it makes no update.

        Raises:
            NonFiniteLossError: no update was made; names the songs, unless only the gradient is not finite.
            LossSpikeError: no update was made; names the songs whose own losses are above `max_loss`.
        """
        engine, where = self._engine, f"step {global_step}"
        last = len(batch.micro_batches) - 1  # the same on every rank
        num_targets, num_blocks = count_targets(self.ranks, batch.micro_batches, self.config.model.block_frames)
        tables, flops = [], 0.0
        for number, micro_batch in enumerate(batch.micro_batches):
            self.on_progress()
            engine.begin_micro_batch(is_last=number == last)
            songs, draws = self._prepare(micro_batch, with_dropout=True)
            loss, table, _ = engine(songs, draws, num_targets, num_blocks)
            flops += 0.0 if micro_batch.is_repeat else self._count_flops(songs, draws)
            # DeepSpeed divides by what it takes for the number of micro-batches and by that of ranks; the loss is a
            # sum over both.
            scale = 0 if micro_batch.is_repeat else engine.loss_divisor * self.ranks.world_size
            engine.backward(loss * scale)
            tables.append(table)
            if number < last:
                engine.step()
        try:
            *sums, flops = sum_tables(self.ranks, batch.micro_batches, tables, where, flops)
            losses = BatchLosses.from_sums(sums, self.config.trainer.flow_weight)
            self._refuse_spike(losses.loss, max_loss, where, batch.micro_batches, tables)
        except (NonFiniteLossError, LossSpikeError):
            engine.drop_update()
            raise
        lr = self.config.optimizer.lr * self.config.schedule.factor(global_step)
        grad_norm = engine.update(lr)
        if not math.isfinite(grad_norm):
            raise NonFiniteLossError(where, "the losses are finite, but the norm of the gradient is not")
        if self.config.trainer.ema_decay:  # early steps forget faster, or it would keep the random start
            engine.update_ema(min(self.config.trainer.ema_decay, (1 + global_step) / (10 + global_step)))
        return StepResult(losses=losses, lr=lr, grad_norm=grad_norm, flops=flops)

    @torch.no_grad()
    def evaluate(
        self, batch: RankBatch, languages: Mapping[str, str] | None = None, *, averaged: bool = False
    ) -> ValidationLosses:
        """Return the losses without dropout of conditions.

        Args:
            batch: this rank's share.
            languages: of every song by its key, also of other ranks' songs; None: all are of language "und".
            averaged: compute with the moving average of the weights, which the configuration must ask for.

        Raises:
            NonFiniteLossError: names the songs.
        """
        one = torch.ones((), device=self.ranks.device)
        names = sorted(set(languages.values())) if languages else [UNDETERMINED]
        by_language = torch.zeros(len(names), NUM_ROWS, dtype=torch.float64, device=self.ranks.device)
        by_place = torch.zeros(NUM_ROWS, NUM_PLACES, dtype=torch.float64, device=self.ranks.device)
        tables = []
        self._engine.set_training(False)
        with self._engine.averaged() if averaged else nullcontext():
            for micro in batch.micro_batches:
                self.on_progress()
                _, table, places = self._engine(*self._prepare(micro, with_dropout=False), one, one)
                tables.append(table)
                if not micro.is_repeat:
                    rows = [names.index(languages[key]) if languages else 0 for key in micro.batch.keys]
                    by_language.index_add_(0, send(torch.tensor(rows), table.device), table.T)
                    by_place += places
        self._engine.set_training(True)
        sum_tables(self.ranks, batch.micro_batches, tables, "validation")
        sums = self.ranks.add_up(torch.cat([by_language, by_place.T])).tolist()
        return ValidationLosses.from_sums(
            {name: row for name, row in zip(names, sums, strict=False) if row[-1]},
            sums[len(names) :],
            self.config.trainer.flow_weight,
        )

    def gather_state(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield file name and float32 tensors of weights, their moving average and optimizer state.

        All ranks must take part. Tensors are complete and on the CPU on rank 0; the other ranks get empty dictionaries.
        """
        yield "model" if self._own_names is None else "adapters", self._engine.gather_weights(names=self._own_names)
        for key in self._engine.state_keys:
            if key == EMA:
                yield EMA, self._engine.gather_weights(EMA, names=self._own_names)
            else:
                yield f"optimizer_{key}", self._engine.gather_trained(key)

    def gather_weights(self, key: str | None = None) -> dict[str, Tensor]:
        """Return all weights, or with key EMA their moving average, and the buffers; as `gather_state`."""
        return self._engine.gather_weights(key)

    def restore(self, read: Mapping[str, Iterator[tuple[str, Tensor]]], num_updates: int) -> None:
        """Set weights and optimizer state to those of a checkpoint, whatever ranks and ZeRO stage it came from.

        Args:
            read: file name, as `gather_state` gives it, to names and complete float32 tensors.
            num_updates: that the checkpoint has seen.
        """
        keys = {name: "" if name in ("model", "adapters") else name.removeprefix("optimizer_") for name in read}
        self._engine.restore({keys[name]: tensors for name, tensors in read.items()}, num_updates)

    def close(self) -> None:
        """Free what DeepSpeed holds."""
        self._engine.close()

    def _refuse_spike(
        self,
        loss: float,
        max_loss: float,
        where: str,
        micro_batches: Sequence[MicroBatch],
        tables: Sequence[Tensor],
    ) -> None:
        if loss <= max_loss:
            return
        weight = self.config.trainer.flow_weight
        songs = name_songs(self.ranks, micro_batches, tables, lambda table: song_losses(table, weight) > max_loss)
        raise LossSpikeError(where, f"the loss is {loss:.4g}, above trainer.max_loss_spike's {max_loss:.4g}", songs)

    def _prepare(self, micro_batch: MicroBatch, *, with_dropout: bool) -> tuple[SongBatch, Draws]:
        num_blocks = (micro_batch.batch.num_frames_B // self.config.model.block_frames).tolist()
        if with_dropout:
            left_out = self.config.model.dropout.blocks
            self._dropout.set_songs(micro_batch.seeds, [count_rendered(count, left_out) for count in num_blocks])
        else:
            self._dropout.drop_nothing()
        draws = draw(micro_batch.seeds, num_blocks, self.config.model, self.ranks.device, with_dropout=with_dropout)
        return micro_batch.batch.to(self.ranks.device), draws

    def _count_flops(self, songs: SongBatch, draws: Draws) -> float:
        """Return what the model computes for these songs; a condition that is dropped costs nothing."""
        num_lyrics = songs.num_lyrics_B.masked_fill(draws.drop_conditions_B, 0)
        num_prompt_frames = songs.num_prompt_frames_B.masked_fill(draws.drop_conditions_B | draws.drop_prompt_B, 0)
        counts = (count.tolist() for count in (songs.num_frames_B, num_lyrics, num_prompt_frames))
        return flops_per_step(self.config.model, *counts, backward=self._backward)["total"]
