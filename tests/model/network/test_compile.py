"""What of a layer compiles: all of it, once, for songs of any length. Counted by PyTorch's compiler, without generating
code."""

import functools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.testing import assert_close

from model.network.config import ModelConfig
from model.network.noise import draw

# Attention's projection, what follows attention, last norm, DiT layer, last DiT layer, loss, its gradient: the same for
# any number of layers.
NUM_GRAPHS = 7
FOR_ONE_BLOCK = 2  # DiT layers of a batch that is a single block: sizes of 1 are compiled apart
BACKWARD_EVERY = 10


@pytest.fixture(autouse=True)
def capture_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace forward and backward, and run the traces as they are."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recompute", "time_conditioning", "num_batches"),
    [(True, "prepend", 200), ("cheap", "adaln", 3), ("selective", "adaln", 3)],
)
def test_layers_are_one_graph_each_for_songs_of_any_length(
    make_model: Any, make_batch: Any, tiny_config: ModelConfig, recompute: object, time_conditioning: str,
    num_batches: int,
) -> None:  # fmt: skip
    config = replace(tiny_config, time_conditioning=time_conditioning, lm_layers=2, dit_layers=3)
    model, plain = (make_model(config, checkpoint_activations=recompute) for _ in range(2))
    model.compile_layers()
    chance = random.Random(0)
    for number in range(num_batches):
        songs = range(chance.randint(1, 4))
        lengths = [[chance.randint(low, high) for _ in songs] for low, high in ((1, 9), (1, 9), (1, 6))]
        batch = make_batch([4 * blocks for blocks in lengths[0]], *lengths[1:])
        draws = draw(songs, lengths[0], config)
        loss = model(batch, draws).loss()
        if number % BACKWARD_EVERY == 0:
            model.zero_grad()
            loss.backward()
            plain.zero_grad()
            expected = plain(batch, draws).loss()
            expected.backward()
            assert_close(loss, expected, rtol=1e-5, atol=1e-6)
            for found, weight in zip(model.parameters(), plain.parameters(), strict=True):
                assert_close(found.grad, weight.grad, rtol=1e-4, atol=1e-5)
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert counters["frames"]["total"] == counters["frames"]["ok"] == counters["stats"]["unique_graphs"]
    assert NUM_GRAPHS <= counters["stats"]["unique_graphs"] <= NUM_GRAPHS + FOR_ONE_BLOCK
