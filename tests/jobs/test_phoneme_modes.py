"""Lyrics are spelled as the weights know them: from released weights to generation, extraction and training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.extract_tokens import read_phoneme_mode
from jobs.generate import read_lyric_ids
from jobs.song_orders import Order
from model.convert import main as convert
from model.network.config import ConfigError
from model.network.song_model import SongModel
from model.settings.settings import RunConfig, config_from_dict, load_config
from model.training.run_start import refuse_other_data
from model.weights.base_weights import load_model, read_base
from model.weights.checkpoint import CheckpointError
from model.weights.reference_weights import export_reference
from pipeline.encoding.encode_song import MODELS, SongEncoder, describe_models
from pipeline.input_file import InputError
from pipeline.model_files.profiles import get_profile, locate_models
from pipeline.phonemes.phonemizer import Phonemizer
from shards.dataset_info import DatasetInfo

SIZES = ("dim=64", "num_heads=1", "lm_layers=1", "dit_layers=1", "ffn_scale=2", "time_features=16")
LYRICS = "[verse] I live in a house. 2 Live nights"  # what both modes read differently


def with_mode(config: RunConfig, mode: str) -> RunConfig:
    conditions = replace(config.model.conditions, phonemes=mode)
    return replace(config, model=replace(config.model, conditions=conditions))


@pytest.fixture(scope="module")
def tiny() -> RunConfig:
    return load_config("miniature.yaml", [f"model.{size}" for size in SIZES])


@pytest.fixture(scope="module")
def released(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights under the reference's names, and what `model.convert import` makes of them."""
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    save_file(export_reference(SongModel(tiny.model)), folder / "released.safetensors")
    sizes = [text for size in SIZES for text in ("--set", f"model.{size}")]
    arguments = ["--config", "miniature.yaml", *sizes, "--out", str(folder / "ours.safetensors")]
    assert convert(["import", str(folder / "released.safetensors"), *arguments]) == 0
    return folder


def test_imported_weights_are_generated_from_as_they_were_trained(released: Path):
    model, _ = load_model(released / "ours.safetensors")
    order = Order(LYRICS, Path("a.wav"), 0.0, 0, Path("a.flac"))
    (ids,) = read_lyric_ids([order], model.config.conditions.phonemes)
    assert ids == Phonemizer("reference").lyric_ids(LYRICS).ids
    assert ids != Phonemizer("plain").lyric_ids(LYRICS).ids


def test_extraction_takes_a_mode_or_that_of_a_checkpoint(released: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(released)
    assert [read_phoneme_mode(name) for name in ("plain", "reference", "ours.safetensors")] == [
        "plain",
        "reference",
        "reference",
    ]
    with pytest.raises(InputError, match="--phonemes arpabet: expected plain or reference, or a checkpoint"):
        read_phoneme_mode("arpabet")
    with pytest.raises(InputError, match=r"released\.safetensors: its metadata holds no configuration"):
        read_phoneme_mode("released.safetensors")


def describe(mode: str) -> DatasetInfo:
    models = describe_models(locate_models(get_profile("miniature"), MODELS), mode)  # type: ignore[arg-type]
    return DatasetInfo.from_rows([], latent_mean=[0.0] * 64, latent_std=[1.0] * 64, models=models, fingerprint="f")


def test_the_encoder_spells_in_its_mode():
    encoder = SongEncoder(get_profile("miniature"), phonemes="reference")
    assert encoder._phonemizer.mode == "reference"


@pytest.mark.parametrize(("of_data", "of_model"), [("plain", "reference"), ("reference", "plain")])
def test_a_dataset_of_another_mode_is_refused(tiny: RunConfig, of_data: str, of_model: str):
    info = describe(of_data)
    assert info.phoneme_mode == of_data
    refuse_other_data(info, with_mode(tiny, of_data), "shards")
    with pytest.raises(ConfigError, match=rf"mode '{of_data}', .*--phonemes {of_model}$"):
        refuse_other_data(info, with_mode(tiny, of_model), "shards")


def test_fine_tuning_needs_the_mode_of_its_weights(tiny: RunConfig, released: Path):
    """Of a released file, of an imported one, and of our own under the reference's names, which keep their mode."""

    def tuned(path: Path, mode: str, names: str) -> RunConfig:
        finetune = replace(tiny.finetune, weights=str(path), names=names)
        return replace(with_mode(tiny, mode), finetune=finetune)

    theirs, ours = released / "released.safetensors", released / "ours.safetensors"
    assert read_base(tuned(theirs, "reference", "reference"), theirs)
    with pytest.raises(CheckpointError, match="phoneme mode 'reference', but model.conditions.phonemes is 'plain'"):
        read_base(tuned(theirs, "plain", "reference"), theirs)
    with pytest.raises(CheckpointError, match=r"of another model: model\.conditions\."):
        read_base(tuned(ours, "plain", "own"), ours)
    plain = released / "plain.safetensors"
    save_file(load_file(ours), plain, {"config": json.dumps(tiny.to_dict())})
    assert config_from_dict(tiny.to_dict(), "x").model.conditions.phonemes == "plain"
    assert convert(["export", str(plain), "--out", str(released / "again.safetensors")]) == 0
    again = released / "again.safetensors"
    assert read_base(tuned(again, "plain", "reference"), again)
