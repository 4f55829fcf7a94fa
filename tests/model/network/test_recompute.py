"""What full.yaml keeps and computes twice, counted at its real size on PyTorch's meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from model.data.crops import LENGTH_TOLERANCE
from model.network.noise import draw
from model.network.recompute import Recompute
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.settings.settings import BUCKET_NUMBERS, load_config
from model.training.size import count_parameters, flops_per_step

GIB = 2**30
A100_GIB = 80e9 / GIB
NUM_FRAMES = 3744  # 150 s in whole blocks


class CountedAttention(torch.autograd.Function):
    """Keeps what a fused kernel keeps, and counts its runs."""

    runs = 0

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        CountedAttention.runs += 1
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def bytes_kept(model: SongModel) -> Iterator[dict[int, int]]:
    """Collect the memory that the backward pass waits for, weights apart, by the address of its description."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def measure(monkeypatch: pytest.MonkeyPatch, recompute: Recompute, num_songs: int = 1) -> tuple[float, int, float]:
    """Return FLOPs of matrix products, runs of attention, and GiB kept, of songs of 150 s in bfloat16."""
    config = load_config("full.yaml").model
    num_frames, num_lyrics, num_prompt = NUM_FRAMES, config.conditions.max_lyric_tokens, config.conditions.prompt_frames

    def attend(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        return CountedAttention.apply(query, key, value)

    monkeypatch.setattr("model.network.attention.scaled_dot_product_attention", attend)
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)  # DeepSpeed puts its own there for ZeRO 3
    with torch.device("meta"):
        model = SongModel(config, checkpoint_activations=recompute).bfloat16()
    batch = SongBatch(
        keys=tuple(map(str, range(num_songs))),
        semantic_tokens_BT=torch.empty(num_songs, num_frames, dtype=torch.int64, device="meta"),
        latents_BTC=torch.empty(num_songs, num_frames, 64, device="meta"),
        num_frames_B=torch.full((num_songs,), num_frames),
        lyric_ids_BL=torch.empty(num_songs, num_lyrics, dtype=torch.int64, device="meta"),
        num_lyrics_B=torch.full((num_songs,), num_lyrics),
        prompts_BNC=torch.empty(num_songs, num_prompt, 64, device="meta"),
        num_prompt_frames_B=torch.full((num_songs,), num_prompt),
    )
    draws = draw(range(num_songs), [num_frames // 16] * num_songs, config, "meta", with_dropout=False)
    CountedAttention.runs = 0
    with FlopCounterMode(display=False) as counter:
        with bytes_kept(model) as kept:
            loss = model(batch, draws).loss()
        num_bytes = sum(kept.values())
        loss.backward()
    return counter.get_total_flops(), CountedAttention.runs, num_bytes / GIB


def test_recomputing_what_is_cheap_costs_no_product_and_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, cheap = (measure(monkeypatch, mode) for mode in (False, "cheap"))
    assert cheap[:2] == plain[:2]
    model_flops = flops_per_step(load_config("full.yaml").model, [NUM_FRAMES])
    dense = sum(model_flops[part] for part in ("lm_dense", "dit_dense", "semantic_head"))
    assert 0.97 < cheap[0] / dense < 1.03, "the head's logits are computed twice, in chunks"
    assert cheap[2] < 0.7 * plain[2]


def test_the_other_ways_trade_products_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap, ffn, layers = (measure(monkeypatch, mode) for mode in ("cheap", "selective", True))
    assert cheap[2] > ffn[2] > layers[2]
    assert cheap[0] < ffn[0] < layers[0]
    assert [runs for _, runs, _ in (cheap, ffn, layers)] == [48, 48, 96]
    for mode, (counted, _, _) in {"cheap": cheap, "selective": ffn, True: layers}.items():
        formula = flops_per_step(load_config("full.yaml").model, [NUM_FRAMES], checkpoint_activations=mode)
        dense = sum(formula[part] for part in ("lm_dense", "dit_dense", "semantic_head"))
        assert counted == pytest.approx(dense, rel=0.01), mode


@pytest.mark.parametrize("num_gpus", [8, 16])
def test_the_defaults_of_full_fit_into_80_gb(monkeypatch: pytest.MonkeyPatch, num_gpus: int) -> None:
    config = load_config("full.yaml")
    songs = config.count_longest_songs(LENGTH_TOLERANCE)  # 3.4
    _, _, activations_gib = measure(monkeypatch, config.trainer.checkpoint_activations, 3)
    activations_gib *= songs / 3
    num_parameters = count_parameters(config.model)["total"]
    # Per parameter: bf16 weights and gradients on every GPU; float32 gradients, weights and two moments are sharded.
    state_gib = num_parameters * (2 + 2 + 16 / num_gpus) / GIB
    assert config.trainer.zero_stage == 2
    assert activations_gib + state_gib + 2 * 4 * BUCKET_NUMBERS / GIB < 0.95 * A100_GIB
