"""Every ZeRO stage on two and three ranks, whose songs and chunks of logits differ in number. Real processes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.training.ranks import Ranks

from ..processes import run_ranks
from ..zero_process import CASES, name_case, play_case

Results = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def reference(dataset: Path, ranks: Ranks) -> Results:
    """The same on one rank in float32, without ZeRO; test_trainer.py compares that with plain PyTorch."""
    return play_case(dataset, ranks, "fp32", 0, False)


@pytest.fixture(scope="module")
def results(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Results]:
    out = tmp_path_factory.mktemp("zero")
    run_ranks("zero_process.py", dataset, out, 3, 2, TORCH_DISTRIBUTED_DEBUG="DETAIL")
    return {world_size: load_file(out / f"ranks_{world_size}.safetensors") for world_size in CASES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "case"),
    [(world_size, case) for world_size, cases in CASES.items() for case in cases],
    ids=lambda value: name_case(*value) if isinstance(value, tuple) else str(value),
)
def test_any_ranks_make_the_same_step(
    results: dict[int, Results], reference: Results, world_size: int, case: tuple[str, int, object]
) -> None:
    found = {name: results[world_size][f"{name_case(*case)}/{name}"] for name in ("losses", "exp_avg")}
    is_exact = case[0] == "fp32"
    # The order of additions differs; AdamW's first step divides by |gradient|, which makes more of it where that is ~0.
    before, loss, norm, after, averaged = (1e-6, 1e-6, 1e-5, 1e-5, 1e-5) if is_exact else (5e-3, 5e-3, 5e-2, 1e-2, 1e-2)
    limits = torch.tensor([before, loss, norm, after, averaged], dtype=torch.float64)
    errors = (found["losses"] / reference["losses"] - 1).abs()
    assert (errors < limits).all(), errors.tolist()
    expected = reference["exp_avg"].double()
    error = float((found["exp_avg"].double() - expected).norm() / expected.norm())
    assert error < (1e-6 if is_exact else 0.05), f"gradients differ by {error:.1e}"


@pytest.mark.slow
def test_average_weights_give_another_loss(reference: Results) -> None:
    before, _, _, after, averaged = reference["losses"].tolist()
    assert len({before, after, averaged}) == 3
