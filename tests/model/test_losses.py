"""Tests of model/losses.py."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from model.losses import SongOutput, score_tokens


@pytest.mark.parametrize("chunk_positions", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk_positions: int) -> None:
    torch.manual_seed(0)
    head, states, targets = nn.Linear(6, 9), torch.randn(7, 6, requires_grad=True), torch.randint(0, 9, (7,))
    logits = head(states)
    plain = nn.functional.cross_entropy(logits, targets, reduction="none")
    expected_gradients = torch.autograd.grad(plain.square().sum(), [states, *head.parameters()])
    ce, is_correct = score_tokens(linear, states, targets, tuple(head.parameters()), chunk_positions)
    assert_close(ce, plain)
    assert is_correct.tolist() == (logits.argmax(dim=1) == targets).tolist()
    for found, expected in zip(
        torch.autograd.grad(ce.square().sum(), [states, *head.parameters()]), expected_gradients, strict=True
    ):
        assert_close(found, expected)


def test_logits_of_many_positions_are_never_kept() -> None:
    saved: list[int] = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    head, states, targets = nn.Linear(6, 1000), torch.randn(8, 6, requires_grad=True), torch.zeros(8).long()
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        ce, _ = score_tokens(linear, states, targets, tuple(head.parameters()), chunk_positions=2)
        ce.sum().backward()
    assert saved
    assert max(n for n in saved if n != head.weight.numel()) <= 2 * 1000  # one chunk, in the backward pass


def test_chunks_give_the_bits_of_chunks_recomputed_one_by_one() -> None:
    """What a checkpoint around each chunk gave, which is the same arithmetic in the same order."""
    torch.manual_seed(0)
    head, states, targets = nn.Linear(64, 300), torch.randn(50, 64, requires_grad=True), torch.randint(0, 300, (50,))
    inputs = [states, *head.parameters()]
    ce, _ = score_tokens(linear, states, targets, tuple(head.parameters()), 8)
    found = torch.autograd.grad(ce.square().sum(), inputs)

    def score(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(states), targets, reduction="none")

    chunks = zip(states.split(8), targets.split(8), strict=True)
    plain = torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    assert torch.equal(ce, plain)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_frozen_weights_get_no_gradient_and_bfloat16_sums_are_exact() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(9, 6))
    states, targets = torch.randn(64, 6), torch.randint(0, 9, (64,))
    halves = weight.detach().bfloat16().requires_grad_()
    bias = torch.zeros(9, dtype=torch.bfloat16)
    ce, _ = score_tokens(linear, states.bfloat16(), targets, (halves, bias), 1)
    ce.sum().backward()
    exact, _ = score_tokens(linear, states.bfloat16().float(), targets, (weight, torch.zeros(9)), 64)
    exact.sum().backward()
    assert bias.grad is None
    error = (halves.grad.float() - weight.grad).norm() / weight.grad.norm()
    assert error < 8e-3, f"{error}: sums of 64 chunks kept in bfloat16 would be off by several percent"


def make_output(ce: list[float], targets: list[int], flow: list[float], blocks: list[int]) -> SongOutput:
    none = torch.zeros(len(ce), 0)
    return SongOutput(
        torch.tensor(ce), torch.tensor(targets), torch.zeros(len(ce)), torch.tensor(flow), torch.tensor(blocks),
        none, none, none,
    )  # fmt: skip


def test_loss_of_a_batch_does_not_depend_on_how_it_is_cut() -> None:
    whole = make_output([10.0, 4.0, 6.0], [5, 9, 17], [2.0, 3.0, 9.0], [1, 2, 4])
    parts = [
        make_output([10.0], [5], [2.0], [1]),
        make_output([4.0, 6.0], [9, 17], [3.0, 9.0], [2, 4]),
    ]
    assert_close(whole.loss(), torch.tensor(20 / 31 + 0.1 * 14 / 7))
    assert_close(sum(part.loss(num_targets=31, num_blocks=7) for part in parts), whole.loss())
    assert_close(whole.loss(flow_weight=0.0), torch.tensor(20 / 31))
