"""Separation in a stream equals Demucs' own apply_model over the whole song, whatever it is cut into."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from pipeline.audio import decode as audio_module
from pipeline.audio.decode import Audio, fill
from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.separation.demucs_stream import StreamSeparator, in_precision
from pipeline.separation.demucs_weights import load_separator
from pipeline.separation.separate_vocals import SeparateVocals
from pipeline.song import Song
from pipeline.stage import StageError

RATE = 8_000
SOURCES = ["other", "vocals"]
SEGMENT_S = 0.5


def make_model(kind="HTDemucs", seed=0, segment=SEGMENT_S):
    from demucs.demucs import Demucs
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "HTDemucs":
            model = HTDemucs(
                SOURCES, channels=8, depth=2, t_layers=1, t_heads=2, nfft=512, samplerate=RATE, segment=segment
            )
        elif kind == "HDemucs":
            model = HDemucs(SOURCES, channels=8, samplerate=RATE, segment=segment)
        else:
            model = Demucs(SOURCES, channels=8, depth=3, lstm_layers=1, samplerate=RATE, segment=segment)
    return model.eval()


def make_bag(members=("HTDemucs", "HTDemucs")):
    from demucs.apply import BagOfModels

    return BagOfModels([make_model(kind, seed) for seed, kind in enumerate(members)], [[1.0, 0.5], [0.0, 2.0]])


def make_mix(num_samples: int, channels: int = 2) -> Audio:
    return np.random.default_rng(num_samples).normal(0.01, 0.2, (channels, num_samples)).astype(np.float32)


def run_plain(model, mix: Audio, overlap: float = 0.25) -> Audio:
    """What a user of the library writes."""
    from demucs.apply import apply_model

    wave = torch.from_numpy(mix)
    reference = wave.mean(0)
    mean, std = reference.mean(), reference.std() + 1e-8
    with torch.no_grad():
        stems = apply_model(model, ((wave - mean) / std)[None], shifts=0, split=True, overlap=overlap)
    vocals: Audio = (stems[0, SOURCES.index("vocals")] * std + mean).numpy()
    return vocals


def separate(model, mix: Audio, **settings) -> Audio:
    separator = StreamSeparator(model, "vocals", **settings)
    return np.concatenate(list(separator.separate(mix, RATE)), axis=1)


@pytest.mark.parametrize("num_samples", [2, 100, 3_999, 4_000, 4_001, 7_000, 7_001, 31_234])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equals_apply_model(num_samples, batch_size):
    model, mix = make_model(), make_mix(num_samples)
    found = separate(model, mix, batch_size=batch_size)
    # One segment after the other it is the same arithmetic; in a batch the order of sums may differ.
    np.testing.assert_allclose(found, run_plain(model, mix), atol=1e-6 if batch_size == 1 else 1e-5)


@pytest.mark.parametrize("kind", ["HDemucs", "Demucs", "bag", "bag of unlike models"])
def test_equals_apply_model_for_every_kind_of_model(kind):
    models = {"bag": make_bag, "bag of unlike models": lambda: make_bag(("HTDemucs", "Demucs"))}
    model, mix = models.get(kind, lambda: make_model(kind))(), make_mix(15_000)
    np.testing.assert_allclose(separate(model, mix, batch_size=2), run_plain(model, mix), atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.8])
def test_equals_apply_model_at_any_overlap(overlap):
    model, mix = make_model(), make_mix(9_999)
    np.testing.assert_allclose(separate(model, mix, overlap=overlap), run_plain(model, mix, overlap), atol=1e-6)


def test_does_not_depend_on_the_blocks_it_is_read_in(monkeypatch):
    model, mix = make_model(), make_mix(20_000)
    whole = separate(model, mix)
    for size in (999, 4_000, 12_345):
        monkeypatch.setattr(audio_module.iterate_blocks, "__defaults__", (size,))
        np.testing.assert_allclose(separate(model, mix), whole, atol=1e-6)  # the mean is summed block by block


def test_calls_agree_to_the_last_bit():
    model, mix = make_model(), make_mix(20_000)
    np.testing.assert_array_equal(separate(model, mix, batch_size=2), separate(model, mix, batch_size=2))


def test_memory_does_not_grow_with_the_song(monkeypatch):
    """NumPy's arrays are counted, beside the mix itself; the network's own memory is that of one batch."""
    monkeypatch.setattr(audio_module.iterate_blocks, "__defaults__", (10_000,))
    separator = StreamSeparator(make_model(), "vocals")
    peaks = []
    for seconds in (10, 40):
        mix = make_mix(seconds * RATE)
        tracemalloc.start()
        for _ in separator.separate(mix, RATE):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < mix.nbytes / 2


def test_bfloat16_stays_close_and_is_used():
    model, mix = make_model(), make_mix(20_000)
    exact, rough = separate(model, mix), separate(model, mix, precision="bfloat16")
    assert 0 < np.abs(rough - exact).max()
    assert np.square(rough - exact).mean() < 1e-3 * np.square(exact).mean()


def test_tf32_on_a_cpu_is_float32():
    model, mix = make_model(), make_mix(10_000)
    np.testing.assert_array_equal(separate(model, mix, precision="tf32"), separate(model, mix))


class SmallGpu(torch.nn.Module):
    """Halves the mix as its vocals, has no memory for more than `most` segments, and notes how it was called."""

    sources, samplerate, segment, audio_channels = SOURCES, RATE, SEGMENT_S, 2

    def __init__(self, most):
        super().__init__()
        self.most, self.sizes, self.precisions = most, [], set()

    def forward(self, mix):
        self.sizes.append(len(mix))
        self.precisions.add((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        if len(mix) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")
        return torch.stack([mix, mix / 2], dim=1)


def test_a_batch_without_memory_runs_in_halves():
    mix = make_mix(31_234)
    expected = separate(SmallGpu(8), mix, batch_size=8)
    assert np.abs(expected - mix / 2).max() > 1e-3  # it hears the normalised mix, and gives back the mean
    model = SmallGpu(2)
    np.testing.assert_array_equal(separate(model, mix, batch_size=8), expected)
    assert model.sizes[:4] == [8, 4, 2, 2]
    assert set(model.sizes[2:]) == {1, 2}
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 1\.50 GiB"):
        separate(SmallGpu(0), mix, batch_size=8)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("float32", "cpu", (False, "highest")),
        ("float32", "cuda", (False, "highest")),
        ("tf32", "cuda", (True, "high")),
        ("tf32", "cpu", (False, "highest")),
        ("bfloat16", "cpu", (False, "highest")),
    ],
)
def test_precision_is_that_of_the_settings_and_not_of_the_process(precision, device, expected):
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with in_precision(precision, device):
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == expected
        assert torch.is_autocast_enabled("cpu") == (precision == "bfloat16")
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before
    assert not torch.is_autocast_enabled("cpu")
    model = SmallGpu(8)
    separate(model, make_mix(10_000), precision=precision)  # on the CPU of this machine
    assert model.precisions == {(False, "highest")}


@pytest.mark.parametrize("settings", [{"overlap": 1.0}, {"overlap": -0.1}, {"batch_size": 0}])
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match="expected 0 to below 1, and at least 1"):
        StreamSeparator(make_model(), "vocals", **settings)


# ---- the stage, with the miniature


@pytest.fixture(scope="module")
def stage():
    stage = SeparateVocals(SeparateVocals.Config(model_path=MINIATURE_FOLDER / "separator", accompaniment_share=0.5))
    stage.setup()
    return stage


@pytest.mark.parametrize(
    ("channels", "rate", "seconds"), [(1, 8_000, 0.1), (2, 192_000, 0.5), (2, 48_000, 1.0), (1, 44_100, 7.0)]
)
def test_stems_have_the_rate_and_length_of_the_mix(stage, tmp_path, channels, rate, seconds):
    mix = make_mix(int(seconds * rate), channels)
    song = Song(song_id="x", path=tmp_path, audio="x.wav", mix=mix.copy(), sample_rate=rate)
    assert stage.process(song) is song
    np.testing.assert_array_equal(song.vocals, stage.separate(mix, rate))  # written over the mix, yet not from it
    assert song.vocals.shape == (2, mix.shape[1])
    assert song.voice.shape == song.speech.shape == (round(mix.shape[1] * 16_000 / rate),)
    assert all(np.isfinite(part).all() for part in (song.vocals, song.voice, song.speech))
    assert 0 <= song.metrics["vocal_ratio"] <= 1
    blend = audio_module.resample(0.5 * (song.vocals + audio_module.to_stereo(mix)), rate, 16_000).mean(axis=0)
    np.testing.assert_allclose(song.speech, blend, atol=1e-4)


@pytest.mark.parametrize("rate", [RATE, 12_000])
def test_vocals_are_written_over_the_mix_after_it_was_read(tmp_path, monkeypatch, rate):
    monkeypatch.setattr("pipeline.separation.demucs_weights.load_separator", lambda _: make_model())
    monkeypatch.setattr(audio_module.iterate_blocks, "__defaults__", (1_000,))
    stage = SeparateVocals(SeparateVocals.Config(model_path=tmp_path, batch_size=2))
    stage.setup()
    mix = make_mix(40_000)
    song = Song(song_id="x", path=tmp_path, audio="x.wav", mix=mix.copy(), sample_rate=rate)
    stage.process(song)
    np.testing.assert_array_equal(song.vocals, stage.separate(mix, rate))
    assert song.mix is None


def test_vocals_that_nobody_keeps_are_gone(stage, tmp_path, monkeypatch):
    """Later stages hear the voice at 16 kHz, which is the same."""
    mix = make_mix(48_000)
    songs = [Song(song_id="x", path=tmp_path, audio="x.wav", mix=mix.copy(), sample_rate=48_000) for _ in range(2)]
    stage.process(songs[0])
    monkeypatch.setattr(stage, "config", replace(stage.config, keep_vocals=False))
    stage.process(songs[1])
    assert songs[0].vocals is not None
    assert songs[1].vocals is None
    np.testing.assert_array_equal(songs[0].voice, songs[1].voice)
    assert songs[0].metrics == songs[1].metrics


def test_silence_stays_silent(stage, tmp_path):
    song = Song(song_id="x", path=tmp_path, audio="x.wav", mix=np.zeros((2, 48_000), np.float32), sample_rate=48_000)
    stage.process(song)
    assert np.abs(song.vocals).max() < 1e-4
    assert np.isfinite(song.metrics["vocal_ratio"])


def test_a_model_without_vocals_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.separation.demucs_weights.load_separator", lambda _: SimpleModel())
    with pytest.raises(StageError, match=r"sources \['drums'\], expected one named vocals"):
        SeparateVocals(SeparateVocals.Config(model_path=tmp_path)).setup()


class SimpleModel:
    sources = ["drums"]  # noqa: RUF012


def test_miniature_equals_apply_model_on_a_song(shared):
    samples, rate = soundfile.read(shared / "songs" / "dev" / "dev_01_en_slt" / "mixture.flac", dtype="float32")
    mix = np.ascontiguousarray(audio_module.resample(samples[: 10 * rate].T, rate, 44_100))
    model = load_separator(MINIATURE_FOLDER / "separator")
    separator = StreamSeparator(model, "vocals")
    found = fill(np.empty_like(mix), separator.separate(mix, 44_100))
    from demucs.apply import apply_model

    wave = torch.from_numpy(mix)
    mean, std = wave.mean(0).mean(), wave.mean(0).std() + 1e-8
    stems = apply_model(model, ((wave - mean) / std)[None], shifts=0)[0]
    np.testing.assert_allclose(found, stems[model.sources.index("vocals")] * std + mean, atol=1e-6)
