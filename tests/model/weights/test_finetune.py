"""Fine-tuning: from given weights, with a new codebook, adapters or frozen parts; and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.network.config import ConfigError
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, RunConfig
from model.training.ranks import Ranks
from model.training.training_run import TrainingRun
from model.weights.base_weights import CODEBOOK_PARAMETERS
from model.weights.checkpoint import CheckpointError
from model.weights.finetune import choose_trained, start_from
from model.weights.reference_weights import export_reference

from ..tiny_dataset import build_song, tiny_config, write_tiny_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), [build_song(number) for number in range(5)])


@pytest.fixture(scope="module")
def other_codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    songs = [build_song(number) for number in range(5)]
    return write_tiny_dataset(tmp_path_factory.mktemp("codes"), songs, codes=40)


@pytest.fixture(scope="module")
def base(dataset: Path, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "run"
    train(tiny_config(dataset, folder), ranks, 2)
    return folder


def train(config: RunConfig, ranks: Ranks, step: int) -> None:
    TrainingRun(config, lambda: ranks, max_steps=step).run()


def tuned(dataset: Path, folder: Path, base: Path, stage: int = 0, **finetune: Any) -> RunConfig:
    config = tiny_config(dataset, folder, trainer__zero_stage=stage)
    return replace(config, finetune=FinetuneConfig(weights=str(base), **finetune))


def changed(before: Path, after: Path) -> set[str]:
    old, new = (load_file(path) for path in (before, after))
    return {name for name in new if name not in old or not torch.equal(old[name], new[name])}


def test_a_new_codebook_starts_anew_and_the_rest_does_not(base: Path, other_codes: Path, ranks: Ranks, tmp_path: Path):
    config = tuned(other_codes, tmp_path / "run", base, new_codebook=True)
    config = replace(config, model=replace(config.model, codebook_size=40))
    torch.manual_seed(5)
    model = SongModel(config.model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    start_from(model, config, Path(config.finetune.weights))
    source = load_file(base / "step_000002" / "model.safetensors")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name] if name in CODEBOOK_PARAMETERS else source[name]), name
    train(config, ranks, 2)
    with_lora = replace(config, finetune=replace(config.finetune, lora_rank=2))
    choose_trained(model, with_lora.finetune)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(CODEBOOK_PARAMETERS) <= trained
    assert "lm.layers.0.ffn.down.weight" not in trained


@pytest.mark.parametrize("stage", [0, 1])
def test_what_is_frozen_by_name_does_not_move(dataset: Path, base: Path, ranks: Ranks, tmp_path: Path, stage: int):
    train(tuned(dataset, tmp_path / "run", base, stage, freeze=("lm.*", "semantic_table.weight")), ranks, 2)
    moved = changed(*(folder / "step_000002" / "model.safetensors" for folder in (base, tmp_path / "run")))
    assert "dit.layers.0.ffn.down.weight" in moved
    assert "semantic_head.classify.weight" in moved
    assert not [name for name in moved if name.startswith("lm.") or name == "semantic_table.weight"]


def test_weights_under_reference_names_are_a_start_too(dataset: Path, tmp_path: Path):
    torch.manual_seed(3)
    config = tuned(dataset, tmp_path / "run", tmp_path / "released.safetensors", names="reference")
    released = SongModel(config.model)
    save_file(export_reference(released), tmp_path / "released.safetensors", {"phonemes": "plain"})
    torch.manual_seed(4)
    model = SongModel(config.model)
    start_from(model, config, Path(config.finetune.weights))
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in released.state_dict().items())


def test_what_cannot_be_tuned_is_refused(dataset: Path, base: Path, tmp_path: Path):
    config = tuned(dataset, tmp_path / "run", base)
    deeper = replace(config, model=replace(config.model, lm_layers=2))
    with pytest.raises(CheckpointError, match=r"another model: model\.lm_layers is 1 there and 2 in this run"):
        start_from(SongModel(deeper.model), deeper, base)
    more_codes = replace(config, model=replace(config.model, codebook_size=40))
    with pytest.raises(CheckpointError, match=r"codebook_size is 32 there and 40 .*new_codebook learns another"):
        start_from(SongModel(more_codes.model), more_codes, base)
    model = SongModel(config.model)
    with pytest.raises(ConfigError, match=r"'lmm\.\*' matches no parameter; they are named like"):
        choose_trained(model, FinetuneConfig(freeze=("lmm.*",)))
    with pytest.raises(ConfigError, match="nothing is left to train"):
        choose_trained(model, FinetuneConfig(freeze=("*",)))
    with pytest.raises(ConfigError, match="random ones have no codebook"):
        FinetuneConfig(new_codebook=True)
