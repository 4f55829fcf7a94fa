"""What engine.py reaches into of DeepSpeed beyond its documentation: each test fails when that changes there.

What these parts are for is tested in test_trainer.py (updates left out, moving average, resuming), test_muon.py and
test_zero.py; here stands that they are still there, and that DeepSpeed itself still calls what is replaced.
"""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import nn

from model.network.song_model import SongModel
from model.training.engine import EMA, Engine, import_deepspeed
from model.training.muon import MOMENTUM
from model.training.ranks import Ranks
from model.training.step_sums import ScaledLoss

from ..tiny_dataset import tiny_config

LINEAR = nn.functional.linear
STAGES = {"0": 0, "1": 1, "2": 2, "3": 3, "muon": 1}


@pytest.fixture(scope="module")
def engines(ranks: Ranks) -> Iterator[dict[str, Engine]]:
    """One for each stage."""
    made = {}
    for name, stage in STAGES.items():
        kind = {"optimizer__kind": "muon"} if name == "muon" else {}
        config = tiny_config(Path("data"), Path("run"), trainer__zero_stage=stage, trainer__ema_decay=0.5, **kind)
        model = SongModel(config.model)
        made[name] = Engine(model, ScaledLoss(model, 0.1, 1), config, ranks)
    yield made
    for engine in made.values():
        engine.close()


def source(function: Any) -> str:
    return inspect.getsource(function)


def test_an_update_is_left_out_where_the_step_asks_for_overflow(engines: dict[str, Engine]) -> None:
    """`drop_update` replaces what these steps call, and sets `overflow` and `check_grad_overflow`, which they read."""
    steps = {name: source(type(engine._engine.optimizer).step) for name, engine in engines.items()}
    for name in ("1", "2", "muon"):
        assert "if self.check_grad_overflow:\n            self.check_overflow(" in steps[name]
        assert "self._update_scale(self.overflow)" in steps[name]
    text = source(inspect.getmodule(type(engines["3"]._engine.optimizer)))
    _, _, after = text.partition("\n        self._overflow_check_and_loss_scale_update(update_scale=False)\n")
    assert after.index("if not self.overflow:") < 80
    assert after.index("if self._loss_scale_update_and_overflow_cleanup():") < 600
    assert "self.clip_fp32_gradients()" in source(engines["0"]._engine._take_model_step)
    for engine in engines.values():
        assert callable(engine._engine.was_step_applied)
        assert not hasattr(engine._engine.optimizer, "overflow") or engine._engine.optimizer.overflow is False


@pytest.mark.parametrize("name", STAGES)
def test_state_lies_where_it_is_looked_for(engines: dict[str, Engine], name: str) -> None:
    """`_allocate_state` and `_swap_average`: PyTorch's optimizer, and the float32 tensors that it updates."""
    engine = engines[name]
    inner, outer = engine.adam, engine._engine.optimizer
    assert isinstance(inner, torch.optim.AdamW)
    assert (outer is inner) == (name == "0")
    tensors = [tensor for group in inner.param_groups for tensor in group["params"]]
    if name == "3":
        tensors = list(outer.fp32_partitioned_groups_flat)
        assert len(outer.fp16_groups) == len(tensors) > 1
        for function in ("_partition_all_parameters", "_reassign_or_swap_out_partitioned_parameters"):
            assert callable(getattr(outer, function))
        assert callable(outer.persistent_parameters[0].all_gather)
    elif name != "0":
        assert callable(outer.update_lp_params)
        assert all(flat is tensor for flat, tensor in zip(outer.single_partition_of_fp32_groups, tensors, strict=True))
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert sum(tensor.numel() for tensor in tensors) >= sum(p.numel() for p in engine.model.parameters() if p.numel())
    for tensor in tensors:
        assert all(state.shape == tensor.shape for key, state in inner.state[tensor].items() if key != "step")


