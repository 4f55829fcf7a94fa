"""Tests of model/network/attention.py."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from model.network import varlen
from model.network.attention import PackedCausal, rotary_table, rotate
from model.network.song_model import SongModel

HOPPER = (9, 0)


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


def test_bfloat16_vectors_turn_by_exact_angles_at_any_position() -> None:
    """bfloat16 has no odd numbers beyond 256: angles of some thousand radians need float32, and so does turning."""
    positions = torch.tensor([0, 257, 3751])
    cos, sin = rotary_table(positions, 64, 20_000.0)
    angles = positions.double()[:, None, None] / 20_000.0 ** (torch.arange(0, 64, 2).double() / 64)
    assert_close(cos.double(), angles.cos(), rtol=0, atol=5e-4)  # float32 angles: 3751 radians have steps of 2e-4
    assert_close(sin.double(), angles.sin(), rtol=0, atol=5e-4)
    vectors = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(rotate(vectors, (cos, sin)), rotate(vectors.float(), (cos, sin)).bfloat16()), "rounded once"


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


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without any kernel, and a GPU that would take one."""
    for name in ("flash_attn", "flash_attn.cute", "flash_attn_interface", varlen.TORCH_MODULE):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: HOPPER)
    forget = varlen.choose_kernel.cache_clear
    forget()
    yield
    forget()


def attend_within_bounds(told: list[object], query: Tensor, key: Tensor, value: Tensor, *bounds: object) -> Tensor:
    """Stand in for a kernel, which needs a GPU: attend within the bounds that it is told."""

    def attend_causally(*sequence: Tensor) -> Tensor:
        query, key, value = (x.transpose(0, 1)[None] for x in sequence)
        return scaled_dot_product_attention(query, key, value, is_causal=True)[0].transpose(0, 1)

    starts, ends, longest, longest_key = bounds
    assert starts is ends
    assert longest == longest_key
    told.append((starts.dtype, starts.tolist(), longest))
    parts = [x.tensor_split(starts[1:-1].long().tolist()) for x in (query, key, value)]
    return torch.cat([attend_causally(*sequence) for sequence in zip(*parts, strict=True)])


