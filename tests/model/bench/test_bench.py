"""Tests of `python -m model.bench`: what it runs, and what it makes of times."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from model.bench import generate as bench_generate
from model.bench import gpu as bench_gpu
from model.bench.__main__ import BENCHMARKS, main
from model.bench.generate import summarise
from model.network.config import ConditionsConfig, ConfigError, ModelConfig
from model.settings.settings import RunConfig
from model.training.ranks import Ranks
from model.training.roofline import find_data_sheet

from ..tiny_dataset import tiny_config

TINY = ModelConfig(
    dim=32, num_heads=1, lm_layers=1, dit_layers=1, codebook_size=250, latent_channels=4, time_features=8,
    conditions=ConditionsConfig(prompt_frames=6),
)  # fmt: skip


def test_every_benchmark_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"generate", "gpu", "step", "train", "trainer"} <= set(BENCHMARKS)
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


def test_everything_for_gpus_runs_at_miniature_size(
    rank_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on an A100 as far as arithmetic goes; one part fails, as for want of memory, and the others are measured."""
    monkeypatch.setattr(bench_gpu, "find_data_sheet", lambda _: find_data_sheet("NVIDIA A100-SXM4-80GB"))
    steps = bench_gpu.measure_steps

    def fail_once(config: RunConfig, *arguments: object) -> dict[str, object]:
        if config.trainer.checkpoint_activations == "selective":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if config.trainer.checkpoint_activations is True:
            raise ConfigError("no compiler")
        return steps(config, *arguments)

    monkeypatch.setattr(bench_gpu, "measure_steps", fail_once)
    assert main(["gpu", "--device", "cpu", "--out", str(tmp_path / "made")]) == 1, "a part has failed"
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert summary == json.loads((tmp_path / "made/gpu.json").read_text())
    assert summary["problems"] == ["training: whole layers, 2 songs: ConfigError: no compiler"]
    figures = {(figure["part"], figure["name"]): figure for figure in summary["figures"]}
    agreement = [figure for (part, _), figure in figures.items() if part == "agreement"]
    assert len(agreement) == 4
    assert all(figure["measured"] <= figure["expected"] for figure in agreement)
    step = figures["training: cheap, 1 song", "step"]
    assert 0 < step["expected"] < step["measured"], "a CPU is slower than an A100 can be"
    assert figures["training: cheap, 1 song", "MFU"]["note"] == "the aim is 50 %"
    assert 0 < figures["training: cheap, 1 song", "MFU"]["expected"] < 100
    memory = figures["training: selective, 2 songs", "peak memory"]
    assert (memory["measured"], memory["note"]) == (None, "out of memory")
    for name in ("one song", "8 at once"):
        writing = figures[f"writing: {name}", "real-time factor"]
        assert 0 < writing["expected"] < writing["measured"]
        tokens = figures[f"writing: {name}", "tokens"]
        assert tokens["measured"] == pytest.approx(25 / writing["measured"])
    slow = figures["16 NVIDIA A100-SXM4-80GB, 1 x 100 Gb/s a node", "sending"]
    fast = figures["16 NVIDIA A100-SXM4-80GB, 8 x 200 Gb/s a node", "sending"]
    assert slow["expected"] == pytest.approx(16 * fast["expected"])
    assert slow["measured"] is None
    table = (tmp_path / "made/gpu.md").read_text()
    assert "Figures by arithmetic are not measured" in table
    assert "| training: selective, 2 songs | peak memory | - |" in table
    assert "- training: whole layers, 2 songs: ConfigError: no compiler" in table


def test_a_wrong_result_is_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_gpu.TOLERANCES, "loss, bfloat16", 1e-9)
    notes = {figure.name: figure.note for figure in bench_gpu.check_agreement("cpu")}
    assert notes == {
        "loss, float32": "ok", "gradient, float32": "ok", "loss, bfloat16": "FAIL", "attention, bfloat16": "ok",
    }  # fmt: skip


def test_what_would_take_too_long_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_gpu, "LIMIT_S", -1.0)
    plan = bench_gpu.Plan(
        device="cpu", sheet=None, config="miniature.yaml", overrides=bench_gpu.MINIATURE, num_ranks=2, folder=tmp_path
    )
    figures, problems = bench_gpu.run_parts(plan, Ranks(rank=0, world_size=1, device=torch.device("cpu")))
    assert not figures
    assert len(problems) == 1 + 3 + 1 + 3 + 1, "agreement, settings, writing, ZeRO, several nodes"
    assert problems[-2] == "ZeRO 3: left out, as 0 s have passed"


def test_folders_that_cannot_be_made_are_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["gpu", "--device", "cpu", "--out", str(tmp_path / "file/made")]) == 2
    assert "file/made" in capsys.readouterr().err


@pytest.mark.slow
def test_several_ranks_are_measured(tmp_path: Path) -> None:
    plan = bench_gpu.Plan(
        device="cpu", sheet=find_data_sheet("NVIDIA A100-SXM4-80GB"), config="miniature.yaml",
        overrides=bench_gpu.MINIATURE, num_ranks=2, folder=tmp_path,
    )  # fmt: skip
    figures = {figure.name: figure for figure in bench_gpu.measure_ranks(plan, 3)}
    link = figures["link"]
    assert link.measured is not None
    assert link.measured > 0
    assert link.expected == 300
    sent = figures["sent in a step"]
    assert sent.measured is not None
    assert sent.expected is not None
    assert sent.measured * link.measured == pytest.approx(sent.expected * link.expected)
    assert "GB by arithmetic" in sent.note


def test_ranks_that_fail_say_why(tmp_path: Path) -> None:
    plan = bench_gpu.Plan(
        device="cpu", sheet=None, config="miniature.yaml",
        overrides=(*bench_gpu.MINIATURE, "finetune.freeze=[nothing]"), num_ranks=1, folder=tmp_path,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"1 ranks with ZeRO 2 ended with exit code 1: .*exitcode *: 2"):
        bench_gpu.measure_ranks(plan, 2)
