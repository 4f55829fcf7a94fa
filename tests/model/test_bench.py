"""Tests of `python -m model.bench`: what it runs, and what it makes of times."""

import json
from pathlib import Path

import pytest
import yaml

from model import bench_generate
from model.bench import list_benchmarks, main
from model.bench_generate import summarise
from model.config import ConditionsConfig, ModelConfig

from .tiny_dataset import tiny_config

TINY = ModelConfig(
    dim=32, num_heads=1, lm_layers=1, dit_layers=1, codebook_size=250, latent_channels=4, time_features=8,
    conditions=ConditionsConfig(prompt_frames=6),
)  # fmt: skip


def test_every_benchmark_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"generate", "step", "train", "trainer"} <= set(list_benchmarks())
    for arguments, message in (([], "no benchmark named"), (["speed"], "there is no benchmark 'speed'")):
        assert main(arguments) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert "generate" in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize(("one", "ok"), [(1.0, True), (1.3, False)])
def test_medians_are_compared_with_what_is_required(one: float, ok: bool) -> None:
    times = {"plain": [9.0, 2.4, 2.0], "concatenating": [1.5], "one": [one], "many": [0.5]}
    summary = summarise(times)
    assert summary["ok"] is ok
    assert summary["speedup"]["many_over_plain"] == 4.8
    assert summary["seconds_per_audio_second"]["plain"] == {"median": 2.4, "min": 2.0, "max": 9.0}


def test_all_ways_of_writing_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(bench_generate.SIZES, "medium", TINY)
    code = main(["generate", "--frames", "16", "--repeats", "1"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if summary["ok"] else 1)
    assert set(summary["seconds_per_audio_second"]) == {"plain", "concatenating", "one", "many"}
    assert all(times["median"] > 0 for times in summary["seconds_per_audio_second"].values())


def test_a_step_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_config(tmp_path, tmp_path).to_dict()))
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--songs", "2", "--repeats", "1", "--recompute", "selective"]
    assert main(["step", *arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 112  # 5 s in whole blocks
    assert summary["tflops_per_s"] == pytest.approx(summary["model_tflop"] / summary["step_s"]["median"])
    assert main(["step", "--config", "none.yaml"]) == 2


@pytest.mark.slow
def test_the_trainer_is_measured(rank_environment: None, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = ["model.dim=64", "model.num_heads=1", "model.lm_layers=1", "model.dit_layers=1", "data.max_crop_s=8"]
    options = [word for size in sizes for word in ("--set", size)]
    assert main(["trainer", "--config", "miniature.yaml", "--steps", "1", "--songs", "9", *options]) == 0
    figures = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert figures["step_s_median"] > 0
    assert figures["data_wait_share"] < 0.5
    assert figures["mfu"] is None, "the peak of a CPU is not known"
    assert main(["trainer", "--config", "fill.yaml"]) == 2
