"""Muon: nearly orthogonal updates of whole matrices, however ZeRO cuts them; AdamW for the rest."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.data.batches import Batches
from model.network.config import ConfigError
from model.network.lora import find_matrices
from model.network.song_model import SongModel
from model.settings.settings import RunConfig, load_config
from model.training.muon import COEFFICIENTS, NUM_ITERATIONS, RMS, STACKED, orthogonalize
from model.training.ranks import Ranks
from model.training.trainer import Trainer
from model.weights.checkpoint import CheckpointError
from shards.index import read_index
from shards.reader import ShardReader

from ..muon_process import STAGES, play_stage
from ..processes import run_ranks
from ..runs import run_to
from ..tiny_dataset import tiny_config


def test_singular_vectors_stay_and_values_come_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (1, 20, 8), (2, 8, 8)):
        matrices = torch.randn(shape, dtype=torch.float64)
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
        values = values / values.norm(dim=-1, keepdim=True)
        for _ in range(NUM_ITERATIONS):
            values = sum(factor * values**power for factor, power in zip(COEFFICIENTS, (1, 3, 5), strict=True))
        torch.testing.assert_close(orthogonalize(matrices), left * values[:, None] @ right, rtol=1e-5, atol=1e-5)
        assert ((values > 0.6) & (values < 1.3)).all()
        torch.testing.assert_close(orthogonalize(1e-12 * matrices), orthogonalize(matrices))
    assert not orthogonalize(torch.zeros(1, 2, 3)).any()


def muon(dataset: Path, folder: Path, stage: int = 0, precision: str = "fp32", **changes: Any) -> RunConfig:
    return tiny_config(
        dataset, folder, optimizer__kind="muon", trainer__zero_stage=stage, trainer__precision=precision, **changes
    )


def test_a_step_by_hand(dataset: Path, ranks: Ranks, tmp_path: Path) -> None:
    """Two steps of a whole model against Muon and AdamW written out, on gradients clipped by their common norm."""
    config = muon(dataset, tmp_path, optimizer__clip_norm=0.05)
    batch = Batches(read_index(dataset), ShardReader(dataset), config, "train").train_batch(0, 0, 1)
    torch.manual_seed(0)
    model = SongModel(config.model)
    matrices = {f"{name}.weight": STACKED.get(name.split(".")[-1], 1) for name in find_matrices(model)}
    assert sorted(set(matrices.values())) == [1, 2, 3]
    expected = {name: parameter.detach().double().clone() for name, parameter in model.named_parameters()}
    seen: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: seen.update({name: seen.get(name, 0) + grad.double()}))
    trainer = Trainer(model, config, ranks)
    momenta = {name: torch.zeros_like(expected[name]) for name in matrices}
    optimizer, linear = config.optimizer, {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for step in range(2):
        seen.clear()
        result = trainer.train_step(batch, step)
        clip = min(1.0, optimizer.clip_norm / result.grad_norm)
        assert clip < 0.9
        for name, stacked in matrices.items():
            gradient = clip * seen[name]
            momenta[name] = optimizer.momentum * momenta[name] + (1 - optimizer.momentum) * gradient
            nesterov = (1 - optimizer.momentum) * gradient + optimizer.momentum * momenta[name]
            update = torch.cat([orthogonalize(part[None])[0] for part in nesterov.chunk(stacked)])
            rows, columns = len(update) // stacked, update.shape[1]
            expected[name] *= 1 - result.lr * optimizer.weight_decay
            expected[name] -= result.lr * RMS * math.sqrt(max(rows, columns)) * update
    for name, parameter in model.named_parameters():
        moved = parameter.detach().double() - expected[name]
        if name in matrices:
            assert moved.abs().max() < 2e-6, name
        elif step == 1 and name.removesuffix(".weight") in linear:
            assert 0 < moved.abs().max() < 3 * result.lr, "AdamW moves at most by the rate"
    state = dict(trainer.gather_state())
    assert state["optimizer_momentum_buffer"].keys() == matrices.keys()
    assert state["optimizer_exp_avg"].keys() == expected.keys() - matrices.keys()
    for name, momentum in state["optimizer_momentum_buffer"].items():
        torch.testing.assert_close(momentum.double(), momenta[name], rtol=1e-4, atol=1e-7)
    trainer.close()


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "bf16")])
def test_a_stopped_run_goes_on_to_the_bit(
    dataset: Path, ranks: Ranks, tmp_path: Path, stage: int, precision: str
) -> None:
    whole, stopped = (
        muon(dataset, tmp_path / name, stage, precision, trainer__ema_decay=0.5) for name in ("whole", "stopped")
    )
    run_to(whole, ranks, 4)
    run_to(stopped, ranks, 2)
    run_to(stopped, ranks, 4)
    names = {"model", "ema", "optimizer_exp_avg", "optimizer_exp_avg_sq", "optimizer_momentum_buffer"}
    files = [
        {path.stem: load_file(path) for path in (tmp_path / name / "step_000004").glob("*.safetensors")}
        for name in ("whole", "stopped")
    ]
    assert files[0].keys() == files[1].keys() == names
    for name in names:
        assert all(torch.equal(tensor, files[1][name][key]) for key, tensor in files[0][name].items()), name
    assert files[0]["optimizer_momentum_buffer"]["lm.layers.0.ffn.down.weight"].any()


@pytest.mark.slow
def test_two_and_three_ranks_make_the_steps_of_one(dataset: Path, ranks: Ranks, tmp_path: Path) -> None:
    """Some matrices lie on two ranks, some on three; a run goes from three ranks to two, and then to one."""
    run_ranks("muon_process.py", dataset, tmp_path, 3, 2)
    expected = play_stage(dataset, ranks, 0)
    before = SongModel(muon(dataset, tmp_path).model).state_dict()
    for world_size in (2, 3):
        found = load_file(tmp_path / f"ranks_{world_size}.safetensors")
        for stage in STAGES:
            for name, tensor in expected.items():
                here = found[f"{stage}/{name}"]
                error = (here - tensor).norm() / tensor.norm().clamp_min(1e-12)
                assert error < 1e-4, (world_size, stage, name, float(error))
    assert expected.keys() > {f"model/{name}" for name in before}
    run_to(muon(dataset, tmp_path / "run"), ranks, 6)
    run_to(muon(dataset, tmp_path / "alone"), ranks, 6)
    alone, moved = (load_file(tmp_path / name / "step_000006" / "model.safetensors") for name in ("alone", "run"))
    for name, tensor in alone.items():
        assert (moved[name] - tensor).norm() <= 1e-3 * tensor.norm(), name


def test_another_optimizer_on_resume_is_refused_in_one_line(dataset: Path, ranks: Ranks, tmp_path: Path) -> None:
    run_to(tiny_config(dataset, tmp_path / "run"), ranks, 1)
    with pytest.raises(CheckpointError, match=r"optimizer\.kind is adamw there and muon in this run; use its"):
        run_to(muon(dataset, tmp_path / "run"), ranks, 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainer.zero_stage=3", "zero_stage 3, which leaves whole matrices to no rank; expected zero_stage 0 to 2"),
        ("finetune.lora_rank=4", "Muon trains the matrices that LoRA freezes; expected lora_rank 0"),
        ("optimizer.momentum=1.0", r"momentum is 1\.0, expected a value in \[0, 1\)"),
        ("deepspeed.zero_optimization={offload_optimizer: {device: cpu}}", "need a GPU, and .* moves them to the CPU"),
    ],
)
def test_what_muon_cannot_do_is_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("full.yaml", ["optimizer.kind=muon", setting])
    assert "\n" not in str(caught.value)
