"""LoRA: nothing changes before training, only adapters train, and merging changes nothing."""

import pytest
import torch
from torch.testing import assert_close

from model.network.config import ConfigError
from model.network.lora import AdapterDropout, LowRankLinear, add_adapters, merge_adapters


def test_an_adapter_by_hand() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        adapted = LowRankLinear(layer, rank=1, alpha=3.0)
        adapted.lora_down_RI.copy_(torch.tensor([[1.0, 1.0]]))
        adapted.lora_up_OR.copy_(torch.tensor([[0.5]]))
    x = torch.tensor([[1.0, 1.0]])
    assert_close(adapted(x), torch.tensor([[3.0 + 3.0 * 0.5 * 2.0]]))
    assert_close(adapted.merge()(x), adapted(x))


def test_adapters_sit_on_attention_and_feed_forward_of_both_stacks(make_model, make_batch, draw_for) -> None:
    model, batch = make_model(), make_batch()
    before = model(batch, draw_for(batch)).loss()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_adapters(model, rank=2, alpha=4.0)
    assert_close(model(batch, draw_for(batch)).loss(), before)
    adapted = {name.removesuffix(".lora_up_OR") for name, _ in model.named_parameters() if name.endswith("lora_up_OR")}
    parts = ("attention.qkv", "attention.out", "ffn.gate_up", "ffn.down")
    assert adapted == {
        f"{stack}.layers.{layer}.{part}" for stack in ("lm", "dit") for layer in (0, 1) for part in parts
    }
    state = model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items()), "weights keep names and values"


def test_merging_changes_names_back_and_no_result(make_model, make_batch, draw_for) -> None:
    model, batch = make_model().double(), make_batch()
    names = list(model.state_dict())
    add_adapters(model, rank=2, alpha=4.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_up_OR"):
                parameter.normal_(std=0.1)
    adapted = model(batch, draw_for(batch))
    merge_adapters(model)
    merged = model(batch, draw_for(batch))
    assert_close(merged.ce_sum_B, adapted.ce_sum_B, rtol=1e-12, atol=0)
    assert_close(merged.flow_sum_B, adapted.flow_sum_B, rtol=1e-12, atol=0)
    assert list(model.state_dict()) == names


def test_targets_choose_matrices_by_name(make_model) -> None:
    model = make_model()
    add_adapters(model, rank=2, alpha=4.0, targets=("lm.*.attention.*", "dit.layers.1.ffn.down"))
    adapted = {name for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
    expected = {f"lm.layers.{layer}.attention.{part}" for layer in (0, 1) for part in ("qkv", "out")}
    assert adapted == expected | {"dit.layers.1.ffn.down"}
    message = r"'lm\.layers\.\*\.attention\.q_proj' matches no matrix; .* are lm\.layers\.\*\.attention\.qkv and"
    with pytest.raises(ConfigError, match=message):
        add_adapters(make_model(), rank=2, alpha=4.0, targets=("lm.*", "lm.layers.*.attention.q_proj"))


def test_inputs_are_dropped_like_independent_coins() -> None:
    rows = torch.arange(400, dtype=torch.int32)[None]  # as badly chosen as keys can be
    columns = [LowRankLinear(torch.nn.Linear(500, 1), 1, 1.0, AdapterDropout(0.3), name) for name in ("one", "two")]
    drops = []
    for layer in columns:
        layer.dropout.rows = rows
        kept = layer.dropout(torch.ones(1, 400, 500), layer.columns_I)
        assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.7]))
        drops.append((kept[0] == 0).double())
    first, second = drops
    assert first.mean().item() == pytest.approx(0.3, abs=0.005)  # five standard deviations
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 5 / 400
    for axis in (0, 1):
        spread = first.mean(axis).std().item()
        assert spread == pytest.approx((0.3 * 0.7 / first.shape[axis]) ** 0.5, rel=0.2)
