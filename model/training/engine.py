"""DeepSpeed's engine around a song model: state that is read and set by parameter name, updates that can be left out.

What is asked of DeepSpeed beyond its documented functions stands in this file alone: where each ZeRO stage keeps its
float32 weights, and how one of them is made to forget gradients.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from model.network.config import ConfigError
from model.network.lm import SemanticHead
from model.network.song_model import SongModel
from model.settings.settings import OptimizerConfig, RunConfig, deepspeed_settings
from model.training.muon import MOMENTUM, MuonAdamW, Piece, find_shapes
from model.training.ranks import Ranks

ADAM_STATE = ("exp_avg", "exp_avg_sq")  # what AdamW keeps per parameter, besides the number of steps
_LINEAR = nn.functional.linear  # PyTorch's own: for ZeRO 3 DeepSpeed puts another in its place, and leaves it there
EMA = "ema"  # kept where AdamW keeps its own, so that ZeRO shards it likewise
# The class of the optimizer that runs, by ZeRO's stage; DeepSpeed chooses others by settings that say nothing of it.
OPTIMIZERS = {
    0: "torch.optim.adamw.AdamW",
    1: "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer",
    2: "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer",
    3: "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3",
}


def import_deepspeed(has_gpu: bool) -> Any:
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


def forget_ranks() -> None:
    """Close the connections to the other processes, and the groups that DeepSpeed made, so that it can join again."""
    from deepspeed import comm

    comm.destroy_process_group()


class Engine:
    """Computes a loss with gradients and updates the weights, sharded over the ranks as the configuration says."""

    def __init__(self, model: SongModel, loss: nn.Module, config: RunConfig, ranks: Ranks) -> None:
        """Hand `loss`, which holds `model` with its weights, to DeepSpeed.

        Raises:
            ConfigError: DeepSpeed refuses the settings, or runs another optimizer than they say.
        """
        self.model = model
        self.ranks = ranks
        self._stage = config.trainer.zero_stage
        self._has_ema = config.trainer.ema_decay > 0
        settings = deepspeed_settings(config, ranks.world_size)
        self.loss_divisor: int = settings["gradient_accumulation_steps"]  # of every loss, in `backward`
        deepspeed = import_deepspeed(ranks.device.type == "cuda")
        _check_settings(settings)
        if self._stage == 3:  # the head reads the weights of its two layers itself
            deepspeed.utils.set_z3_leaf_modules(model, [SemanticHead])
        nn.functional.linear = _LINEAR  # an engine that failed may have left DeepSpeed's
        self._matrices = find_shapes(model) if config.optimizer.kind == "muon" else {}
        with redirect_stdout(StringIO()):  # it prints how much memory is in use, ten times
            self._engine: Any = deepspeed.initialize(
                model=loss,
                model_parameters=_group_parameters(model, config.optimizer.weight_decay, self._matrices),
                optimizer=choose_optimizer(config.optimizer),
                config=settings,
            )[0]
        self._refuse_other_optimizer(config.optimizer.kind)
        self._allocate_state()
        if isinstance(self.adam, MuonAdamW):
            self._locate_matrices(self.adam)

    @property
    def optimizer_name(self) -> str:
        """Module and class of the optimizer that runs."""
        kind = type(self._engine.optimizer)
        return f"{kind.__module__}.{kind.__qualname__}"

    def __call__(self, *arguments: Any) -> Any:
        """Run the loss module."""
        return self._engine(*arguments)

    def set_training(self, is_training: bool) -> None:
        """Switch between training and evaluation."""
        self._engine.train(is_training)

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Say, before a micro-batch is computed, whether it is the last one of its step; steps may differ in number."""
        self._engine.set_gradient_accumulation_boundary(is_last)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch, whose loss is divided by `loss_divisor` and the number of ranks."""
        self._engine.backward(loss)

    def step(self) -> None:
        """End a micro-batch; the last one of a step updates the weights."""
        self._engine.step()

    def update(self, lr: float) -> float:
        """End the last micro-batch: update the weights, and return the norm of the gradient before clipping.

        Where the norm is not finite, it returns infinity and updates nothing.
        """
        if self._stage == 0:
            norm = self._local_grad_norm()
            if not norm < float("inf"):
                self.drop_update()
                return float("inf")
        for group in self.adam.param_groups:
            group["lr"] = lr
        self._engine.step()
        return norm if self._stage == 0 else float(self._engine.get_global_grad_norm())

    def drop_update(self) -> None:
        """End the last micro-batch and forget the gradients of the step, whatever they are."""
        optimizer = self._engine.optimizer
        if self._stage == 0:
            for parameter in self.model.parameters():
                parameter.grad = None  # AdamW leaves parameters without a gradient as they are
            self._engine.clip_fp32_gradients = lambda: None  # it expects some
            self._engine.step()
            del self._engine.clip_fp32_gradients
            return
        # The optimizers of ZeRO leave out an update whose gradients overflow, and clean up after it.
        name = "_overflow_check_and_loss_scale_update" if self._stage == 3 else "check_overflow"

        def claim_overflow(*_: object, **__: object) -> None:
            optimizer.overflow = True

        was_checked = getattr(optimizer, "check_grad_overflow", None)
        setattr(optimizer, name, claim_overflow)
        optimizer.check_grad_overflow = True
        try:
            self._engine.step()
        finally:
            delattr(optimizer, name)
            optimizer.check_grad_overflow = was_checked
        assert self._engine.was_step_applied() is False, "DeepSpeed has applied an update that it was told to leave out"

    @torch.no_grad()
    def update_ema(self, decay: float) -> None:
        """Move the average towards the weights: average = decay * average + (1 - decay) * weights."""
        for tensor, state in self.adam.state.items():
            state[EMA].lerp_(tensor, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model compute with the moving average of its weights; nothing is copied but what it computes with."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def close(self) -> None:
        """Free what DeepSpeed holds, and take back its linear layer: the next run in this process rounds as all do."""
        self._engine.destroy()
        nn.functional.linear = _LINEAR

    @property
    def adam(self) -> torch.optim.Optimizer:
        """PyTorch's optimizer, inside DeepSpeed's where there is one."""
        adam: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        return adam

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What is kept per trained parameter, besides the number of steps; with Muon, of matrices or of the others."""
        kinds = {key for group in self.adam.param_groups for key in _state_keys(group)}
        return (*sorted(kinds), EMA) if self._has_ema else tuple(sorted(kinds))

    def gather_weights(self, key: str | None = None, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return weights, or with key EMA their moving average, and the buffers, complete and on rank 0's CPU.

        All ranks must take part; the others get an empty dictionary.

        Args:
            key: None or EMA.
            names: of the weights, among them all that train; None: all.
        """
        tensors = self.gather_trained(key)
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad and (names is None or name in names):
                tensor = self._gather_frozen(parameter)
                if self.ranks.is_main:
                    tensors[name] = tensor.float().cpu().clone()
        if self.ranks.is_main:
            persistent = self.model.state_dict().keys()
            tensors |= {name: buffer.cpu() for name, buffer in self.model.named_buffers() if name in persistent}
        return tensors

    def gather_trained(self, key: str | None) -> dict[str, Tensor]:
        """Return the trained parameters (key None) or their optimizer state; as `gather_weights`."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and self._has(parameter, key):
                tensor = self._gather(parameter, key)
                if self.ranks.is_main:
                    tensors[name] = tensor.detach().float().cpu().clone()
        return tensors

    def restore(self, read: Mapping[str, Iterator[tuple[str, Tensor]]], num_updates: int) -> None:
        """Set weights and optimizer state to those of a checkpoint, whatever ranks and ZeRO stage it came from.

        Args:
            read: key of the state, "" for weights, to names and complete float32 tensors; unknown keys are left out.
            num_updates: that the checkpoint has seen.
        """
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        for key, tensors in read.items():
            if key and key not in self.state_keys:
                continue
            for name, tensor in tensors:
                if name in trained and self._has(trained[name], key or None):
                    self._set(trained[name], key or None, tensor)
        for tensor, state in self.adam.state.items():
            state["step"].fill_(num_updates)
            if EMA in state and EMA not in read:
                state[EMA].copy_(tensor)

    def _refuse_other_optimizer(self, kind: str) -> None:
        """Raise ConfigError unless the optimizer that runs, and the one inside it, are those of the settings."""
        inner = name_class({"adamw": torch.optim.AdamW, "muon": MuonAdamW}[kind])
        outer = OPTIMIZERS[self._stage] if self._stage else inner
        for found, expected in ((self.optimizer_name, outer), (name_class(type(self.adam)), inner)):
            if found != expected:
                raise ConfigError(
                    f"trainer.zero_stage {self._stage}: DeepSpeed runs {found}, expected {expected}; take out of the "
                    "section deepspeed what asks for another one"
                )

    def _has(self, parameter: nn.Parameter, key: str | None) -> bool:
        """Return whether the optimizer keeps `key` of a trained parameter; None: itself."""
        return key in (None, EMA) or key in _state_keys({"is_orthogonal": parameter in self._matrices})

    def _local_grad_norm(self) -> float:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    @torch.no_grad()
    def _swap_average(self) -> None:
        for tensor, state in self.adam.state.items():
            tensor.data, state[EMA] = state[EMA], tensor.data
        optimizer = self._engine.optimizer
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        if self._stage == 3:
            optimizer._partition_all_parameters()
            for number in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(number)
            if optimizer.persistent_parameters:  # small ones, which are whole on every rank
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def _allocate_state(self) -> None:
        """Make the optimizer's state as its first step would, so that it can be set and read from the start.

        DeepSpeed links the state to parameters at the first step of the first parameter group, when that of the
        second does not exist yet; linking here finds both.
        """
        optimizer = self._engine.optimizer
        if self._stage == 3:
            kept: list[tuple[Tensor, tuple[str, ...]]] = [
                (tensor, ADAM_STATE) for tensor in optimizer.fp32_partitioned_groups_flat
            ]
        else:
            kept = [(tensor, _state_keys(group)) for group in self.adam.param_groups for tensor in group["params"]]
        for tensor, keys in kept:
            moments = {key: torch.zeros_like(tensor) for key in keys}
            if self._has_ema:
                moments[EMA] = tensor.detach().clone()
            device = tensor.device if tensor.is_cuda else "cpu"  # where the fused kernel wants it
            self.adam.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=device), **moments}
        if self._stage in (1, 2):
            optimizer._lazy_init_hp_params_optimizer_state()

    def _locate_matrices(self, muon: MuonAdamW) -> None:
        """Tell Muon which parts of which matrices this rank updates; all ranks take part."""
        for number, group in enumerate(muon.param_groups):
            if not group.get("is_orthogonal"):
                continue
            if self._stage == 0:
                muon.pieces |= {
                    weight: [
                        Piece(shape=self._matrices[weight], start=0, offset=0, count=weight.numel(), is_shared=False)
                    ]
                    for weight in group["params"]
                }
                continue
            weights = self._engine.optimizer.bit16_groups[number]
            parts = [weight._hp_mapping for weight in weights]
            counts = [0 if part is None else part.hp_fragment_address.numel for part in parts]
            is_whole = [count == weight.numel() for weight, count in zip(weights, counts, strict=True)]
            is_whole_somewhere = self.ranks.add_up(is_whole).tolist()
            (flat,) = group["params"]
            muon.pieces[flat] = [
                Piece(
                    shape=self._matrices[weight],
                    start=0 if part is None else part.hp_fragment_address.start,
                    offset=0 if part is None else part.lp_fragment_address.start,
                    count=count,
                    is_shared=not on_one,
                )
                for weight, part, count, on_one in zip(weights, parts, counts, is_whole_somewhere, strict=True)
                if count or not on_one
            ]

    def _gather_frozen(self, parameter: nn.Parameter) -> Tensor:
        """Return a whole parameter that does not train, as the model computes with it; all ranks must take part."""
        if self._stage < 3:
            return parameter.detach()
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _gather(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """Return the whole float32 parameter (key None) or its optimizer state; all ranks must take part."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensor: Tensor
        if self._stage == 0:
            tensor = parameter if key is None else self.adam.state[parameter][key]
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
            (parameter if key is None else self.adam.state[parameter][key]).copy_(value)
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


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise ConfigError with DeepSpeed's reason where it does not take the settings, in one line."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    try:
        DeepSpeedConfig(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"section deepspeed: {error.title} does not take {key}: {first['msg']}") from error
    except (ValueError, AssertionError, TypeError, AttributeError) as error:
        raise ConfigError(f"section deepspeed: DeepSpeed refuses it: {' '.join(str(error).split())}") from error


def name_class(kind: type) -> str:
    """Return module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def choose_optimizer(config: OptimizerConfig) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None:
    """Return what makes the optimizer from parameter groups; None: DeepSpeed does, from its settings."""
    if config.kind == "adamw":
        return None
    adamw: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    return partial(MuonAdamW, momentum=config.momentum, fused=True, **adamw)


def _state_keys(group: Mapping[str, Any]) -> tuple[str, ...]:
    return (MOMENTUM,) if group.get("is_orthogonal") else ADAM_STATE


def _group_parameters(model: SongModel, weight_decay: float, matrices: Mapping[Tensor, Any]) -> list[dict[str, Any]]:
    """Return parameter groups: matrices of linear layers decay; embeddings, norms, biases and adapters do not.

    The given `matrices`, which are Muon's, come first.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    linear = {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    groups = [
        {"params": [p for p in trained if p in matrices], "weight_decay": weight_decay, "is_orthogonal": True},
        {"params": [p for p in trained if p in linear - matrices.keys()], "weight_decay": weight_decay},
        {"params": [p for p in trained if p not in linear], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
