"""One DeepSpeed engine around the song model: exact steps, and state that is read and set by parameter name.

The loss of a global batch is (sum of all token losses / all tokens) + flow_weight * (sum of all block errors / all
blocks). Counts are added up over ranks before the backward pass, and each rank's sums are divided by them: how the
batch is cut into ranks and micro-batches changes nothing but the order of additions.
"""

import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from model.batches import MicroBatch, RankBatch
from model.hardware import keep_memory
from model.noise import Draws, draw
from model.ranks import Ranks, choose_rank_device, count_local_ranks
from model.settings import RunConfig, deepspeed_settings
from model.size import flops_per_step
from model.song_batch import SongBatch
from model.song_model import SongModel
from model.step_sums import NonFiniteLossError, ScaledLoss, count_targets, sum_tables
from model.tally import NUM_PLACES, NUM_ROWS, BatchLosses, StepResult, ValidationLosses
from model.zero3_outputs import close_outputs, open_outputs

ADAM_STATE = ("exp_avg", "exp_avg_sq")  # what AdamW keeps per parameter, besides the number of steps
EMA = "ema"  # kept where AdamW keeps its own, so that ZeRO shards it likewise
UNDETERMINED = "und"  # ISO 639-2: no language known
RANK_TIMEOUT = timedelta(minutes=30)  # the longest wait for another rank: rank 0 writing a large checkpoint


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
    deepspeed = _import_deepspeed(has_gpu)
    deepspeed.init_distributed(dist_backend="nccl" if has_gpu else "gloo", verbose=False, timeout=RANK_TIMEOUT)
    return Ranks(rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]), device=device)


def leave_ranks() -> None:
    """Close the connections to the other processes."""
    if torch.distributed.is_initialized():
        from deepspeed import comm  # forgets the groups that it made, so that the process can join again

        comm.destroy_process_group()


def _import_deepspeed(has_gpu: bool) -> Any:
    """Import DeepSpeed so that CPU runs need no compiler.

    On a CPU DeepSpeed compiles a shared-memory all-reduce at first use: a minute with a compiler, an error without;
    gloo does the same work. The extension is built only if this table lists it as compatible.

    Its Muon optimizer, which is not used here, asks for `torch.compile` as soon as any optimizer is made; that loads
    a whole compiler, which takes most of a process's start.
    """
    os.environ["DS_ACCELERATOR"] = "cuda" if has_gpu else "cpu"  # it looks for devices by itself otherwise
    import deepspeed
    import deepspeed.ops
    import deepspeed.runtime.compiler

    deepspeed.runtime.compiler.compile = lambda: lambda function: function
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not has_gpu:
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


