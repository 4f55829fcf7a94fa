"""Tests of model/sampling/token_choice.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from model.sampling.token_choice import choose, keep_top_k, keep_top_p, penalise_repeats


def test_truncation_matches_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    full = (parts["topk/logits"] / 0.9).softmax(dim=-1)
    assert_close(full, parts["topk/probs_full"])
    assert_close(keep_top_k(full, 20), parts["topk/probs"])
    assert (keep_top_k(full, 20) > 0).sum(dim=1).tolist() == [20, 24, 20]  # ties with the 20th stay
    assert_close(keep_top_p(full, 0.9), parts["topp/probs"])


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    probs = torch.tensor([[0.2, 0.8]])
    assert_close(keep_top_k(probs, 200), probs)


@pytest.mark.parametrize(("uniform", "expected"), [(1e-12, 1), (0.25, 1), (0.2501, 3), (1.0, 3)])
def test_choice_by_hand(uniform: float, expected: int) -> None:
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert choose(probs, torch.tensor([uniform], dtype=torch.float64)).tolist() == [expected]


def test_choice_follows_the_distribution() -> None:
    probs = torch.tensor([[0.1, 0.0, 0.6, 0.3]])
    uniform = 1 - torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen = choose(probs.expand(20_000, -1), uniform)
    assert_close(chosen.bincount(minlength=4) / 20_000, probs[0], rtol=0, atol=0.015)


def test_penalty_lowers_recent_codes_once_and_spares_eos() -> None:
    logits = torch.tensor([[2.0, -2.0, 3.0, 5.0]])  # the last id is EOS
    recent = torch.tensor([[0, 0, 1, 3]])
    assert_close(penalise_repeats(logits, recent, 2.0, "by_sign"), torch.tensor([[1.0, -4.0, 3.0, 5.0]]))
    # The reference divides, so an unlikely code becomes likelier.
    assert_close(penalise_repeats(logits, recent, 2.0, "divide"), torch.tensor([[1.0, -1.0, 3.0, 5.0]]))
