"""A step neither copies from the CPU in a way that waits, nor reads anything back. Counted on PyTorch's meta device."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.network.config import ModelConfig
from model.network.noise import draw
from model.network.transfer import send
from model.training.step_sums import ScaledLoss

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")  # their result is needed


class CopyCounter(TorchDispatchMode):
    """Counts copies from the CPU to the meta device, and whatever would have to wait for the latter."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in READS and any(isinstance(value, Tensor) and value.is_meta for value in args):
            self.counts["read"] += 1
        out = func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], out) if name == "_to_copy" else (args[1], args[0])
            if source.device.type == "cpu" and target.is_meta:
                is_waited_for = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
                self.counts["blocking copy" if is_waited_for else "copy"] += 1
        return out


def count_step(make_model: Any, make_batch: Any, config: ModelConfig, **options: object) -> Counter[str]:
    batch = make_batch()
    loss = ScaledLoss(make_model(config, **options).to("meta"), 0.1, 2)
    with CopyCounter() as counter:
        draws = draw(range(3), (batch.num_frames_B // config.block_frames).tolist(), config, "meta")
        count = send(torch.ones(()), "meta")
        value, _, _ = loss(batch.to("meta"), draws, count, count)
        value.backward()
    return counter.counts


@pytest.mark.parametrize("recompute", [False, "selective", True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"time_conditioning": "adaln"},
        {"dropout": {"blocks": 0.5}},
        {"conditions": {"padding": "fixed", "null_lyrics": "padding_symbol"}},
    ],
    ids=["plain", "adaln", "blocks", "released"],
)
def test_no_copy_waits_and_nothing_is_read_back(
    make_model: Any, make_batch: Any, tiny_config: ModelConfig, changes: dict[str, Any], recompute: object
) -> None:
    changes = {
        name: replace(getattr(tiny_config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    counts = count_step(make_model, make_batch, replace(tiny_config, **changes), checkpoint_activations=recompute)
    assert counts["blocking copy"] == counts["read"] == 0, counts
    assert 0 < counts["copy"] <= 40, "each costs a launch"


def test_the_counter_sees_what_waits() -> None:
    meta = torch.empty(3, device="meta")
    with CopyCounter() as counter:
        torch.ones(3).to("meta")
        meta.copy_(torch.ones(3))
        send(torch.ones(3), "meta", torch.float64)
        with pytest.raises((RuntimeError, NotImplementedError)):
            meta.sum().item()
    assert counter.counts == {"blocking copy": 2, "copy": 1, "read": 1}