class Trainer:
    """Updates a song model, on one of several ranks."""

    def __init__(self, model: SongModel, config: RunConfig, ranks: Ranks) -> None:
        """Hand `model`, with its weights, to DeepSpeed."""
        self.config = config
        self.ranks = ranks
        self.model = model
        self._stage = config.trainer.zero_stage
        settings = deepspeed_settings(config, ranks.world_size)
        self._num_micro_batches: int = settings["gradient_accumulation_steps"]
        deepspeed = _import_deepspeed(ranks.device.type == "cuda")
        kinds = open_outputs(model) if self._stage == 3 else {}
        max_blocks = config.data.max_crop_frames // config.model.block_frames
        with redirect_stdout(StringIO()):  # it prints how much memory is in use, ten times
            self._engine: Any = deepspeed.initialize(
                model=ScaledLoss(model, config.trainer.flow_weight, math.ceil(max_blocks / NUM_PLACES)),
                model_parameters=_group_parameters(model, config.optimizer.weight_decay),
                config=settings,
            )[0]
        if self._stage == 3:
            close_outputs(model, kinds)
        self._allocate_adam_state()

    def train_step(self, batch: RankBatch, global_step: int) -> StepResult:
        """Update the weights with this rank's share of step `global_step`, counted from 0.

        Raises:
            NonFiniteLossError: before the update, naming the songs. Where only the gradient is not finite, ZeRO
                finds out after it.
        """
        assert len(batch.micro_batches) == self._num_micro_batches, "ranks would wait for each other forever"
        num_targets, num_blocks = count_targets(self.ranks, batch.micro_batches, self.config.model.block_frames)
        tables, flops = [], 0.0
        for number, micro_batch in enumerate(batch.micro_batches):
            is_last = number == self._num_micro_batches - 1
            songs, draws = self._prepare(micro_batch, with_dropout=True)
            loss, table, _ = self._engine(songs, draws, num_targets, num_blocks)
            flops += 0.0 if micro_batch.is_repeat else self._count_flops(songs, draws)
            # DeepSpeed divides by the number of micro-batches and by that of ranks; the loss is a sum over both.
            scale = 0 if micro_batch.is_repeat else self._num_micro_batches * self.ranks.world_size
            self._engine.backward(loss * scale)
            tables.append(table)
            if not is_last:
                self._engine.step()
        *sums, flops = sum_tables(self.ranks, batch.micro_batches, tables, f"step {global_step}", flops)
        grad_norm = self._check(self._local_grad_norm(), global_step) if self._stage == 0 else math.nan
        lr = self.config.optimizer.lr * self.config.schedule.factor(global_step)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._engine.step()
        if self._stage > 0:
            grad_norm = self._check(float(self._engine.get_global_grad_norm()), global_step)
        self._update_ema(global_step)
        losses = BatchLosses.from_sums(sums, self.config.trainer.flow_weight)
        return StepResult(losses=losses, lr=lr, grad_norm=grad_norm, flops=flops)

    @torch.no_grad()
    def evaluate(self, batch: RankBatch, languages: Mapping[str, str] | None = None) -> ValidationLosses:
        """Return the losses without dropout of conditions.

        Args:
            batch: this rank's share.
            languages: of every song by its key, also of other ranks' songs; None: all are of language "und".
        """
        self._engine.eval()
        one = torch.ones((), device=self.ranks.device)
        names = sorted(set(languages.values())) if languages else [UNDETERMINED]
        by_language = torch.zeros(len(names), NUM_ROWS, dtype=torch.float64, device=self.ranks.device)
        by_place = torch.zeros(NUM_ROWS, NUM_PLACES, dtype=torch.float64, device=self.ranks.device)
        tables = []
        for micro in batch.micro_batches:
            _, table, places = self._engine(*self._prepare(micro, with_dropout=False), one, one)
            tables.append(table)
            if not micro.is_repeat:
                rows = [names.index(languages[key]) if languages else 0 for key in micro.batch.keys]
                by_language.index_add_(0, torch.tensor(rows, device=table.device), table.T)
                by_place += places
        self._engine.train()
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
        yield "model", self.gather_weights()
        for key in self._state_keys:
            yield (EMA, self.gather_weights(EMA)) if key == EMA else (f"optimizer_{key}", self._gather_trained(key))

    def gather_weights(self, key: str | None = None) -> dict[str, Tensor]:
        """Return all weights, or with key EMA their moving average, and the buffers; as `gather_state`."""
        tensors = self._gather_trained(key)
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                tensor = self._gather_frozen(parameter)
                if self.ranks.is_main:
                    tensors[name] = tensor.float().cpu().clone()
        if self.ranks.is_main:
            persistent = self.model.state_dict().keys()
            tensors |= {name: buffer.cpu() for name, buffer in self.model.named_buffers() if name in persistent}
        return tensors

    def restore(self, read: Mapping[str, Iterator[tuple[str, Tensor]]], global_step: int) -> None:
        """Set weights and optimizer state to those of a checkpoint, whatever ranks and ZeRO stage it came from.

        Args:
            read: file name, as `gather_state` gives it, to names and complete float32 tensors.
            global_step: updates that the checkpoint has seen.
        """
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        for file_name, tensors in read.items():
            key = None if file_name == "model" else file_name.removeprefix("optimizer_")
            if key is not None and key not in self._state_keys:
                continue
            for name, tensor in tensors:
                if name in trained:
                    self._set(trained[name], key, tensor)
        for tensor, state in self._adam.state.items():
            state["step"].fill_(global_step)
            if EMA in state and EMA not in read:
                state[EMA].copy_(tensor)

    def close(self) -> None:
        """Free what DeepSpeed holds."""
        self._engine.destroy()

    @property
    def _adam(self) -> torch.optim.Optimizer:
        """PyTorch's optimizer, inside DeepSpeed's where there is one."""
        adam: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        return adam

    @property
    def _state_keys(self) -> tuple[str, ...]:
        """What is kept per trained parameter, besides the number of steps."""
        return (*ADAM_STATE, EMA) if self.config.trainer.ema_decay else ADAM_STATE

    @torch.no_grad()
    def _update_ema(self, global_step: int) -> None:
        """Move the average towards the weights; its early steps forget faster, or it would keep the random start."""
        if self.config.trainer.ema_decay:
            decay = min(self.config.trainer.ema_decay, (1 + global_step) / (10 + global_step))
            for tensor, state in self._adam.state.items():
                state[EMA].lerp_(tensor, 1 - decay)

    def _prepare(self, micro_batch: MicroBatch, *, with_dropout: bool) -> tuple[SongBatch, Draws]:
        num_blocks = (micro_batch.batch.num_frames_B // self.config.model.block_frames).tolist()
        draws = draw(micro_batch.seeds, num_blocks, self.config.model, self.ranks.device, with_dropout=with_dropout)
        return micro_batch.batch.to(self.ranks.device), draws

    def _count_flops(self, songs: SongBatch, draws: Draws) -> float:
        """Return what the model computes for these songs; a condition that is dropped costs nothing."""
        num_lyrics = songs.num_lyrics_B.masked_fill(draws.drop_conditions_B, 0)
        num_prompt_frames = songs.num_prompt_frames_B.masked_fill(draws.drop_conditions_B | draws.drop_prompt_B, 0)
        counts = (count.tolist() for count in (songs.num_frames_B, num_lyrics, num_prompt_frames))
        return flops_per_step(self.config.model, *counts)["total"]

    def _check(self, grad_norm: float, global_step: int) -> float:
        if math.isfinite(grad_norm) and grad_norm >= 0:  # DeepSpeed's norm is -1 where it is not finite
            return grad_norm
        raise NonFiniteLossError(
            f"step {global_step}: losses are finite, but the norm of the gradient is not; this step is not saved: "
            "resume from the last checkpoint with a lower learning rate"
        )

    def _local_grad_norm(self) -> float:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def _allocate_adam_state(self) -> None:
        """Make AdamW's state as its first step would, so that it can be set and read from the start.

        DeepSpeed links the state to parameters at the first step of the first parameter group, when that of the
        second does not exist yet; linking here finds both.
        """
        optimizer = self._engine.optimizer
        if self._stage == 3:
            tensors = optimizer.fp32_partitioned_groups_flat
        else:
            tensors = [parameter for group in self._adam.param_groups for parameter in group["params"]]
        for tensor in tensors:
            moments = {key: torch.zeros_like(tensor) for key in self._state_keys}
            if EMA in moments:
                moments[EMA].copy_(tensor)
            device = tensor.device if tensor.is_cuda else "cpu"  # where the fused kernel wants it
            self._adam.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=device), **moments}
        if self._stage in (1, 2):
            optimizer._lazy_init_hp_params_optimizer_state()

    def _gather_trained(self, key: str | None) -> dict[str, Tensor]:
        """Return the trained parameters (key None) or their optimizer state on rank 0; all ranks must take part."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                tensor = self._gather(parameter, key)
                if self.ranks.is_main:
                    tensors[name] = tensor.detach().float().cpu().clone()
        return tensors

    def _gather_frozen(self, parameter: nn.Parameter) -> Tensor:
        """Return a whole parameter that does not train, as the model computes with it; all ranks must take part."""
        if self._stage < 3:
            return parameter.detach()
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _gather(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """Return the whole float32 parameter (key None) or its optimizer state; all ranks must take part."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensor: Tensor
        if self._stage == 0:
            tensor = parameter if key is None else self._adam.state[parameter][key]
        elif key is None:
            tensor = safe_get_full_fp32_param(parameter)
        else:
            tensor = safe_get_full_optimizer_state(parameter, key)
        return tensor

    @torch.no_grad()
    def _set(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        """Set this rank's part of a parameter (key None) or of its optimizer state."""
        from deepspeed.utils import (
            safe_get_local_fp32_param,
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        value = value.to(self.ranks.device)
        if self._stage == 0:
            (parameter if key is None else self._adam.state[parameter][key]).copy_(value)
        elif self._stage < 3:
            if key is None:
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, key)
        else:  # equal parts per rank, the last one padded
            part_size = safe_get_local_fp32_param(parameter).numel()
            flat = nn.functional.pad(value.flatten(), (0, part_size * self.ranks.world_size - value.numel()))
            part = flat[self.ranks.rank * part_size : (self.ranks.rank + 1) * part_size]
            if key is None:
                safe_set_local_fp32_param(parameter, part)
            else:
                safe_set_local_optimizer_state(parameter, part, key)


def _group_parameters(model: SongModel, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices of linear layers decay; embeddings, norms, biases and adapters do not."""
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if id(parameter) in matrices]
    others = [parameter for parameter in trained if id(parameter) not in matrices]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
