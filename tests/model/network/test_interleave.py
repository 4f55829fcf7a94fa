"""Tests of model/network/interleave.py."""

import torch
from torch import Tensor
from torch.testing import assert_close

from model.network.interleave import (
    IGNORED,
    Packing,
    make_targets,
    mark_first,
    shift_blocks,
    split_blocks,
    unweave_body,
    weave_body,
)


def label(*values: float) -> Tensor:
    """One vector of width 1 per value, for one song."""
    return torch.tensor(values)[None, :, None]


def test_body_alternates_tokens_and_blocks() -> None:
    body = weave_body(torch.tensor([-1.0]), label(1, 2, 3, 4, 5, 6), label(10, 20))  # two blocks of three frames
    assert body.flatten().tolist() == [-1, 1, 2, 3, 10, 4, 5, 6, 20]


def test_which_position_predicts_what() -> None:
    # positions of the body:      BOS s1 s2 s3  A1 s4 s5 s6 A2
    predictors, hidden = unweave_body(label(0, 1, 2, 3, 4, 5, 6, 7, 8), block_frames=3)
    targets = make_targets(torch.tensor([[11, 12, 13, 14, 15, 16]]), torch.tensor([6]), eos_id=99)
    pairs = dict(zip(predictors.flatten().int().tolist(), targets[0].tolist(), strict=True))
    assert pairs == {0: 11, 1: 12, 2: 13, 4: 14, 5: 15, 6: 16, 8: 99}  # EOS only where a block would start
    assert hidden.flatten().tolist() == [3, 7]  # the last token of each block speaks to the DiT and predicts nothing


def test_a_short_song_ends_with_eos_whatever_pads_it() -> None:
    targets = make_targets(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 7]]), torch.tensor([4, 2]), eos_id=99)
    assert targets.tolist() == [[1, 2, 3, 4, 99], [5, 6, 99, IGNORED, IGNORED]]


def test_previous_block_of_the_first_is_zero() -> None:
    blocks = split_blocks(torch.arange(1.0, 7.0).reshape(1, 6, 1), 2)
    assert shift_blocks(blocks).flatten().tolist() == [0, 0, 1, 2, 3, 4]


def test_packing_drops_and_restores_padding() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None]
    packing = Packing(torch.tensor([[True, False, True], [False, True, False]]), rows.device)
    assert packing.lengths == [2, 1]
    assert packing.pack(rows).flatten().tolist() == [1, 3, 5]
    assert_close(packing.unpack(packing.pack(rows)).squeeze(-1), torch.tensor([[1.0, 0, 3], [0, 5, 0]]))


def test_mark_first() -> None:
    assert mark_first(torch.tensor([0, 2]), 3).tolist() == [[False, False, False], [True, True, False]]
