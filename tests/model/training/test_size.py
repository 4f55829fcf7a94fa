"""Tests of model/training/size.py."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bench.random_songs import make_songs
from model.data.crops import LENGTH_TOLERANCE
from model.network.config import ModelConfig
from model.network.lora import SongDropout
from model.network.noise import Draws, draw
from model.network.recompute import Recompute
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.settings.settings import FinetuneConfig, load_config
from model.training.size import (
    activation_bytes,
    backward_factors,
    count_parameters,
    count_trained,
    expected_days,
    flops_per_step,
    memory_per_gpu,
)
from model.weights.finetune import choose_trained

from ..network.test_recompute import CountedAttention


def test_released_model_has_the_published_size() -> None:
    counts = count_parameters(ModelConfig())
    assert counts["lm"] == 1_359_066_624
    assert counts["dit_layers"] == 453_021_696
    assert counts["semantic_table"] == 25_168_896
    assert counts["semantic_head"] == 27_543_041
    assert counts["encode_block"] == 3_935_232
    assert counts["dit_projections"] == 99_840 + 98_368
    assert counts["dit_time"] == 128 + 2_754_048
    assert counts["conditioner"] == 683_520 - 1536  # the published figure counts a frozen vector of zeros
    assert counts["total"] == 1_872_371_393  # "1,872.37 M"


def test_parts_add_up_to_the_model(tiny_config: ModelConfig, make_model: Callable[..., SongModel]) -> None:
    counts = count_parameters(tiny_config)
    total = counts.pop("total")
    assert total == sum(counts.values()) == sum(p.numel() for p in make_model().parameters())


@pytest.mark.parametrize(
    ("lm_layers", "num_frames", "petaflops"),
    [(36, 3744, 10.2), (36, 2624, 7.28), (24, 3744, 8.19)],
)
def test_step_of_128_songs_costs_what_the_papers_cluster_spent(
    lm_layers: int, num_frames: int, petaflops: float
) -> None:
    step = flops_per_step(ModelConfig(lm_layers=lm_layers), [num_frames] * 128)
    # The published arithmetic has 50 outputs of the DiT's last layer, of which the last 16 are looked at.
    saved_per_block = 34 * (2 * 13 * 1536**2 + 4 * 1536 * 50)
    saved = 3 * saved_per_block * num_frames // 16 * 128
    assert (step["total"] + saved) / 1e15 == pytest.approx(petaflops, rel=0.005)


def test_recomputing_costs_a_forward_pass_up_to_the_last_product(tiny_config: ModelConfig) -> None:
    plain = flops_per_step(tiny_config, [8], [5], [6])
    # Of a layer's 10 matrices of width squared, feed-forwards of twice the width hold 6: 4 of gate and up, 2 of down.
    layers = flops_per_step(tiny_config, [8], [5], [6], checkpoint_activations=True)
    assert layers["lm_attention"] == pytest.approx(plain["lm_attention"] * 4 / 3)
    assert layers["lm_dense"] == pytest.approx(plain["lm_dense"] * (3 + 0.8) / 3)
    selective = flops_per_step(tiny_config, [8], [5], [6], checkpoint_activations="selective")
    assert selective["lm_attention"] == plain["lm_attention"]
    assert selective["lm_dense"] == pytest.approx(plain["lm_dense"] * (3 + 0.4) / 3)
    cheap = flops_per_step(tiny_config, [8], [5], [6], checkpoint_activations="cheap")
    assert cheap["total"] == pytest.approx(plain["total"] + plain["semantic_head"] / 3 * 21 / 85)


def test_blocks_left_out_cost_nothing(tiny_config: ModelConfig) -> None:
    fewer = replace(tiny_config, dropout=replace(tiny_config.dropout, blocks=0.75))
    plain, thinned = flops_per_step(tiny_config, [32], [5], [6]), flops_per_step(fewer, [32], [5], [6])
    assert thinned["dit_dense"] == plain["dit_dense"] / 4
    assert thinned["lm_dense"] == plain["lm_dense"]


def test_the_papers_week_is_the_mfu_that_the_arithmetic_says() -> None:
    flops = flops_per_step(ModelConfig(), [2624] * 128)["total"]
    assert expected_days(flops, 150_000, mfu=0.355) == pytest.approx(7.0, rel=0.01)  # songs of 105 s


@pytest.mark.parametrize(
    ("name", "millions"),
    [("full.yaml", 1872.37), ("paper.yaml", 1419.35), ("long.yaml", 1872.37), ("tiny.yaml", 1268.34)],
)
def test_shipped_sizes(name: str, millions: float) -> None:
    assert count_parameters(load_config(name).model)["total"] / 1e6 == pytest.approx(millions, abs=0.01)


def test_fixed_padding_is_paid_for(tiny_config: ModelConfig) -> None:
    fixed = replace(tiny_config, conditions=replace(tiny_config.conditions, padding="fixed"))
    assert flops_per_step(fixed, [8], [5], [6])["lm_dense"] == flops_per_step(tiny_config, [8])["lm_dense"]


def test_formula_agrees_with_counting(
    tiny_config: ModelConfig,
    make_model: Callable[..., SongModel],
    make_batch: Callable[..., SongBatch],
    draw_for: Callable[..., Draws],
) -> None:
    """Count the products of a real forward pass: the formula leaves out small parts, such as the block encoder."""
    batch = make_batch([12], [5], [6])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        make_model()(batch, draw_for(batch))
    counts = counter.get_flop_counts()
    layers = sum(counts["SongModel"][op] for op in counts["SongModel"] if "mm" in str(op))
    formula = flops_per_step(tiny_config, [12], [5], [6])
    dense = sum(formula[part] for part in ("lm_dense", "dit_dense", "semantic_head")) / 3
    assert layers == pytest.approx(dense, rel=0.06)


@pytest.mark.parametrize("recompute", [False, "cheap"])
def test_frozen_weights_cost_no_gradient_of_theirs_and_adapters_little(
    tiny_config: ModelConfig, make_model, make_batch, draw_for, recompute: Recompute
) -> None:
    """Counted forward and backward; `cheap` repeats no large product beside an adapter."""
    config = replace(tiny_config, dim=256, lm_layers=4)
    model, batch = SongModel(config, checkpoint_activations=recompute), make_batch([24], [5], [6])
    assert set(backward_factors(model).values()) == {2.0}
    choose_trained(model, FinetuneConfig(lora_rank=2))
    factors = backward_factors(model)
    assert 1 < factors["lm_dense"] < 1.1
    with FlopCounterMode(display=False) as counter:
        model(batch, draw_for(batch)).loss().backward()
    counts = counter.get_flop_counts()["Global"]
    layers = sum(counts[op] for op in counts if "mm" in str(op))
    dense = ("lm_dense", "dit_dense", "semantic_head")
    formula, whole = (flops_per_step(config, [24], [5], [6], backward=b) for b in (factors, None))
    assert layers == pytest.approx(sum(formula[part] for part in dense), rel=0.08)
    assert sum(formula[part] for part in dense) < 0.72 * sum(whole[part] for part in dense)


@pytest.mark.parametrize("recompute", [False, "cheap", "selective", True])
@pytest.mark.parametrize("shape", [{}, {"ffn_scale": 2, "lm_layers": 5}])
def test_activations_are_those_that_autograd_keeps(
    monkeypatch: pytest.MonkeyPatch, recompute: Recompute, shape: dict[str, int]
) -> None:
    """Count full.yaml's width at fewer layers on the meta device; weights, and views of them, are not counted."""
    monkeypatch.setattr(
        "model.network.attention.scaled_dot_product_attention", lambda *x, **_: CountedAttention.apply(*x)
    )
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)  # DeepSpeed puts its own there for ZeRO 3
    config = replace(load_config("full.yaml").model, **{"lm_layers": 3, "dit_layers": 2, **shape})
    with torch.device("meta"):
        model = SongModel(config, checkpoint_activations=recompute).bfloat16()
    num_frames, conditions = 2400, config.conditions
    songs = make_songs(config, [num_frames], [conditions.max_lyric_tokens], [0]).to("meta")
    draws = draw([0], [num_frames // config.block_frames], config, "meta", with_dropout=False)
    counted = count_kept(model, songs, draws)
    assert activation_bytes(config, num_frames, recompute) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("recompute", [False, "cheap", "selective", True])
def test_what_adapters_drop_takes_a_byte_each(monkeypatch: pytest.MonkeyPatch, recompute: Recompute) -> None:
    monkeypatch.setattr(
        "model.network.attention.scaled_dot_product_attention", lambda *x, **_: CountedAttention.apply(*x)
    )
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
    sizes = ["model.lm_layers=3", "model.dit_layers=2", "data.max_crop_s=96", "data.min_crop_s=9"]
    kept = []
    for rate in (0.0, 0.1):
        settings = ["finetune.lora_rank=2", f"finetune.lora_dropout={rate}"]
        run = load_config("full.yaml", [*sizes, *settings, f"trainer.checkpoint_activations={recompute}".lower()])
        with torch.device("meta"):
            model = SongModel(run.model, checkpoint_activations=recompute).bfloat16()
            choose_trained(model, run.finetune)
        songs = make_songs(run.model, [2400], [run.model.conditions.max_lyric_tokens], [0]).to("meta")
        SongDropout(model).set_songs([0], [150])
        kept.append(count_kept(model, songs, draw([0], [150], run.model, "meta", with_dropout=False)))
    expected = memory_per_gpu(run, 1)["dropped_inputs"] / run.count_longest_songs(LENGTH_TOLERANCE)
    assert kept[1] - kept[0] == pytest.approx(expected, rel=0.03, abs=0.001 * kept[0])


def count_kept(model: SongModel, songs: SongBatch, draws: Draws) -> int:
    """Return the bytes that autograd keeps of a forward pass, weights apart."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(songs, draws)
    return sum(storage.nbytes() for storage in kept.values())


def test_memory_is_sharded_as_the_stage_says() -> None:
    numbers = 1_872_371_393
    parts = {stage: memory_per_gpu(load_config("full.yaml", [f"trainer.zero_stage={stage}"]), 16) for stage in (2, 3)}
    assert parts[2]["weights"] == 2 * numbers
    assert parts[2]["gradients"] == numbers * (2 + 4 / 16)
    assert parts[2]["optimizer"] == parts[3]["optimizer"] == numbers * 12 / 16
    assert parts[3]["weights"] == 2 * (numbers / 16 + 1e9), "DeepSpeed keeps up to 1e9 numbers whole"
    assert parts[3]["gradients"] == numbers * 4 / 16
    for memory in parts.values():
        assert memory["total"] == pytest.approx(sum(size for part, size in memory.items() if part != "total"))
    alone = memory_per_gpu(load_config("full.yaml"), 1)
    assert alone["weights"] + alone["gradients"] + alone["optimizer"] == numbers * (2 + 2 + 16)
    averaged = memory_per_gpu(load_config("full.yaml", ["trainer.ema_decay=0.999"]), 16)
    assert averaged["optimizer"] == numbers * 16 / 16
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    assert memory_per_gpu(replace(load_config("full.yaml"), deepspeed=offload), 16)["optimizer"] == 0


def test_adapters_train_alone() -> None:
    total, trained = count_trained(load_config("full.yaml", ["finetune.lora_rank=16"]))
    assert total == 1_872_371_393 + trained
    assert trained / 1e6 == pytest.approx(23.6, abs=0.1)
