"""Losses by language and by place add up to those of the batch."""

import pytest
import torch

from model.training.tally import NUM_PLACES, BatchLosses, ValidationLosses, tabulate, tabulate_places


def test_places_add_up_to_the_batch_and_lie_where_the_song_is(make_model, make_batch, draw_for) -> None:
    batch = make_batch((12, 4, 8))  # blocks of 4 frames: 3, 1 and 2 blocks
    output = make_model()(batch, draw_for(batch))
    places = tabulate_places(output, blocks_per_place=1)
    assert places.shape == (6, NUM_PLACES)
    ce, flow, correct, targets, blocks, songs = tabulate(output).sum(dim=1).tolist()
    totals = places.sum(dim=1).tolist()
    assert totals[:5] == pytest.approx([ce, flow, correct, targets, blocks])
    assert blocks == 6
    assert songs == 3
    assert places[4, :4].tolist() == [3, 2, 1, 0], "blocks"
    assert places[5, :4].tolist() == [3, 2, 1, 0], "songs that reach the place"
    assert places[3, :4].tolist() == [12, 9, 5, 1], "targets; EOS counts where the next block would be"
    coarse = tabulate_places(output, blocks_per_place=2)
    assert coarse[:5, 0].tolist() == pytest.approx((places[:5, 0] + places[:5, 1]).tolist())
    assert coarse[5, :2].tolist() == [3, 1]


def test_means_by_group() -> None:
    rows = {"en": [10.0, 2.0, 1.0, 5.0, 1.0, 1.0], "zh": [6.0, 1.0, 3.0, 3.0, 2.0, 2.0]}
    places = torch.zeros(NUM_PLACES, 6).tolist()
    places[0] = [4.0, 3.0, 0.0, 2.0, 3.0, 3.0]
    losses = ValidationLosses.from_sums(rows, places, flow_weight=0.5)
    assert losses.by_language["en"].loss == pytest.approx(10 / 5 + 0.5 * 2)
    assert losses.total == BatchLosses.from_sums([16.0, 3.0, 4.0, 8.0, 3.0, 3.0], 0.5)
    assert [place.ce for place in losses.by_place] == [2.0], "places that no song reaches are left out"
