"""The parity command: exit codes, its last line, and that it can fail."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.numpy import load_file, save_file

from pipeline.parity import main


@pytest.fixture
def fixture(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "reference" / "dev_vae", tmp_path / "vae", copy_function=shutil.copyfile))


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    result: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def change(path: Path, name: str, factor: float) -> None:
    path.chmod(0o644)
    arrays = load_file(path)
    arrays[name] = (arrays[name] * factor).astype(arrays[name].dtype)
    save_file(arrays, path)


def test_fixture_within_tolerance(fixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(fixture)]) == 0
    result = last_line(capsys)
    assert result["ok"] is True
    assert set(result["relative_errors"]) == {"mean", "std", "decoded"}  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["mean", "std", "decoded"])
def test_fixture_out_of_tolerance(fixture: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change(fixture / "expected.safetensors", name, 1.001)
    assert main([str(fixture)]) == 1
    result = last_line(capsys)
    assert result["ok"] is False
    assert result["relative_errors"][name] == pytest.approx(0.001, rel=0.02)  # type: ignore[index]


def test_another_network_is_out_of_tolerance(fixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(fixture / "weights.safetensors", "encoder.layers.3.layers.1.layers.1.weight_g", 1.01)
    assert main([str(fixture)]) == 1
    assert last_line(capsys)["ok"] is False


@pytest.mark.parametrize("damage", ["no weights", "no inputs", "no latent", "nan", "wrong shape"])
def test_damaged_fixtures_are_wrong_use(fixture: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    if damage == "no weights":
        (fixture / "weights.safetensors").unlink()
    elif damage == "no inputs":
        (fixture / "inputs.safetensors").unlink()
    else:
        path = fixture / ("inputs.safetensors" if damage == "no latent" else "expected.safetensors")
        path.chmod(0o644)
        arrays = load_file(path)
        if damage == "no latent":
            del arrays["latent"]
        elif damage == "nan":
            arrays["mean"][0] = float("nan")
        else:
            arrays["mean"] = arrays["mean"][..., 1:].copy()
        save_file(arrays, path)
    with pytest.raises(SystemExit) as stopped:
        main([str(fixture)])
    assert stopped.value.code == 2
    assert "safetensors" in (message := capsys.readouterr().err) or "the fixture expects" in message


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["a", "b"], ["--wrong"]])
def test_wrong_use(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize("is_ok", [True, False])
def test_phonemes_are_checked_by_their_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_ok: bool
) -> None:
    fake = ModuleType("pipeline.phonemes.fixtures")
    fake.check_g2p = lambda path: {"fixture": path.name, "ok": is_ok}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.phonemes.fixtures", fake)
    (tmp_path / "g2p.jsonl").write_text("{}\n")
    assert main([str(tmp_path / "g2p.jsonl")]) == (0 if is_ok else 1)
    assert last_line(capsys) == {"fixture": "g2p.jsonl", "ok": is_ok}