@pytest.mark.parametrize("name", STAGES)
def test_any_state_is_set_and_read_by_the_parameters_name(engines: dict[str, Engine], name: str) -> None:
    """`_lazy_init_hp_params_optimizer_state` links state of the shape of its flat tensor, so ours and EMA too."""
    engine = engines[name]
    for key in (None, *engine.state_keys):
        for parameter_name, parameter in engine.model.named_parameters():
            if not engine._has(parameter, key):
                continue
            shape = getattr(parameter, "ds_shape", parameter.shape)
            values = torch.randn(shape)
            engine._set(parameter, key, values)
            assert torch.equal(engine._gather(parameter, key), values), (key, parameter_name)
    assert EMA in engine.state_keys


def test_muon_finds_its_matrices_in_flat_tensors(engines: dict[str, Engine]) -> None:
    """`_hp_mapping`, its two addresses, and `bit16_groups` in the order of the parameter groups."""
    engine = engines["muon"]
    muon, outer = engine.adam, engine._engine.optimizer
    (group,) = [number for number, group in enumerate(muon.param_groups) if group.get("is_orthogonal")]
    (flat,) = muon.param_groups[group]["params"]
    pieces = muon.pieces[flat]
    assert len(pieces) == len(outer.bit16_groups[group]) == 8
    for piece, weight in zip(pieces, outer.bit16_groups[group], strict=True):
        assert weight._hp_mapping.lp_fragment_address.start == piece.offset == 0
        assert torch.equal(
            flat[piece.start : piece.start + piece.count].view(weight.shape), engine._gather(weight, None)
        )
    assert MOMENTUM in engine.state_keys


def test_deepspeeds_own_muon_still_asks_for_a_compiler() -> None:
    """`import_deepspeed` replaces the decorator; loading the compiler takes most of a process's start."""
    import_deepspeed(has_gpu=False)
    from deepspeed.runtime.zero.muon import original_muon

    text = source(original_muon)
    assert "from deepspeed.runtime import compiler\n" in text
    assert "@compiler.compile()\ndef muon_update(" in text
    assert not hasattr(original_muon.muon_update, "_torchdynamo_orig_callable"), "compiled all the same"
    assert "original_muon import muon_update" in source(deepspeed.runtime.zero.stage_1_and_2)


def test_deepspeeds_own_muon_clips_the_update_under_zero(ranks: Ranks) -> None:
    """Why model/training/muon.py is ours: under ZeRO a small `gradient_clipping` all but stops its matrices.

    Once it does not, see whether its momentum has a parameter's name on several ranks, and take it.
    """
    moved = {}
    for stage in (0, 1, 2, 3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": 0.05,
            "optimizer": {"type": "Muon", "params": {"lr": 0.01, "momentum": 0.95, "torch_adam": True}},
            "zero_optimization": {"stage": stage, "reduce_scatter": False},
        }
        with redirect_stdout(StringIO()):
            engine = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)[0]
        read = safe_get_full_fp32_param if stage else torch.Tensor.detach
        before = read(model[0].weight).clone()
        engine.backward(engine(torch.randn(4, 32)).square().sum())
        engine.step()
        moved[stage] = float((read(model[0].weight) - before).norm())
        engine.destroy()
    nn.functional.linear = LINEAR
    assert moved[0] > 0.01  # the rate times the root of four, the gradient's rank
    for stage in (1, 2, 3):
        assert moved[stage] < moved[0] / 20, moved


def test_a_cpu_needs_no_compiled_all_reduce(ranks: Ranks) -> None:
    """`import_deepspeed` empties the table that DeepSpeed's backend asks before it compiles one."""
    backend = importlib.import_module("deepspeed.comm.torch")
    assert "deepspeed.ops.__compatible_ops__.get(" in source(backend.build_shm_op)
    assert deepspeed.ops.__compatible_ops__ == {}
    assert importlib.import_module("deepspeed.comm.comm").cdb.shm_comm_op is None


def test_zero_3_puts_a_linear_layer_of_its_own_in_pytorchs_place() -> None:
    """`Engine.close` takes it back: test_deepspeed_config.py."""
    from deepspeed.runtime.zero import partition_parameters

    assert "torch.nn.functional.linear = zero3_linear_wrap" in source(partition_parameters)


def test_frozen_weights_of_zero_3_are_gathered_by_a_context_that_is_there() -> None:
    from deepspeed.runtime.zero import GatheredParameters

    assert {"params"} <= set(inspect.signature(GatheredParameters).parameters)
