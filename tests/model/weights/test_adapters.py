"""Runs with LoRA: checkpoints of adapters alone, their base, what chance drops, and what others read of them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from model.convert import main as convert
from model.data.batches import Batches
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, RunConfig
from model.training.ranks import Ranks
from model.training.trainer import Trainer
from model.weights.base_weights import load_model
from model.weights.checkpoint import CheckpointError, read_state
from model.weights.finetune import choose_trained
from shards.index import read_index
from shards.reader import ShardReader

from ..runs import run_to
from ..tiny_dataset import tiny_config


@pytest.fixture(scope="module")
def base(dataset: Path, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "run"
    run_to(tiny_config(dataset, folder), ranks, 2)
    return folder


@pytest.fixture(scope="module")
def trained(dataset: Path, base: Path, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with adapters and a moving average."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_to(adapted(dataset, folder, base, trainer__ema_decay=0.5), ranks, 4)
    return folder


def adapted(dataset: Path, folder: Path, base: Path, finetune: dict[str, Any] | None = None, **run: Any) -> RunConfig:
    config = tiny_config(dataset, folder, **run)
    return replace(config, finetune=FinetuneConfig(weights=str(base), **({"lora_rank": 2} | (finetune or {}))))


def read(folder: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in (folder / f"step_{step:06d}").glob("*.safetensors")}


def same(first: dict[str, dict[str, torch.Tensor]], second: dict[str, dict[str, torch.Tensor]]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[file][name]) for file, tensors in first.items() for name, tensor in tensors.items()
    )


def test_a_checkpoint_holds_adapters_alone_and_names_their_base(base: Path, trained: Path) -> None:
    files = read(trained, 4)
    moments = {"optimizer_exp_avg.safetensors", "optimizer_exp_avg_sq.safetensors"}
    assert set(files) == {"adapters.safetensors", "ema.safetensors"} | moments
    buffers = {"latent_mean_C", "latent_std_C"}
    for name in ("adapters.safetensors", "ema.safetensors"):
        assert {key.rpartition(".")[2] for key in files[name]} == {"lora_down_RI", "lora_up_OR"} | buffers
        assert len(files[name]) == 16 + len(buffers)
    sizes = [sum(path.stat().st_size for path in (folder).rglob("*.safetensors")) for folder in (trained, base)]
    assert sizes[0] < 0.2 * sizes[1], sizes
    state, _ = read_state(trained / "step_000004")
    assert state.base_file == str(base / "step_000002" / "model.safetensors")
    assert len(state.base_sha256) == 64


@pytest.mark.parametrize(
    ("stage", "precision", "dropout"), [(0, "fp32", 0.3), (1, "fp32", 0.0), (2, "bf16", 0.3), (3, "bf16", 0.0)]
)
def test_a_stopped_run_goes_on_to_the_bit(
    dataset: Path, base: Path, ranks: Ranks, tmp_path: Path, stage: int, precision: str, dropout: float
) -> None:
    changes = {"trainer__zero_stage": stage, "trainer__precision": precision, "trainer__ema_decay": 0.5}
    whole, stopped = (
        adapted(dataset, tmp_path / name, base, {"lora_dropout": dropout, "freeze": ("dit.*",)}, **changes)
        for name in ("whole", "stopped")
    )
    run_to(whole, ranks, 4)
    run_to(stopped, ranks, 2)
    run_to(stopped, ranks, 4)
    files = read(tmp_path / "stopped", 4)
    assert same(read(tmp_path / "whole", 4), files)
    assert files["adapters.safetensors"]["lm.layers.0.ffn.down.lora_up_OR"].any()
    assert not files["adapters.safetensors"]["dit.layers.0.ffn.down.lora_up_OR"].any(), "frozen, and kept all the same"


def test_base_and_adapters_load_as_an_ordinary_model(base: Path, trained: Path) -> None:
    model, config = load_model(trained)
    assert set(model.state_dict()) == set(SongModel(config.model).state_dict())
    files, below = read(trained, 4), load_file(base / "step_000002" / "model.safetensors")
    name = "lm.layers.0.ffn.down"
    up, down = (files["ema.safetensors"][f"{name}.lora_{part}"] for part in ("up_OR", "down_RI"))
    assert up.any()
    assert_close(model.get_parameter(f"{name}.weight"), below[f"{name}.weight"] + 16 / 2 * up @ down)
    assert torch.equal(model.semantic_table.weight, below["semantic_table.weight"])
    assert torch.equal(model.latent_std_C, below["latent_std_C"])
    half = load_model(trained, "cpu", torch.bfloat16)[0]
    assert torch.equal(half.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.weight").bfloat16())


def test_another_base_is_refused_in_one_line(
    dataset: Path, base: Path, trained: Path, ranks: Ranks, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    weights = base / "step_000002" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm.layers.0.ffn.down.weight"][3, 5] += 1e-6
    config = tiny_config(dataset, tmp_path)
    save_file(tensors, other, {"config": json.dumps(config.to_dict())})
    message = r"weights \S*other.safetensors are not those that \S+ was trained on: SHA-256 \w+, expected \w{12}; name"
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(trained, base=other)
    assert "\n" not in str(caught.value)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    path = run / "step_000004" / "state.json"
    record = json.loads(path.read_text())
    record["state"]["base_file"] = str(tmp_path / "gone.safetensors")  # so the configuration says where it is now
    path.write_text(json.dumps(record))
    marker = json.loads((run / "step_000004" / "complete.json").read_text())
    del marker["files"]["state.json"]
    marker["files"]["state.json"] = {
        "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
    }  # fmt: skip
    (run / "step_000004" / "complete.json").write_text(json.dumps(marker))
    with pytest.raises(CheckpointError, match=message):
        run_to(adapted(dataset, run, other, trainer__ema_decay=0.5), ranks, 6)
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    run_to(adapted(dataset, run, moved, trainer__ema_decay=0.5), ranks, 6)
    assert torch.equal(load_model(trained, base=moved)[0].bos_D, load_model(trained)[0].bos_D)


def test_a_missing_base_and_adapters_over_adapters_are_refused_in_one_line(
    dataset: Path, base: Path, trained: Path, ranks: Ranks, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"holds adapters alone, and their base .*no checkpoint here.* --base"):
        load_model(trained, base=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"hold adapters, and this run is to add more; merge .*convert merge"):
        run_to(adapted(dataset, tmp_path / "run", trained), ranks, 1)
    with pytest.raises(CheckpointError, match=r"lora_targets is \['\*'\] there and \['lm\.\*'\] in this run"):
        run_to(adapted(dataset, trained, base, {"lora_targets": ("lm.*",)}, trainer__ema_decay=0.5), ranks, 5)


def test_a_run_whose_checkpoints_hold_everything_goes_on_so(dataset, base, ranks, tmp_path: Path) -> None:
    """Runs of before, and adapters of random weights, which lie nowhere else."""
    config = replace(tiny_config(dataset, tmp_path / "run"), finetune=FinetuneConfig(lora_rank=2))
    run_to(config, ranks, 2)
    run_to(config, ranks, 4)
    assert "lm.layers.0.ffn.down.weight" in read(tmp_path / "run", 4)["model.safetensors"]
    assert set(load_model(tmp_path / "run")[0].state_dict()) == set(SongModel(config.model).state_dict())
    assert convert(["adapters", str(tmp_path / "run"), "--out", str(tmp_path / "peft")]) == 0
    assert len(load_file(tmp_path / "peft" / "adapter_model.safetensors")) == 16


def test_adapters_stand_on_released_weights_too(dataset, base, ranks, tmp_path: Path) -> None:
    released = tmp_path / "released.safetensors"
    whole = tmp_path / "whole.safetensors"
    config = tiny_config(dataset, tmp_path / "run")
    torch.manual_seed(3)
    model = SongModel(config.model)
    save_file(model.state_dict(), whole, {"config": json.dumps(config.to_dict())})
    assert convert(["export", str(whole), "--out", str(released)]) == 0
    run_to(adapted(dataset, tmp_path / "run", released, {"names": "reference"}), ranks, 2)
    found, _ = load_model(tmp_path / "run")
    assert torch.equal(found.bos_D, model.bos_D)
    assert found.latent_std_C.tolist() == [2.0] * 4, "of the songs that the adapters learned from"
    assert torch.equal(load_model(tmp_path / "run", base=whole)[0].bos_D, model.bos_D), "the same weights, our names"


def test_merged_weights_need_no_base(base: Path, trained: Path, tmp_path: Path, capsys) -> None:
    moved = tmp_path / "base.safetensors"
    shutil.copy(base / "step_000002" / "model.safetensors", moved)
    out = tmp_path / "merged.safetensors"
    assert convert(["merge", str(trained), "--base", str(moved), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == str(out)
    moved.unlink()
    merged, config = load_model(out)
    assert (config.finetune.lora_rank, config.finetune.weights) == (0, "")
    expected = load_model(trained)[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.state_dict().items())
    assert convert(["merge", str(trained), "--base", str(moved), "--out", str(tmp_path / "none.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_adapters_are_exported_as_peft_reads_them(base: Path, trained: Path, tmp_path: Path, capsys) -> None:
    assert convert(["adapters", str(trained), "--out", str(tmp_path)]) == 0
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    below, merged = load_file(base / "step_000002" / "model.safetensors"), load_model(trained)[0]
    assert len(tensors) == 2 * len(described["target_modules"]) == 16
    for name in described["target_modules"]:
        up, down = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA")
        weight = below[f"{name}.weight"] + described["lora_alpha"] / described["r"] * up @ down
        assert_close(weight, merged.get_parameter(f"{name}.weight"), rtol=0, atol=1e-6)
    assert convert(["adapters", str(base), "--out", str(tmp_path / "none")]) == 2
    assert "has no adapters: its finetune.lora_rank is 0\n" in capsys.readouterr().err


def test_what_is_dropped_depends_on_song_and_place_alone(dataset: Path, ranks: Ranks, tmp_path: Path) -> None:
    """Five songs in one forward pass, in three, and one by one: the same step; in validation nothing is dropped."""

    def train(micro_batch_size: int, dropout: float, seed: int = 1) -> tuple[float, float, float, float]:
        config = replace(
            tiny_config(
                dataset, tmp_path, trainer__micro_batch_size=micro_batch_size, trainer__seed=seed,
                trainer__checkpoint_activations="selective", model__dropout={"blocks": 0.5},
            ),
            finetune=FinetuneConfig(lora_rank=4, lora_dropout=dropout),
        )  # fmt: skip
        torch.manual_seed(0)
        model = SongModel(config.model)
        choose_trained(model, config.finetune)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_up_OR"):
                    parameter.normal_(std=5.0)
        trainer = Trainer(model, config, ranks)
        batches = Batches(read_index(dataset), ShardReader(dataset), config, "train")
        held_out = Batches(read_index(dataset), ShardReader(dataset), config, "val").validation_batch(0, 1)
        before = trainer.evaluate(held_out).total.loss
        result = trainer.train_step(batches.train_batch(0, 0, 1), 0)
        trainer.close()
        return before, result.losses.ce, result.losses.flow, result.grad_norm

    whole, split, single = (train(size, 0.4) for size in (5, 2, 1))
    assert split == pytest.approx(whole, rel=1e-5)
    assert single == pytest.approx(whole, rel=1e-5)
    without, other_seed = train(5, 0.0), train(5, 0.4, seed=2)
    assert whole[0] == without[0], "validation"
    assert other_seed[0] == whole[0]
    for number in (1, 2):
        assert abs(whole[number] / without[number] - 1) > 1e-4
        assert abs(whole[number] / other_seed[number] - 1) > 1e-4
