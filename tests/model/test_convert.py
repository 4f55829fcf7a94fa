"""Tests of `python -m model.convert`: a released checkpoint and back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from model.convert import main
from model.network.song_model import SongModel
from model.weights.base_weights import load_model
from model.weights.reference_weights import export_reference
from tests.shards.damage import damage

from .tiny_dataset import tiny_config


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkpoint as released ones are: a trainer's root, a VAE under weight norm, and a second copy of it."""
    config = tiny_config(tmp_path / "data", tmp_path / "run")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.to_dict()))
    torch.manual_seed(0)
    weights = {f"model.{key}": value for key, value in export_reference(SongModel(config.model)).items()}
    vae = {"decoder.layers.0.weight_g": torch.ones(2, 1, 1), "decoder.layers.0.weight_v": torch.ones(2, 3, 1)}
    weights |= {f"vae.vae.{key}": value for key, value in vae.items()}
    copy = "model.condition_provider.conditioners.prompt_wav.tokenizer.vae"
    weights |= {f"{copy}.{key}": value for key, value in vae.items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "released.pt")
    return tmp_path / "released.pt"


def test_there_and_back(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = released.parent
    command = [
        "import",
        str(released),
        "--config",
        str(folder / "tiny.yaml"),
        "--out",
        str(folder / "ours.safetensors"),
    ]
    assert main([*command, "--vae-out", str(folder / "vae.safetensors")]) == 0
    done = json.loads(capsys.readouterr().out)
    assert len(done["unused_keys"]) == 4
    assert load_file(folder / "vae.safetensors").keys() == {
        "vae.vae.decoder.layers.0.weight_g",
        "vae.vae.decoder.layers.0.weight_v",
    }
    model, config = load_model(folder / "ours.safetensors")
    assert done["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (config.model.conditions.padding, config.model.conditions.null_lyrics) == ("fixed", "padding_symbol")
    assert config.model == replace(model.config)

    assert main(["export", str(folder / "ours.safetensors"), "--out", str(folder / "theirs.safetensors")]) == 0
    before = torch.load(released, weights_only=True)["state_dict"]
    for key, value in load_file(folder / "theirs.safetensors").items():
        assert torch.equal(value, before[f"model.{key}"]), key


def test_tensors_of_the_vae_may_share_their_values(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As PyTorch saves them; safetensors cannot."""
    content = torch.load(released, weights_only=True)
    values = torch.arange(8.0)
    content["state_dict"] |= {
        "vae.vae.first": values[:6].view(2, 3),
        "vae.vae.second": values[2:],
        "vae.vae.all": values,
    }
    torch.save(content, released)
    folder = released.parent
    command = [
        "import",
        str(released),
        "--config",
        str(folder / "tiny.yaml"),
        "--out",
        str(folder / "ours.safetensors"),
    ]
    assert main([*command, "--vae-out", str(folder / "vae.safetensors")]) == 0
    found = load_file(folder / "vae.safetensors")
    assert found["vae.vae.first"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["vae.vae.second"].tolist() == [2, 3, 4, 5, 6, 7]
    content["state_dict"]["vae.vae.first"] = torch.ones(2, dtype=torch.complex64)
    torch.save(content, released)
    assert main([*command, "--vae-out", str(folder / "vae.safetensors")]) == 2
    assert "vae.vae.first is of type torch.complex64, expected real numbers\n" in capsys.readouterr().err


def test_damaged_checkpoints_end_in_one_line(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = released.parent / "damaged.pt", released.parent
    command = ["import", str(path), "--config", str(folder / "tiny.yaml"), "--out", str(folder / "out.safetensors")]
    for changed in damage(released.read_bytes(), 40, seed=5):
        path.write_bytes(changed)
        code = main(command)
        errors = capsys.readouterr().err
        assert (code, errors.count("\n")) in ((0, 0), (2, 1))
        assert not errors or errors.startswith("model.convert: ")


def test_what_cannot_be_converted_is_said_in_one_line(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(message: str, *command: str) -> None:
        assert main([*command, "--out", str(tmp_path / "out.safetensors")]) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1
        assert not (tmp_path / "out.safetensors").exists()

    tiny = str(tmp_path / "tiny.yaml")
    refuse("none.pt is missing", "import", str(tmp_path / "none.pt"), "--config", tiny)
    refuse("has shape", "import", str(released), "--config", tiny, "--set", "model.codebook_size=99")
    refuse("keys are missing", "import", str(released), "--config", tiny, "--set", "model.lm_layers=9")
    refuse("no checkpoint here", "export", str(tmp_path))
    bare = export_reference(SongModel(tiny_config(tmp_path, tmp_path).model))
    save_file(bare, tmp_path / "bare.safetensors")
    refuse(
        "holds no VAE", "import", str(tmp_path / "bare.safetensors"), "--config", tiny, "--vae-out", str(tmp_path / "v")
    )
