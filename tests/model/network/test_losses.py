"""Tests of model/network/losses.py."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.network.losses import SongOutput, score_tokens


@pytest.mark.parametrize("chunk_positions", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk_positions: int) -> None:
    torch.manual_seed(0)
    head, states, targets = nn.Linear(6, 9), torch.randn(7, 6, requires_grad=True), torch.randint(0, 9, (7,))
    logits = head(states)
    plain = nn.functional.cross_entropy(logits, targets, reduction="none")
    expected_gradients = torch.autograd.grad(plain.square().sum(), [states, *head.parameters()])
    ce, is_correct = score_tokens(states, targets, head.weight, head.bias, chunk_positions)
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
        ce, _ = score_tokens(states, targets, head.weight, head.bias, chunk_positions=2)
        ce.sum().backward()
    assert saved
    assert max(n for n in saved if n != head.weight.numel()) <= 1000  # states, targets and biases


@pytest.mark.parametrize("chunk_positions", [8, 50])
@pytest.mark.parametrize("power", [1, 2])
def test_gradients_are_those_of_logits_at_once(chunk_positions: int, power: int) -> None:
    """The derivative is written out by hand, in chunks or kept; positions with gradients of their own (power 2)."""
    torch.manual_seed(0)
    head, states, targets = nn.Linear(64, 300), torch.randn(50, 64, requires_grad=True), torch.randint(0, 300, (50,))
    inputs = [states, *head.parameters()]
    ce, _ = score_tokens(states, targets, head.weight, head.bias, chunk_positions)
    found = torch.autograd.grad(ce.pow(power).sum() / 7, inputs)
    plain = nn.functional.cross_entropy(head(states), targets, reduction="none")
    expected = torch.autograd.grad(plain.pow(power).sum() / 7, inputs)
    assert_close(ce, plain, rtol=1e-6, atol=1e-6)
    for pair in zip(found, expected, strict=True):
        assert_close(*pair, rtol=1e-6, atol=1e-6)


def test_a_loss_of_nearly_nothing_is_exact() -> None:
    logits = torch.tensor([[30.0, 10.0, 0.0]])
    ce, _ = score_tokens(torch.eye(3)[:1], torch.tensor([0]), logits.t() @ torch.eye(3)[:1], torch.zeros(3))
    assert_close(ce.double(), torch.tensor([2.0611536e-9], dtype=torch.float64), rtol=0, atol=1e-7)
    assert ce >= 0


class CountLogits(TorchDispatchMode):
    """Counts bytes of tensors of the logits' size that operations read and write, products apart."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.bytes, self.products = size, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or any(name in str(func) for name in ("detach", "gather", "index")):
            return out  # nothing is touched, or one number of a row
        seen = [x for x in [*tree_leaves(args), *tree_leaves(out)] if isinstance(x, torch.Tensor)]
        logits = [x for x in seen if x.numel() == self.size]
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            self.products += len(logits)
        else:
            self.bytes += sum(x.nbytes for x in logits)
        return out


def test_logits_are_read_and_written_no_more_often_than_needed() -> None:
    """In bf16, in chunks, without a compiler: bytes per logit; autograd of a cross-entropy per chunk took 70."""
    weight = torch.randn(512, 16).bfloat16().requires_grad_()
    states, targets = torch.randn(64, 16).bfloat16().requires_grad_(), torch.randint(0, 512, (64,))
    with CountLogits(32 * 512) as counter:
        ce, _ = score_tokens(states, targets, weight, weight[:, 0], 32)
        ce.sum().backward()
    assert counter.bytes / (64 * 512) <= 36
    assert counter.products / 2 == 5, "logits twice; gradients of states, weights and biases"


def test_frozen_weights_get_no_gradient_and_bfloat16_sums_are_exact() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(9, 6))
    states, targets = torch.randn(64, 6), torch.randint(0, 9, (64,))
    halves = weight.detach().bfloat16().requires_grad_()
    bias = torch.zeros(9, dtype=torch.bfloat16)
    ce, _ = score_tokens(states.bfloat16(), targets, halves, bias, 1)
    ce.sum().backward()
    exact, _ = score_tokens(states.bfloat16().float(), targets, weight, torch.zeros(9), 64)
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
