"""The VAE: both layouts against a plain network written here, chunks against the whole, hostile checkpoints."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.audio.decode import Audio
from pipeline.encoding.vae_checkpoint import context_frames
from pipeline.encoding.vae_latents import AudioLengthError, VaeCodec, cut_prompt
from pipeline.model_files.errors import ModelFileError
from pipeline.parity import check_vae
from shards.schema import count_frames

STRIDES = (2, 4, 4, 6, 10)
MULTIPLES = (1, 1, 2, 2, 2)
CHANNELS, LATENTS, HOP = 6, 4, 1_920
CONFIG = {
    "sample_rate": 48_000,
    "model": {
        "encoder": {
            "type": "oobleck",
            "config": {
                "in_channels": 2,
                "channels": CHANNELS,
                "c_mults": list(MULTIPLES),
                "strides": list(STRIDES),
                "latent_dim": 2 * LATENTS,
                "use_snake": True,
            },
        },
        "decoder": {
            "type": "oobleck",
            "config": {
                "out_channels": 2,
                "channels": CHANNELS,
                "c_mults": list(MULTIPLES),
                "strides": list(STRIDES),
                "latent_dim": LATENTS,
                "use_snake": True,
                "final_tanh": False,
            },
        },
        "bottleneck": {"type": "vae"},
        "latent_dim": LATENTS,
    },
}

# A plain Oobleck network from its published description, with the attribute names of stable-audio-tools' checkpoints.


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.randn(channels) / 4), nn.Parameter(torch.randn(channels) / 4)

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + torch.sin(alpha * x) ** 2 / (beta + 1e-9)


class Layers(nn.Module):
    def __init__(self, *modules: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers, self.residual = nn.Sequential(*modules), residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def conv(inputs: int, outputs: int, kernel: int, **settings: int | bool) -> nn.Module:
    return nn.utils.weight_norm(nn.Conv1d(inputs, outputs, kernel, **settings))  # type: ignore[arg-type]


def residuals(channels: int) -> list[nn.Module]:
    return [
        Layers(
            Snake(channels),
            conv(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            conv(channels, channels, 1),
            residual=True,
        )
        for dilation in (1, 3, 9)
    ]


class PlainVae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [CHANNELS * multiple for multiple in (1, *MULTIPLES)]
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for index, stride in enumerate(STRIDES):
            low, high = widths[index], widths[index + 1]
            half = math.ceil(stride / 2)
            down.append(Layers(*residuals(low), Snake(low), conv(low, high, 2 * stride, stride=stride, padding=half)))
            transposed = nn.utils.weight_norm(nn.ConvTranspose1d(high, low, 2 * stride, stride=stride, padding=half))
            up.insert(0, Layers(Snake(high), transposed, *residuals(low)))
        top = widths[-1]
        self.encoder = Layers(conv(2, CHANNELS, 7, padding=3), *down, Snake(top), conv(top, 2 * LATENTS, 3, padding=1))
        self.decoder = Layers(
            conv(LATENTS, top, 7, padding=3), *up, Snake(CHANNELS), conv(CHANNELS, 2, 7, padding=3, bias=False)
        )


@pytest.fixture(scope="module")
def plain() -> PlainVae:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PlainVae().eval()


@pytest.fixture
def folder(plain: PlainVae, tmp_path: Path) -> Path:
    return write_folder(tmp_path / "vae", plain.state_dict())


def write_folder(folder: Path, tensors: dict[str, Tensor], config: object = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_audio(num_samples: int, seed: int = 0) -> Audio:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (2, num_samples)).astype(np.float32)


def run_plain(plain: PlainVae, audio: Audio) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        mean, scale = plain.encoder(torch.from_numpy(audio)[None])[0].chunk(2)
        return mean.T.numpy(), (torch.log1p(torch.exp(scale.double())) + 1e-4).T.numpy()


def test_equals_a_plain_network(plain: PlainVae, folder: Path) -> None:
    codec, audio = VaeCodec(folder), make_audio(12 * HOP)
    mean, std = codec.encode(audio)
    expected_mean, expected_std = run_plain(plain, audio)
    assert mean.dtype == std.dtype == np.float32
    assert mean.flags.c_contiguous
    np.testing.assert_allclose(mean, expected_mean, atol=1e-5)
    np.testing.assert_allclose(std, expected_std, atol=1e-5)
    with torch.no_grad():
        expected_audio = plain.decoder(torch.from_numpy(mean.T)[None])[0].numpy()
    np.testing.assert_allclose(codec.decode(mean), expected_audio, atol=1e-5)


def test_diffusers_folder_loads_like_diffusers(tmp_path: Path) -> None:
    from diffusers import AutoencoderOobleck

    with torch.random.fork_rng():
        torch.manual_seed(1)
        reference = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=list(STRIDES),
            channel_multiples=list(MULTIPLES),
            decoder_channels=6,
            decoder_input_channels=4,
            sampling_rate=48_000,
        ).eval()
    reference.save_pretrained(tmp_path)
    codec, audio = VaeCodec(tmp_path), make_audio(5 * HOP)
    with torch.no_grad():
        posterior = reference.encode(torch.from_numpy(audio)[None]).latent_dist
        decoded = reference.decode(posterior.mean).sample[0].numpy()
    mean, std = codec.encode(audio)
    np.testing.assert_allclose(mean.T, posterior.mean[0], atol=1e-5)
    np.testing.assert_allclose(std.T, posterior.std[0], atol=1e-5)
    np.testing.assert_allclose(codec.decode(mean), decoded, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "autoencoder.", "vae.vae."])
def test_checkpoint_with_a_prefix(plain: PlainVae, tmp_path: Path, prefix: str) -> None:
    state = {prefix + key: value for key, value in plain.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "vae.ckpt")
    (tmp_path / "vae.json").write_text(json.dumps(CONFIG))
    audio = make_audio(3 * HOP)
    np.testing.assert_allclose(VaeCodec(tmp_path / "vae.ckpt").encode(audio)[0], run_plain(plain, audio)[0], atol=1e-5)


def test_float16_and_new_weight_norm_names(plain: PlainVae, tmp_path: Path) -> None:
    new_names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    state = {}
    for key, value in plain.state_dict().items():
        head, _, tail = key.rpartition(".")
        state[f"{head}.{new_names.get(tail, tail)}"] = value.half()
    audio = make_audio(3 * HOP)
    mean = VaeCodec(write_folder(tmp_path, state)).encode(audio)[0]
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, run_plain(plain, audio)[0], rtol=0.05, atol=0.02)


def test_reference_fixture(shared: Path) -> None:
    result = check_vae(shared / "reference" / "dev_vae")
    assert max(result["relative_errors"].values()) < 1e-5  # float32; the order of sums gives about 1e-6
    assert result["ok"]


@pytest.mark.parametrize("chunk_frames", [1, 3, 8, 250])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_chunks_equal_the_whole(plain: PlainVae, folder: Path, chunk_frames: int, batch_size: int) -> None:
    codec, audio = VaeCodec(folder, chunk_frames=chunk_frames, batch_size=batch_size), make_audio(40 * HOP)
    mean, std = codec.encode(audio)
    expected_mean, expected_std = run_plain(plain, audio)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-5)
    np.testing.assert_allclose(std, expected_std, atol=1e-5)
    with torch.no_grad():
        expected = plain.decoder(torch.from_numpy(expected_mean.T.copy())[None])[0].numpy()
    np.testing.assert_allclose(codec.decode(np.ascontiguousarray(expected_mean)), expected, atol=1e-5)


class SmallGpu(nn.Module):
    """A network that has no memory for more than some chunks at a time, and notes how it was called."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most
        self.sizes: list[int] = []
        self.precisions: set[tuple[bool, str]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        self.precisions.add((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        y: Tensor = self.network(x)
        return y


def put_on_gpu(codec: VaeCodec, most: int) -> tuple[SmallGpu, SmallGpu]:
    model = codec._model
    model.encoder, model.decoder = SmallGpu(model.encoder, most), SmallGpu(model.decoder, most)
    return model.encoder, model.decoder


def test_a_batch_without_memory_runs_in_halves(folder: Path) -> None:
    audio = make_audio(60 * HOP)
    codec = VaeCodec(folder, chunk_frames=4)
    mean, std = codec.encode(audio)
    decoded = codec.decode(mean)
    codec = VaeCodec(folder, chunk_frames=4, batch_size=8)
    encoder, decoder = put_on_gpu(codec, most=2)
    np.testing.assert_allclose(codec.encode(audio), (mean, std), atol=1e-5)
    np.testing.assert_allclose(codec.decode(mean), decoded, atol=1e-5)
    for network in (encoder, decoder):  # chunks at the ends have other lengths, and run by themselves
        start = network.sizes.index(8)
        assert network.sizes[start : start + 6] == [8, 4, 2, 2, 2, 2]
        assert max(network.sizes[start + 6 :]) <= 2
    encoder.most = decoder.most = 0
    for call in (lambda: codec.encode(audio), lambda: codec.decode(mean)):
        with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 3\.00 GiB"):
            call()


def test_it_is_ieee_float32_whatever_the_process_has_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = VaeCodec(folder)
    encoder, decoder = put_on_gpu(codec, most=1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    codec.decode(codec.encode(make_audio(9_600))[0])
    assert encoder.precisions == decoder.precisions == {(False, "highest")}
    assert torch.backends.cudnn.allow_tf32


def test_context_is_the_reach_of_the_network(plain: PlainVae) -> None:
    num_frames, middle = 31, 15
    encoder_context, decoder_context = context_frames(STRIDES)
    audio = torch.from_numpy(make_audio(num_frames * HOP))[None].requires_grad_()
    plain.encoder(audio)[0, :, middle].sum().backward()
    assert audio.grad is not None
    touched = audio.grad[0].abs().sum(0).reshape(num_frames, HOP).sum(1).nonzero()[:, 0]
    assert max(middle - int(touched.min()), int(touched.max()) - middle) == encoder_context
    latents = torch.randn(1, LATENTS, num_frames, requires_grad=True)
    plain.decoder(latents)[0, :, middle * HOP : (middle + 1) * HOP].sum().backward()
    assert latents.grad is not None
    touched = latents.grad[0].abs().sum(0).nonzero()[:, 0]
    assert max(middle - int(touched.min()), int(touched.max()) - middle) == decoder_context


@pytest.mark.parametrize("num_samples", [1_920, 1_921, 3_839, 3_840, 4_800, 48_000, 100_001])
def test_clock(folder: Path, num_samples: int) -> None:
    codec, audio = VaeCodec(folder, chunk_frames=20), make_audio(num_samples)
    mean, std = codec.encode(audio)
    num_frames = count_frames(num_samples, 48_000)
    assert mean.shape == std.shape == (num_frames, LATENTS)
    assert (std > 0).all()
    assert codec.decode(mean).shape == (2, num_frames * HOP)
    np.testing.assert_array_equal(mean, codec.encode(audio[:, : num_frames * HOP])[0])


@pytest.mark.parametrize(
    ("audio", "error", "message"),
    [
        (make_audio(1_919), AudioLengthError, "1919 samples, expected at least one frame of 1920"),
        (make_audio(0), AudioLengthError, "0 samples"),
        (make_audio(9_600)[:1], ValueError, r"\(1, 9600\), expected float32 \[2, L\]"),
        (make_audio(9_600).astype(np.float64), ValueError, "float64"),
        (np.full((2, 9_600), np.nan, np.float32), ValueError, "not finite"),
    ],
    ids=["short", "empty", "mono", "double", "nan"],
)
def test_audio_that_cannot_be_encoded(folder: Path, audio: Audio, error: type[ValueError], message: str) -> None:
    with pytest.raises(error, match=message):
        VaeCodec(folder).encode(audio)


def test_latents_that_cannot_be_decoded(folder: Path) -> None:
    codec = VaeCodec(folder)
    for latents in (np.zeros((3, LATENTS + 1)), np.zeros((0, LATENTS)), np.full((3, LATENTS), np.inf)):
        with pytest.raises(ValueError, match=r"expected \[T > 0, 4\]|not finite"):
            codec.decode(latents.astype(np.float32))


def test_silence_encodes_and_calls_agree(folder: Path) -> None:
    codec = VaeCodec(folder)
    first, second = codec.encode(np.zeros((2, 9_600), np.float32)), codec.encode(np.zeros((2, 9_600), np.float32))
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


def test_read_only_arrays_are_taken_without_a_warning(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    audio = make_audio(30 * HOP)
    audio.flags.writeable = False
    codec = VaeCodec(folder)
    codec.decode(codec.encode(audio)[0])
    assert not recwarn.list


def test_prompts_are_mono_and_encoded_by_themselves(folder: Path) -> None:
    codec, audio = VaeCodec(folder, chunk_frames=64), make_audio(300 * HOP)
    prompts = codec.encode_prompts(audio, [20, 260])
    assert prompts.shape == (2, 250, LATENTS)
    clip = audio[:, 20 * HOP : 270 * HOP].mean(axis=0)
    np.testing.assert_allclose(prompts[0], codec.encode(np.stack([clip, clip]))[0], atol=1e-5)
    assert np.abs(prompts[1, :40]).max() > 0
    assert (prompts[1, 40:] == 0).all()
    with pytest.raises(ValueError, match="prompt at frame 300 of a song of 300"):
        codec.encode_prompts(audio, [300])


def test_cut_prompt_repeats_the_mean_of_the_channels() -> None:
    audio = make_audio(260 * HOP)
    prompt = cut_prompt(audio, 5, HOP)
    assert prompt.shape == (2, 250 * HOP)
    np.testing.assert_array_equal(prompt[0], prompt[1])
    np.testing.assert_allclose(prompt[0], audio[:, 5 * HOP : 255 * HOP].mean(axis=0), atol=1e-7)


# ---- checkpoints that must be refused


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "beside"])
def test_payload_is_refused_and_never_run(plain: PlainVae, tmp_path: Path, how: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "vae.ckpt"
    payload: object = Payload(target)
    if how == "beside":  # the weights are fine, the payload is another entry
        payload = {"state_dict": plain.state_dict(), "extra": payload}
    if how == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(ModelFileError, match=r"vae\.ckpt.*nothing of it was run"):
        VaeCodec(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()  # so the payload would have worked


WEIGHT = "encoder.layers.3.layers.1.layers.1.weight_v"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHT: None}, rf"{WEIGHT} is missing"),
        ({"decoder.layers.99.bias": torch.zeros(3)}, r"decoder\.layers\.99\.bias is unexpected"),
        ({"discriminator.0.weight": torch.zeros(3)}, r"discriminator\.0\.weight is unexpected"),
        ({WEIGHT: torch.zeros(6, 6, 5)}, rf"{WEIGHT} has shape \(6, 6, 5\), expected \(6, 6, 7\)"),
        ({WEIGHT: torch.full((6, 6, 7), math.nan)}, rf"{WEIGHT} holds values that are not finite"),
        (
            {WEIGHT: torch.zeros(6, 6, 7, dtype=torch.int64)},
            rf"{WEIGHT} is torch.int64, expected floating-point numbers",
        ),
        ({WEIGHT.replace("weight_v", "parametrizations.weight.original1"): torch.zeros(6, 6, 7)}, "1 tensors twice"),
    ],
    ids=["missing", "extra", "other", "shape", "nan", "integers", "twice"],
)
def test_weights_that_do_not_fit(
    plain: PlainVae, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state: dict[str, Tensor | None] = {**plain.state_dict(), **change}
    write_folder(tmp_path, {key: value for key, value in state.items() if value is not None})
    with pytest.raises(ModelFileError, match=message):
        VaeCodec(tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("encoder", {"channels": 8}, r"encoder\.layers\.0\.weight_g has shape \(6, 1, 1\), expected \(8, 1, 1\)"),
        ("encoder", {"channels": 10**6}, "more than 65536 channels"),
        ("encoder", {"channels": -1}, "channels is -1, expected a positive whole number"),
        ("encoder", {"use_snake": False}, r"encoder\.use_snake is False, expected True"),
        ("decoder", {"final_tanh": True}, r"decoder\.final_tanh is True, expected False"),
        ("decoder", {"strides": [2, 4, 4, 8, 8]}, r"decoder\.strides"),
        ("decoder", {"latent_dim": 5}, r"decoder\.latent_dim is 5, expected 4"),
        ("encoder", {"c_mults": "12345"}, r"decoder\.c_mults"),
        ("encoder", {"type": "dac"}, r"encoder\.type is 'dac'"),
    ],
)
def test_configs_that_do_not_fit(folder: Path, part: str, change: dict[str, object], message: str) -> None:
    config = json.loads(json.dumps(CONFIG))
    place = config["model"][part] if "type" in change else config["model"][part]["config"]
    place.update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=message):
        VaeCodec(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "\udc00", '{"model": 3}', '{"model": {"encoder": []}}', "[" * 100_000]
)
def test_configs_that_are_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelFileError, match=r"config\.json"):
        VaeCodec(folder)


