"""What only a GPU can show; skipped without one: `python -m pytest tests/model/test_gpu.py`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from model.bench.step import make_inputs
from model.network import varlen
from model.network.attention import PackedCausal
from model.network.config import ModelConfig
from model.network.losses import SongOutput
from model.network.noise import draw
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.parity import main as parity
from model.sampling.sampling import SamplingConfig, generate
from model.settings.settings import load_config
from model.training.hardware import choose_device, choose_dtype, explain_unusable_gpu, read_gpus
from model.weights.base_weights import load_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

MakeModel = Callable[..., SongModel]
CONFIG = ModelConfig(dim=256, num_heads=4, lm_layers=4, dit_layers=3, codebook_size=512)


@pytest.fixture
def model() -> SongModel:
    torch.manual_seed(0)
    return SongModel(replace(CONFIG, init_std=0.05)).cuda()


def test_the_reference_is_matched_in_float32(shared: Path) -> None:
    assert parity([str(shared / "reference/dev_prepend"), "--device", "cuda"]) == 0


def test_one_kernel_for_all_songs_equals_one_call_per_song(monkeypatch: pytest.MonkeyPatch) -> None:
    if varlen.find_kernel(torch.device("cuda")) is None:
        pytest.skip(varlen.describe_attention("cuda", torch.bfloat16))
    torch.manual_seed(0)
    lengths = [700, 1, 333, 1024]
    inputs = [torch.randn(sum(lengths), 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    results = []
    for takes_kernel in (True, False):
        monkeypatch.setattr("model.network.attention.suits_kernel", lambda _, takes=takes_kernel: takes)
        attend = PackedCausal(lengths)
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attend(0, *leaves)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):  # two bfloat16 kernels: 8 bits, and sums in other orders
        assert_close(found.float(), expected.float(), rtol=0.02, atol=0.02)


def test_bfloat16_follows_float32(model: SongModel) -> None:
    songs = make_inputs(CONFIG, 3, 320, "cuda")
    expected = model(*songs)
    expected.loss().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.bfloat16()
    found = model(*songs)
    found.loss().backward()
    assert_close(found.loss(), expected.loss(), rtol=0.01, atol=0.0)
    differences = [(parameter.grad.float() - gradients[name]).norm() for name, parameter in model.named_parameters()]
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert torch.stack(differences).norm() / total < 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_a_batch_equals_its_songs_one_by_one(model: SongModel, dtype: torch.dtype, tolerance: float) -> None:
    model.to(dtype)
    num_frames = [320, 16, 208]
    batch, _ = make_inputs(CONFIG, 3, 320, "cpu")
    batch = replace(batch, num_frames_B=torch.tensor(num_frames))
    for row, length in enumerate(num_frames):
        batch.semantic_tokens_BT[row, length:] = CONFIG.eos_id
        batch.latents_BTC[row, length:] = 0

    def run(rows: slice) -> SongOutput:
        longest = max(num_frames[rows])
        names = ("semantic_tokens_BT", "latents_BTC", "num_frames_B", "lyric_ids_BL", "num_lyrics_B", "prompts_BNC")
        songs = {name: getattr(batch, name)[rows] for name in (*names, "num_prompt_frames_B")}
        songs |= {name: songs[name][:, :longest] for name in names[:2]}
        part = SongBatch(keys=batch.keys[rows], **songs)
        seeds = range(3)[rows]
        draws = draw(seeds, [length // 16 for length in num_frames[rows]], CONFIG, "cuda", with_dropout=False)
        with torch.no_grad():
            return model(part.to("cuda"), draws)

    together = run(slice(0, 3))
    for row in range(3):
        alone = run(slice(row, row + 1))
        assert_close(alone.ce_sum_B[0], together.ce_sum_B[row], rtol=tolerance, atol=0.0)
        assert_close(alone.flow_sum_B[0], together.flow_sum_B[row], rtol=tolerance, atol=0.0)


def test_compiled_layers_agree(model: SongModel) -> None:
    songs = make_inputs(CONFIG, 2, 320, "cuda")
    expected = model(*songs).loss()
    model.compile_layers()
    for num_songs in (2, 3):
        model(*make_inputs(CONFIG, num_songs, 320, "cuda")).loss().backward()
    assert_close(model(*songs).loss(), expected, rtol=1e-4, atol=0.0)


def test_a_song_is_the_one_that_the_cpu_writes(model: SongModel) -> None:
    config = SamplingConfig(max_frames=48, euler_steps=6, temperature=0.0, stop_at_eos=False)
    arguments = [[1, 20, 30], []], [torch.randn(20, 64), torch.zeros(0, 64)], [0, 1], config
    on_gpu = generate(model, *arguments)
    on_cpu = generate(model.cpu(), *arguments)
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found.semantic_tokens.tolist() == expected.semantic_tokens.tolist()
        assert_close(found.latents, expected.latents, rtol=1e-3, atol=1e-3)


def test_the_driver_says_of_the_gpu_what_pytorch_says() -> None:
    """In the order of nvidia-smi, which PyTorch's may differ from."""
    assert explain_unusable_gpu() is None
    assert choose_device("auto") == "cuda"
    facts = torch.cuda.get_device_properties(0)
    same = [gpu for gpu in read_gpus() if gpu.name == facts.name]
    assert same, read_gpus()
    assert same[0].compute_capability == (facts.major, facts.minor)
    assert same[0].memory_bytes == pytest.approx(facts.total_memory, rel=0.05)  # PyTorch leaves out what is reserved
    assert same[0].driver_cuda is not None
    assert int(same[0].driver.split(".")[0]) >= 450


def test_weights_in_bf16_take_no_float32_on_the_gpu(tmp_path: Path) -> None:
    config = load_config("miniature.yaml")
    path = tmp_path / "model.safetensors"
    save_file(SongModel(config.model).state_dict(), path, {"config": json.dumps(config.to_dict())})
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model, _ = load_model(path, "cuda", choose_dtype(None, "cuda"))
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if torch.cuda.is_bf16_supported(including_emulation=False):
        assert model.bos_D.dtype == torch.bfloat16
    assert torch.cuda.max_memory_allocated() - before < 1.05 * num_bytes  # tensors are rounded up to 512 bytes


def test_a_bf16_song_is_the_same_again(model: SongModel) -> None:
    config = SamplingConfig(max_frames=48, euler_steps=6, stop_at_eos=False)
    arguments = [[1, 20, 30], []], [torch.randn(20, 64), torch.zeros(0, 64)], [0, 1], config
    first, second = generate(model.bfloat16(), *arguments), generate(model, *arguments)
    for song, again in zip(first, second, strict=True):
        assert song.semantic_tokens.tolist() == again.semantic_tokens.tolist()
        assert torch.equal(song.latents, again.latents)
        assert song.latents.isfinite().all()
