"""Products in float8: emulated on a CPU, where torchao is installed."""

import sys
from collections.abc import Callable

import pytest
import torch

from model.network.config import ConfigError
from model.network.float8 import use_float8
from model.network.noise import Draws
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel

CPU = torch.device("cpu")


def test_without_torchao_the_run_does_not_start(make_model: Callable[..., SongModel], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ConfigError, match=r"torchao cannot be imported .*; install .* or set trainer\.float8: false"):
        use_float8(make_model(), CPU)


def test_a_gpu_without_float8_is_refused_by_name(make_model: Callable[..., SongModel], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"NVIDIA A100 has no float8 units: compute capability 8\.0, expected 8\.9"):
        use_float8(make_model(), torch.device("cuda", 0))


def test_emulated_losses_are_near_and_weights_keep_their_names(
    make_model: Callable[..., SongModel], make_batch: Callable[..., SongBatch], draw_for: Callable[..., Draws]
):
    pytest.importorskip("torchao.float8", reason="torchao is not installed: float8 is not emulated")
    plain, small, batch = make_model(), make_model(), make_batch()
    use_float8(small, CPU)
    assert list(small.state_dict()) == list(plain.state_dict())
    outputs = [model(batch, draw_for(batch)) for model in (plain, small)]
    for name in ("ce_sum", "flow_sum"):
        expected, found = (float(getattr(output, name)) for output in outputs)
        assert found != expected, "nothing was computed in float8"
        assert found == pytest.approx(expected, rel=0.02)
    for output in outputs:
        (output.ce_sum + output.flow_sum).backward()
    compared = 0
    for (name, here), there in zip(plain.named_parameters(), small.parameters(), strict=True):
        if name.endswith("gate_up.weight"):
            assert here.grad is not None
            assert there.grad is not None
            assert torch.nn.functional.cosine_similarity(here.grad.flatten(), there.grad.flatten(), dim=0) > 0.85, name
            compared += 1
    assert compared == plain.config.lm_layers + plain.config.dit_layers
