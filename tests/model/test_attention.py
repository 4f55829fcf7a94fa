"""Tests of model/attention.py."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from model import varlen
from model.attention import CachedStep, KeyValueCache, PackedCausal, rotary_table, rotate
from model.config import ModelConfig
from model.song_model import SongModel


def test_a_quarter_turn_by_hand() -> None:
    quarter = torch.tensor([torch.pi / 2])  # the first pair turns by one radian per position
    rotated = rotate(torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]]), rotary_table(quarter, rotary_dim=2, base=7.0))
    assert_close(rotated, torch.tensor([[[-2.0, 1.0, 3.0, 4.0, 5.0]]]))  # 3 channels past rotary_dim stay


def test_only_the_distance_counts() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 64)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        turned = [
            rotate(x, rotary_table(torch.tensor([position]), 32, 20_000.0))
            for x, position in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum()

    assert_close(score(7, 3), score(4007, 4003), rtol=1e-4, atol=1e-4)  # float32 angles of some thousand radians
    assert not torch.isclose(score(7, 3), score(7, 4))


def test_rotations_match_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")
    for stack, rotary_dim, base in (("lm", 64, 10_000.0), ("dit", 32, 20_000.0)):
        rotary = rotary_table(torch.arange(24), rotary_dim, base)
        for name in "qk":
            found = rotate(parts[f"{stack}/{name}"].transpose(1, 2), rotary).transpose(1, 2)
            assert_close(found, parts[f"{stack}/{name}_rot"])
    cos, sin = rotary_table(torch.arange(100, 104), 64, 10_000.0)
    assert_close(cos.squeeze(1), parts["lm/cos_100_103"][:, :32])
    assert_close(sin.squeeze(1), parts["lm/sin_100_103"][:, :32])


def test_packed_sequences_do_not_see_each_other(make_model: Callable[..., SongModel]) -> None:
    model = make_model().lm
    x = torch.randn(9, 64)
    attend = PackedCausal([4, 5])
    assert attend.positions(x.device).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    packed = model(x, attend.positions(x.device), attend)
    for part in (slice(0, 4), slice(4, 9)):
        alone = PackedCausal([part.stop - part.start])
        assert_close(packed[part], model(x[part], alone.positions(x.device), alone))


def test_cached_steps_equal_one_pass_for_rows_of_different_lengths(
    tiny_config: ModelConfig, make_model: Callable[..., SongModel]
) -> None:
    model = make_model().lm
    rows = [torch.randn(length, 64) for length in (7, 4, 9)]
    read = [len(row) - 3 for row in rows]  # the last three of each row are read one by one
    cache = KeyValueCache(tiny_config, read, 3, like=rows[0])
    attend = PackedCausal(read, cache)
    with torch.no_grad():
        model(torch.cat([row[:-3] for row in rows]), attend.positions(rows[0].device), attend)
        for step in range(3):
            if step == 2:  # the middle row leaves
                cache.keep([0, 2])
                rows = [rows[0], rows[2]]
            vectors = torch.stack([row[len(row) - 3 + step] for row in rows])
            stepped = model(vectors, cache.lengths_R, CachedStep(cache))
            cache.grow()
        for row, found in zip(rows, stepped, strict=True):
            whole = PackedCausal([len(row)])
            assert_close(found, model(row, whole.positions(row.device), whole)[-1])


def test_a_kernel_for_all_sequences_gets_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for flash-attn, which needs a GPU: attend within the bounds that it is told."""
    told = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, *bounds: object, causal: bool) -> Tensor:
        starts, _, longest, _ = bounds
        told.append((starts.dtype, starts.tolist(), longest, causal))
        parts = [x.tensor_split(starts[1:-1].long().tolist()) for x in (query, key, value)]
        return torch.cat([attend_causally(*sequence) for sequence in zip(*parts, strict=True)])

    def attend_causally(*sequence: Tensor) -> Tensor:
        query, key, value = (x.transpose(0, 1)[None] for x in sequence)
        return scaled_dot_product_attention(query, key, value, is_causal=True)[0].transpose(0, 1)

    vectors = torch.randn(3, 9, 2, 32)
    expected = PackedCausal([4, 5])(0, *vectors)
    package = SimpleNamespace(flash_attn_varlen_func=kernel, __spec__=ModuleSpec("flash_attn", None))
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr("model.attention.suits_kernel", lambda _: True)
    varlen.find_kernel.cache_clear()
    try:
        assert_close(PackedCausal([4, 5])(0, *vectors), expected)
    finally:
        varlen.find_kernel.cache_clear()
    assert told == [(torch.int32, [0, 4, 9], 5, True)]


def test_no_kernel_on_a_cpu() -> None:
    assert not varlen.suits_kernel(torch.zeros(1, dtype=torch.bfloat16))