def test_other_clock_is_refused(tmp_path: Path, plain: PlainVae) -> None:
    write_folder(tmp_path, plain.state_dict(), CONFIG | {"sample_rate": 44_100})
    with pytest.raises(ModelFileError, match="1920 samples a frame at 44100 Hz"):
        VaeCodec(tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_damaged_files_are_refused_whatever_is_damaged(plain: PlainVae, tmp_path: Path, suffix: str) -> None:
    good, path = tmp_path / f"good{suffix}", tmp_path / f"vae{suffix}"
    state = {key: value.contiguous() for key, value in plain.state_dict().items()}
    torch.save(state, good) if suffix == ".ckpt" else save_file(state, good)
    content, rng = good.read_bytes(), np.random.default_rng(0)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for size in (0, 1, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError):
            VaeCodec(path)
    for _ in range(20):  # bytes flipped in the header: an error of ours or, where only names of files changed, weights
        damaged = bytearray(content)
        for position in rng.integers(0, 3_000, 20):
            damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            VaeCodec(path)
        except ModelFileError as error:
            assert f"vae{suffix}" in str(error)  # noqa: PT017 (either outcome is right, but no other error)


def test_folder_without_weights_or_config(plain: PlainVae, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"missing; expected the weights of a VAE and their config"):
        VaeCodec(tmp_path)
    write_folder(tmp_path, plain.state_dict())
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json missing; expected the weights of a VAE"):
        VaeCodec(tmp_path)


def test_lone_file_is_taken_for_the_released_vae(plain: PlainVae, tmp_path: Path) -> None:
    save_file(dict(plain.state_dict()), tmp_path / "vae.safetensors")
    with pytest.raises(ModelFileError, match=r"layers\.0\.weight_g has shape \(12, 1, 1\), expected \(2048, 1, 1\)"):
        VaeCodec(tmp_path / "vae.safetensors")
