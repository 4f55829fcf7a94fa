"""Semantic tokens: windows, the clock, and agreement with MuQ called directly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.decode import decode_audio
from pipeline.encoding.codebook import Codebook
from pipeline.encoding.encode_song import frames_of, semantic_audio
from pipeline.encoding.semantic_tokens import MonoAudio, SemanticTokenizer, plan_windows
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.names import MINIATURE_FOLDER
from shards.schema import count_frames

from .small_muq import DEPTH, HOP, WIDTH, make_audio, make_muq, run_muq, write_folder


@pytest.fixture(scope="module")
def muq() -> Any:
    return make_muq()


@pytest.fixture(scope="module")
def folder(muq: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("muq")
    return write_folder(path, muq.state_dict())


@pytest.fixture(scope="module")
def codebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("codebook")
    generator = torch.Generator().manual_seed(0)
    Codebook(
        project_in=torch.randn(4, WIDTH, generator=generator),
        center=torch.zeros(WIDTH),
        codes=torch.randn(50, 4, generator=generator),
        project_out=torch.randn(WIDTH, 4, generator=generator),
        bias_out=torch.zeros(WIDTH),
        metadata={"muq_layer": 1},
    ).save(path)
    return path


def make_tokenizer(folder: Path, codebook: Path | None = None, **config: Any) -> SemanticTokenizer:
    tokenizer = SemanticTokenizer(folder, codebook, **({"layer": 1} | config))
    tokenizer.setup()
    return tokenizer


@pytest.mark.parametrize("layer", range(DEPTH + 1))
def test_one_window_equals_muq(muq: Any, folder: Path, layer: int) -> None:
    audio = make_audio(50 * HOP)
    features = make_tokenizer(folder, layer=layer).features(audio, 50)
    assert features.shape == (50, WIDTH)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, run_muq(muq, audio, layer), atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_equal_muq_on_each_window(muq: Any, folder: Path, batch_size: int) -> None:
    tokenizer = make_tokenizer(folder, window_s=2.0, margin_s=0.4, batch_size=batch_size)
    audio = make_audio(137 * HOP)
    features = tokenizer.features(audio, 137)
    expected = np.full_like(features, np.nan)
    for start, keep_start, keep_stop in [(0, 0, 40), (30, 40, 70), (60, 70, 100), (87, 100, 137)]:
        window = run_muq(muq, audio[start * HOP : (start + 50) * HOP], 1)
        expected[keep_start:keep_stop] = window[keep_start - start : keep_stop - start]
    np.testing.assert_allclose(features, expected, atol=1e-4)


@given(
    num_frames=st.integers(1, 90_000),
    margin=st.integers(0, 60),
    extra=st.integers(2, 900),
)
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_song_once(num_frames: int, margin: int, extra: int) -> None:
    window_frames = 2 * margin + extra
    windows = plan_windows(num_frames, window_frames, margin)
    assert {window.stop - window.start for window in windows} == {min(window_frames, num_frames)}
    kept = [(window.keep_start, window.keep_stop) for window in windows]
    assert kept[0][0] == 0
    assert kept[-1][1] == num_frames
    assert all(first[1] == second[0] for first, second in zip(kept, kept[1:], strict=False))
    for window in windows:
        assert 0 <= window.start <= window.keep_start < window.keep_stop <= window.stop <= num_frames
        assert window.start == 0 or window.keep_start - window.start >= margin
        assert window.stop == num_frames or window.stop - window.keep_stop == margin


@given(num_samples=st.integers(4_410, 44_100 * 20))
@settings(max_examples=25, deadline=None)
def test_clock_is_that_of_the_song(num_samples: int) -> None:
    num_frames = count_frames(num_samples, 44_100)
    resampled = np.zeros(round(num_samples * 24_000 / 44_100), np.float32)
    tokenizer = _CountingTokenizer(Path(), None, layer=0, window_s=4.0, margin_s=0.5, batch_size=2)
    features = tokenizer.features(resampled, num_frames)
    np.testing.assert_array_equal(features[:, 0], np.arange(num_frames) % 3)


class _CountingTokenizer(SemanticTokenizer):
    """Answers with frame numbers modulo 3, worked out from where a window starts: 100 frames step by 75 or by fewer."""

    feature_dim = 1

    def features(self, audio: MonoAudio, num_frames: int) -> np.ndarray:
        self._starts = [window.start for window in plan_windows(num_frames, 100, 12)]
        return super().features(audio, num_frames)

    def _hidden(self, samples: np.ndarray) -> np.ndarray:
        starts, self._starts = self._starts[: len(samples)], self._starts[len(samples) :]
        num_frames = samples.shape[1] // HOP
        return np.stack([np.arange(start, start + num_frames) % 3 for start in starts])[..., None].astype(np.float32)


@pytest.mark.parametrize("num_samples", [960, 1_500, 2_400, 24_000, 24_000 * 3 + 1])
def test_short_audio(folder: Path, codebook: Path, num_samples: int) -> None:
    num_frames = num_samples // HOP
    tokens = make_tokenizer(folder, codebook).tokens(make_audio(num_samples), num_frames)
    assert tokens.shape == (num_frames,)
    assert tokens.dtype == np.uint16
    assert tokens.max() < 50


def test_audio_a_sample_short_is_filled_with_silence(folder: Path) -> None:
    tokenizer, audio = make_tokenizer(folder), make_audio(20 * HOP)
    audio[-1] = 0
    np.testing.assert_array_equal(tokenizer.features(audio[:-1], 20), tokenizer.features(audio, 20))
    longer = np.concatenate([audio, make_audio(500)])
    np.testing.assert_array_equal(tokenizer.features(longer, 20), tokenizer.features(audio, 20))


def test_silence_and_repeated_calls(folder: Path, codebook: Path) -> None:
    tokenizer = make_tokenizer(folder, codebook, window_s=2.0, margin_s=0.4)
    silence = np.zeros(200 * HOP, np.float32)
    assert np.isfinite(tokenizer.features(silence, 200)).all()
    audio = make_audio(200 * HOP)
    np.testing.assert_array_equal(tokenizer.tokens(audio, 200), tokenizer.tokens(audio, 200))
    np.testing.assert_array_equal(
        tokenizer.tokens(audio, 200), make_tokenizer(folder, codebook, window_s=2.0, margin_s=0.4).tokens(audio, 200)
    )


@pytest.mark.parametrize(
    ("audio", "num_frames", "message"),
    [
        (make_audio(500), 0, "0 frames: audio shorter than 1 / 25 s"),
        (make_audio(48_000), 25, "48000 samples, expected about 24000 for 25 frames"),
        (make_audio(16_000), 25, "16000 samples, expected about 24000"),
        (make_audio(24_000)[None], 25, r"\(1, 24000\), expected float32 \[L\], mono"),
        (make_audio(24_000).astype(np.float64), 25, "float64"),
        (np.full(24_000, np.nan, np.float32), 25, "not finite"),
    ],
    ids=["empty", "48k", "16k", "stereo", "double", "nan"],
)
def test_audio_without_tokens(folder: Path, audio: MonoAudio, num_frames: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tokenizer(folder).features(audio, num_frames)


def test_tokens_need_a_codebook(folder: Path) -> None:
    with pytest.raises(ValueError, match="set codebook_path"):
        make_tokenizer(folder).tokens(make_audio(HOP), 1)


@pytest.mark.parametrize("config", [{"margin_s": 15.0}, {"margin_s": -1.0}, {"batch_size": 0}])
def test_wrong_settings(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="more than two margins"):
        SemanticTokenizer(Path(), None, layer=1, **config)


def test_codebook_of_another_muq(folder: Path, codebook: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="fitted on MuQ layer 1, but the profile takes 2"):
        make_tokenizer(folder, codebook, layer=2)
    other = Codebook.load(codebook)
    other.metadata = {"muq_sha256": "0" * 64}
    other.save(tmp_path)
    with pytest.raises(ModelFileError, match="fitted on another MuQ"):
        make_tokenizer(folder, tmp_path)
    other.metadata = {"muq_sha256": fingerprint_model(folder, "muq")}
    other.save(tmp_path)
    assert len(make_tokenizer(folder, tmp_path).tokens(make_audio(HOP * 5), 5)) == 5
    narrow = Codebook(
        project_in=torch.ones(2, 8),
        center=torch.zeros(8),
        codes=torch.ones(3, 2),
        project_out=torch.ones(8, 2),
        bias_out=torch.zeros(8),
    )
    narrow.save(tmp_path)
    with pytest.raises(ModelFileError, match="a codebook for 8 features, .* has 16"):
        make_tokenizer(folder, tmp_path)


# ---- what a GPU does


class SmallGpu(torch.nn.Module):
    """A MuQ that has no memory for more than some windows at a time, and notes how it was called."""

    def __init__(self, muq: Any, most: int) -> None:
        super().__init__()
        self.muq, self.most = muq, most
        self.sizes: list[int] = []
        self.precisions: set[tuple[bool, str]] = set()

    def forward(self, audio: torch.Tensor, **settings: Any) -> Any:
        self.sizes.append(len(audio))
        self.precisions.add((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        if len(audio) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.muq(audio, **settings)


def test_a_batch_without_memory_runs_in_halves(folder: Path, codebook: Path) -> None:
    settings: dict[str, Any] = {"window_s": 1.0, "margin_s": 0.2}
    audio = make_audio(140 * HOP)
    expected = make_tokenizer(folder, codebook, **settings).features(audio, 140)
    tokenizer = make_tokenizer(folder, codebook, batch_size=8, **settings)
    gpu = tokenizer._muq = SmallGpu(tokenizer._muq, most=3)
    np.testing.assert_allclose(tokenizer.features(audio, 140), expected, atol=1e-5)
    assert gpu.sizes == [8, 4, 2, 2, 2, 2, 1]  # nine windows
    gpu.most = 0
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 2\.00 GiB"):
        tokenizer.features(audio, 140)


def test_features_and_tokens_are_ieee_float32_whatever_the_process_has_set(
    folder: Path, codebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tokenizer(folder, codebook)
    gpu = tokenizer._muq = SmallGpu(tokenizer._muq, most=8)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        tokenizer.tokens(make_audio(20 * HOP), 20)
        assert gpu.precisions == {(False, "highest")}
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, "medium")
    finally:
        torch.set_float32_matmul_precision(before)


# ---- what a window does to the miniature's features


def test_features_away_from_the_edges_hardly_depend_on_the_window(shared: Path) -> None:
    """Two windows of 30 s, 5 s apart. MuQ attends to its whole window, so nothing is quite equal: see README."""
    decoded = decode_audio(shared / "songs" / "dev" / "dev_01_en_slt" / "mixture.flac")
    audio, shift = semantic_audio(decoded, frames_of(decoded)), 125
    tokenizer = SemanticTokenizer(MINIATURE_FOLDER / "muq", None, layer=3)
    tokenizer.setup()
    first = tokenizer.features(audio[: 750 * HOP], 750)[shift:]
    second = tokenizer.features(audio[shift * HOP : (shift + 750) * HOP], 750)[: 750 - shift]
    cosines = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    margin = 25  # what is discarded: 1 s
    assert cosines[margin:-margin].min() > 0.985
    assert cosines[margin:-margin].mean() > 0.995
    assert min(cosines[:5].min(), cosines[-5:].min()) < 0.96  # at the edge itself, which no token comes from
