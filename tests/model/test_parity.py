"""Tests of `python -m model.parity`, and with it the parity of the whole model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.parity import NOT_COMPARABLE, main, relative_error, share_different


@pytest.fixture
def fixture_folder(shared: Path, tmp_path: Path) -> Path:
    """A copy of one training and one generation case, to damage."""
    source, folder = shared / "reference/dev_prepend", tmp_path / "fixture"
    for name in ("config.json", "weights.safetensors"):
        folder.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    for case in ("ragged", "gen_eos"):
        shutil.copytree(source / case, folder / case, copy_function=shutil.copyfile)
    return folder


def test_the_model_matches_the_reference(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([str(shared / "reference/dev_prepend")])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["failed"] == []
    assert code == 0
    assert summary["cases"] == ["equal", "gen", "gen_eos", "gen_penalty", "ragged"]
    errors = summary["largest_relative_error"]
    assert errors["tokens"] == errors["ar_target"] == 0
    for quantity in ("lm_hidden", "ar_logit", "nar_pred", "loss", "latents", "own_prefix_ar_logit", "grad_norm"):
        assert errors[quantity] < 5e-6, quantity


def test_a_wrong_weight_is_found(fixture_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(fixture_folder / "weights.safetensors")
    weights["ar_transformer.norm.weight"] = weights["ar_transformer.norm.weight"] * 1.01
    save_file(weights, fixture_folder / "weights.safetensors")
    assert main([str(fixture_folder)]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "ragged/lm_hidden" in summary["failed"]
    assert "ragged/cond_lyrics" not in summary["failed"]


def test_what_is_no_fixture_is_refused_in_one_line(
    fixture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path, message: str) -> None:
        assert main([str(folder)]) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1

    refuse(tmp_path / "nowhere", "config.json is missing")
    config = json.loads((fixture_folder / "config.json").read_text(encoding="utf-8"))
    (fixture_folder / "weights.safetensors").rename(tmp_path / "weights.safetensors")
    refuse(fixture_folder, "weights.safetensors is missing")
    (tmp_path / "weights.safetensors").rename(fixture_folder / "weights.safetensors")
    for section, key, value, message in (
        ("model", "backend", "bart", "backend is 'bart', this project builds 'llama'"),
        ("model", "dim", 100, "weights"),
        ("lyrics", "mode", "concat", "lyrics mode is 'concat'"),
    ):
        changed = config | {section: config[section] | {key: value}}
        (fixture_folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        refuse(fixture_folder, message if key != "dim" else "has shape")
    (fixture_folder / "config.json").write_text("[]", encoding="utf-8")
    refuse(fixture_folder, "holds a list, expected an object")


def test_errors_are_relative_and_never_hidden() -> None:
    expected = torch.tensor([1.0, -4.0])
    assert relative_error(torch.tensor([1.0, -3.0]), expected) == 0.25
    assert relative_error(torch.tensor([1.0]), expected) == NOT_COMPARABLE
    assert relative_error(torch.tensor([1.0, float("nan")]), expected) == NOT_COMPARABLE
    assert share_different(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert share_different(torch.tensor([1]), torch.tensor([1, 2])) == 1.0
