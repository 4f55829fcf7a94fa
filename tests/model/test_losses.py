"""Tests of model/losses.py."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from model.losses import SongOutput, score_tokens


@pytest.mark.parametrize("chunk_positions", [1, 3, 7, 100])
def test_chunks_change_neither_loss_nor_gradient(chunk_positions: int) -> None:
    torch.manual_seed(0)
    head, states, targets = nn.Linear(6, 9), torch.randn(7, 6, requires_grad=True), torch.randint(0, 9, (7,))
    logits = head(states)
    plain = nn.functional.cross_entropy(logits, targets, reduction="none")
    expected_gradients = torch.autograd.grad(plain.square().sum(), [states, *head.parameters()])
    ce, is_correct = score_tokens(head, states, targets, chunk_positions)
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
        ce, _ = score_tokens(head, states, targets, chunk_positions=2)
        ce.sum().backward()
    assert saved
    assert max(n for n in saved if n != head.weight.numel()) <= 2 * 1000  # one chunk, in the backward pass


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
