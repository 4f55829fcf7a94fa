"""Bytes that layers and head move, compiled and not, at most 0.6 of what they moved when nothing was fused."""

import json

import pytest
import torch

from model.bench import bytes as bench_bytes
from model.bench.__main__ import main
from model.bench.bytes import ByteCounter, Traffic, count_head, count_layer, expect_mfu
from model.settings.settings import load_config
from model.training.traffic import MOVED_PER_LOGIT, MOVED_VECTORS

# What PyTorch's separate operations moved in torch 2.8.0, products and attention included; of the head, with a
# cross-entropy per chunk by autograd.
BEFORE = {"lm": 470.0, "dit": 283.0}
HEAD_BEFORE = 82.0
LIMIT = 0.6


def test_operations_are_counted_by_what_they_touch() -> None:
    counter, x = ByteCounter(), torch.randn(4, 6)
    with counter:
        y = x.t() * 2  # a view is free
        y += x[0].expand(6, 6)[:, :4]
        torch.empty(100).zero_()
    assert counter.bytes == {"mul": 96 + 96, "add_": 96 + 16 + 96, "zero_": 400}


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["lm", "dit"])
def test_compiled_layers_move_less(stack: str) -> None:
    number = ("lm", "dit").index(stack)
    plain, compiled = (count_layer(stack, "cheap", is_compiled=way) for way in (False, True))
    assert plain.other == pytest.approx(MOVED_VECTORS[False]["cheap"][number], rel=0.01)
    assert compiled.other == pytest.approx(MOVED_VECTORS[True]["cheap"][number], rel=0.03)
    assert compiled.total <= LIMIT * BEFORE[stack]
    assert compiled.kept == pytest.approx(plain.kept, rel=0.01), "what is cheap is computed again, compiled or not"


@pytest.mark.slow
def test_the_head_moves_its_logits_less() -> None:
    plain, compiled = (count_head(is_compiled=way) for way in (False, True))
    assert compiled <= LIMIT * HEAD_BEFORE
    assert plain <= LIMIT * HEAD_BEFORE
    products = 12  # logits twice, read for three gradients in bf16
    assert plain - products == pytest.approx(MOVED_PER_LOGIT[False], rel=0.05)
    assert compiled - products == pytest.approx(MOVED_PER_LOGIT[True], rel=0.1)


def test_large_configurations_compile_wherever_they_can() -> None:
    for name in ("full.yaml", "long.yaml", "paper.yaml", "tiny.yaml"):
        for stage, compiles in ((1, True), (2, True), (3, False)):
            sums = ["deepspeed.data_types.grad_accum_dtype=bf16"] if stage == 1 else []
            run = load_config(name, [f"trainer.zero_stage={stage}", *sums])
            assert run.compiles_layers("cuda") == compiles
            assert not run.compiles_layers("cpu")
    assert load_config("miniature.yaml", ["trainer.compile_layers=true"]).compiles_layers("cpu")


def test_the_aim_is_within_the_roofline_when_layers_are_compiled() -> None:
    plain, compiled = (expect_mfu("H100", is_compiled=way, recompute="cheap") for way in (False, True))
    assert plain["mfu"] < 1.1 * plain["aim"], "products never run at the datasheet's peak"
    assert compiled["mfu"] > 1.6 * compiled["aim"]
    assert compiled["products"] == plain["products"]


def test_the_table_has_a_line_per_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_bytes, "count_layer", lambda stack, recompute, is_compiled: Traffic(1.0, 2.0, 3.0, 4.0))
    monkeypatch.setattr(bench_bytes, "count_head", lambda is_compiled: 5.0)
    parts = ("products", "attention", "moved_bytes", "optimizer", "communication", "total", "mfu", "aim")
    monkeypatch.setattr(bench_bytes, "expect_mfu", lambda name, **_: dict.fromkeys(parts, 7.0))
    assert main(["bytes", "--recompute", "selective"]) == 0
    table = capsys.readouterr().out
    assert table.count("| compiled | 1.0 | 2.0 | 3.0 | 6.0 | 4.0 |") == 2
    assert table.count("| 7.000 | 7.0 % | 7 % |") == 4
    summary = json.loads(table.splitlines()[-1])
    assert (summary["recompute"], summary["bytes_per_logit"]) == ("selective", {"not compiled": 5.0, "compiled": 5.0})
