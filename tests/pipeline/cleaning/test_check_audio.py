import numpy as np
import pytest
import soundfile
import soxr

from pipeline.cleaning.check_audio import CheckAudio, measure_audio
from pipeline.song import Drop, Song


def check(tmp_path, samples: np.ndarray, rate: int = 48_000, **config):
    soundfile.write(tmp_path / "a.wav", samples.T, rate, subtype="FLOAT")
    return CheckAudio(CheckAudio.Config(**config)).process(Song(song_id="a", path=tmp_path / "a.wav", audio="a.wav"))


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal((2, int(seconds * 48_000)))).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "config", "reason"),
    [
        (noise(0.5), {}, "too_short"),
        (noise(3.0), {"max_duration_s": 2.0}, "too_long"),
        (np.zeros((2, 96_000), np.float32), {}, "silent"),
        (np.sign(noise(2.0)), {"max_clipped_share": 0.5}, "clipped"),
    ],
)
def test_songs_that_no_stage_could_use_are_dropped(tmp_path, samples, config, reason):
    result = check(tmp_path, samples, **config)
    assert isinstance(result, Drop)
    assert result.reason == reason


def test_faults_that_are_no_reason_to_drop_are_warnings(tmp_path):
    one_channel = noise(2.0)
    one_channel[1] = 0
    assert check(tmp_path, one_channel).warnings == ["one_channel_silent"]
    opposite = noise(2.0)
    opposite[1] = -opposite[0]
    assert check(tmp_path, opposite).warnings == ["antiphase"]
    assert check(tmp_path, noise(2.0) + 0.2).warnings == ["dc_offset"]
    assert check(tmp_path, noise(2.0)[[0, 0]]).warnings == ["mono_as_stereo"]
    mostly_silent = noise(4.0)
    mostly_silent[:, 96_000:] = 0
    mostly_silent[:, 90_000:96_000] = 0
    assert check(tmp_path, mostly_silent).warnings == ["mostly_silent"]
    assert check(tmp_path, noise(2.0)).warnings == []


@pytest.mark.parametrize("gain", [4.0, 1000.0])
@pytest.mark.parametrize("level", [1.0, 0.3])
def test_clipping_shows_at_any_level_and_under_an_offset(tmp_path, gain, level):
    """A square wave that a limiter has made quieter is as clipped as before."""
    clipped = level * np.clip(gain * noise(2.0), -0.5, 0.5).astype(np.float32)
    assert "clipped" in check(tmp_path, clipped).warnings
    assert "clipped" in check(tmp_path, clipped + 0.1).warnings


def test_what_a_resampler_filled_up_is_told(tmp_path):
    low = soxr.resample(noise(4.0).T, 48_000, 22_050).astype(np.float32)
    song = check(tmp_path, soxr.resample(low, 22_050, 48_000).T)
    assert song.warnings == ["upsampled"]
    assert song.metrics["cutoff_hz"] == pytest.approx(11_000, rel=0.05)
    assert check(tmp_path, noise(4.0)).metrics["cutoff_hz"] is None


def test_a_wide_but_sound_stereo_image_is_no_fault(tmp_path):
    song = check(tmp_path, noise(2.0))
    assert abs(song.metrics["stereo_correlation"]) < 0.05
    assert abs(song.metrics["side_db"]) < 0.5


def test_loudness_of_the_standard_test_tone():
    """ITU-R BS.1770-4: a 997 Hz sine at 0 dBFS in one channel measures -3.01 LKFS."""
    time_s = np.arange(48_000 * 3) / 48_000
    samples = np.zeros((2, len(time_s)), np.float32)
    samples[0] = np.sin(2 * np.pi * 997 * time_s)
    assert measure_audio(samples, 48_000)["lufs"] == pytest.approx(-3.01, abs=0.05)


def test_true_peak_sees_between_the_samples():
    """A sine at a quarter of the sample rate, sampled off its peaks, peaks 3 dB above its samples."""
    time = np.arange(48_000)
    samples = np.tile(np.sin(np.pi / 2 * time + np.pi / 4).astype(np.float32), (2, 1)) * 0.5
    assert measure_audio(samples, 48_000)["true_peak_dbfs"] == pytest.approx(20 * np.log10(0.5), abs=0.3)


def test_bandwidth_is_that_of_the_content():
    spectrum = np.fft.rfft(noise(2.0)[0])
    spectrum[int(len(spectrum) * 8_000 / 24_000) :] = 0
    low = np.tile(np.fft.irfft(spectrum).astype(np.float32), (2, 1))
    assert measure_audio(low, 48_000)["bandwidth_hz"] == pytest.approx(8_000, rel=0.02)