def install(name: str, monkeypatch: pytest.MonkeyPatch, **attributes: object) -> None:
    """Put a module with these attributes where `import` finds it."""
    module = ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def break_import(error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package flash_attn on the path that raises as it is imported."""
    monkeypatch.delitem(sys.modules, "flash_attn")
    (folder / "flash_attn").mkdir()
    (folder / "flash_attn" / "__init__.py").write_text(f"raise {error!r}\n")
    monkeypatch.syspath_prepend(folder)


def run_flash_attn(told: list[object]) -> Callable[..., Tensor]:
    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False) -> Tensor:
        assert causal
        return attend_within_bounds(told, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)

    return flash_attn_varlen_func


def run_flash_attn_4(told: list[object]) -> Callable[..., tuple[Tensor, None]]:
    """Other arguments lie between those that matter, and a tuple comes back."""
    run = run_flash_attn(told)

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, seqused_q=None, max_seqlen_q=None, max_seqlen_k=None,
        softmax_scale=None, causal=False,
    ) -> tuple[Tensor, None]:  # fmt: skip
        assert seqused_q is softmax_scale is None
        return run(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=causal), None

    return flash_attn_varlen_func


def run_torch_2_10(told: list[object]) -> Callable[..., Tensor]:
    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None) -> Tensor:
        assert is_causal
        return attend_within_bounds(told, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)

    return varlen_attn


def run_torch_2_11(told: list[object]) -> Callable[..., Tensor]:
    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)) -> Tensor:
        assert window_size == (-1, 0), "every position back to the first, none ahead"
        return attend_within_bounds(told, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)

    return varlen_attn


@pytest.mark.parametrize(
    ("module", "function", "make", "name"),
    [
        ("flash_attn_interface", "flash_attn_varlen_func", run_flash_attn, "flash-attn 2.8.3"),
        ("flash_attn_interface", "flash_attn_varlen_func", run_flash_attn_4, "flash-attn 2.8.3"),
        ("flash_attn.cute", "flash_attn_varlen_func", run_flash_attn_4, "flash-attn 2.8.3"),
        ("flash_attn", "flash_attn_varlen_func", run_flash_attn, "flash-attn 2.8.3"),
        (varlen.TORCH_MODULE, "varlen_attn", run_torch_2_10, f"varlen_attn of PyTorch {torch.__version__}"),
        (varlen.TORCH_MODULE, "varlen_attn", run_torch_2_11, f"varlen_attn of PyTorch {torch.__version__}"),
    ],
)
def test_a_kernel_for_all_sequences_gets_their_bounds(
    no_kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    make: Callable[[list[object]], Callable[..., Tensor]],
    name: str,
) -> None:
    vectors = torch.randn(3, 9, 2, 32)
    expected = PackedCausal([4, 5])(0, *vectors)
    told: list[object] = []
    install(module, monkeypatch, __version__="2.8.3", **{function: make(told)})
    monkeypatch.setattr("model.network.attention.suits_kernel", lambda _: True)
    assert_close(PackedCausal([4, 5])(0, *vectors), expected)
    assert told == [(torch.int32, [0, 4, 9], 5)]
    assert varlen.choose_kernel(HOPPER).name == name
    assert varlen.describe_attention("cuda", torch.bfloat16).startswith(f"attention: all songs at once ({name})")


@pytest.mark.parametrize(
    ("capability", "order"),
    [
        ((8, 0), "2 torch"),
        ((9, 0), "3 4 2 torch"),
        ((10, 0), "4 2 torch"),
        ((12, 0), "2 torch"),
    ],
)
def test_a_gpu_takes_the_fastest_kernel_that_is_written_for_it(
    no_kernels: None, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], order: str
) -> None:
    """All installed; then the chosen one is taken away, again and again."""
    names = {"3": "flash_attn_interface", "4": "flash_attn.cute", "2": "flash_attn", "torch": varlen.TORCH_MODULE}
    versions = {"3": "3.0.0", "4": "4.0.0", "2": "2.8.3"}
    for key, name in names.items():
        function = run_torch_2_11([]) if key == "torch" else run_flash_attn_4([])
        attribute = "varlen_attn" if key == "torch" else "flash_attn_varlen_func"
        install(name, monkeypatch, __version__=versions.get(key, ""), **{attribute: function})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found, lines = [], []
    for _ in order.split():
        varlen.choose_kernel.cache_clear()
        kernel = varlen.choose_kernel(capability).name
        key = "torch" if "PyTorch" in kernel else kernel.removeprefix("flash-attn ")[0]
        found.append(key)
        lines.append(varlen.describe_attention("cuda", torch.bfloat16))
        monkeypatch.setitem(sys.modules, names[key], None)
    assert " ".join(found) == order
    assert lines[0].startswith("attention: all songs at once (flash-attn ")
    assert ";" not in lines[0], "nothing was passed over"
    assert lines[-1].count("is not installed") == len(found) - 1, "each that was looked for is named"
    varlen.choose_kernel.cache_clear()
    assert varlen.choose_kernel(capability).kernel is None


def test_what_flash_attn_2_carries_of_4_is_not_taken(no_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flash_attn.cute is from before lengths could be given."""
    install("flash_attn.cute", monkeypatch, flash_attn_varlen_func=lambda q, k, v, cu_seqlens_q, causal: q)
    install("flash_attn", monkeypatch, __version__="2.8.3", flash_attn_varlen_func=run_flash_attn([]))
    assert varlen.choose_kernel((10, 0)).name == "flash-attn 2.8.3"
    assert "flash-attn-4 has a flash_attn.cute of before its release" in varlen.choose_kernel((10, 0)).passed_over[0]


def test_flash_attn_4_is_another_package(no_kernels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its wheel holds flash_attn/cute/ and no flash_attn/__init__.py, so `import flash_attn` works and has nothing."""
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    (tmp_path / "flash_attn" / "cute" / "__init__.py").write_text("raise AssertionError('nobody asked for it')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))  # for which it is not written
    assert varlen.choose_kernel((8, 0)).kernel is None
    said = varlen.describe_attention("cuda", torch.bfloat16)
    assert said.startswith(
        "attention: each song by itself (scaled_dot_product_attention); flash-attn has no flash_attn"
    )
    assert "flash-attn-4 brings flash_attn.cute alone" in said
    install(varlen.TORCH_MODULE, monkeypatch, varlen_attn=run_torch_2_10([]))
    varlen.choose_kernel.cache_clear()
    assert varlen.choose_kernel((8, 0)).name.startswith("varlen_attn of PyTorch"), "the next one in the order"
    assert "flash-attn has no flash_attn_varlen_func here" in varlen.describe_attention("cuda", torch.bfloat16)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.11.0: cannot open shared object file: No such file or directory"),
        OSError("flash_attn_2_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEi"),
        ModuleNotFoundError("No module named 'einops'", name="einops"),
        RuntimeError("Tried to register an operator twice"),
        AttributeError("module 'torch' has no attribute 'gone'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_passed_over_by_name(
    no_kernels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    break_import(error, tmp_path, monkeypatch)
    assert varlen.choose_kernel(HOPPER).kernel is None
    assert f"; flash-attn cannot be imported: {error};" in varlen.describe_attention("cuda", torch.bfloat16)


def test_without_any_kernel_each_song_attends_by_itself(no_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert varlen.describe_attention("cuda", torch.bfloat16) == (
        "attention: each song by itself (scaled_dot_product_attention); flash-attn-3 is not installed; "
        "flash-attn-4 is not installed; flash-attn is not installed; "
        f"PyTorch's varlen_attn is not in PyTorch {torch.__version__}, but from 2.10 on"
    )
    install(varlen.TORCH_MODULE, monkeypatch, varlen_attn=lambda query, key, value: value)
    varlen.choose_kernel.cache_clear()
    assert "neither window_size nor is_causal" in varlen.describe_attention("cuda", torch.bfloat16)


def test_where_kernels_do_not_run_none_is_looked_for(no_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "choose_kernel", lambda _: pytest.fail("imported for nothing"))
    alone = "attention: each song by itself (scaled_dot_product_attention)"
    assert varlen.describe_attention("cpu", torch.bfloat16) == alone
    assert not varlen.suits_kernel(torch.zeros(1, dtype=torch.bfloat16))
    assert varlen.describe_attention("cuda", torch.float32) == (
        f"{alone}; kernels for all songs at once take bf16, not float32"
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert varlen.describe_attention("cuda", torch.bfloat16) == (
        f"{alone}; kernels for all songs at once take GPUs of compute capability 8.0 and up"
    )
