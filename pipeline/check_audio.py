"""Decode a song and measure it before anything costly runs: length, level, clipping, bandwidth."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import soxr
from scipy.fft import rfft

from pipeline.audio import Audio, decode_audio, rms_dbfs, to_mono
from pipeline.song import Drop, Song
from pipeline.stage import Stage

# Below this peak a file is digital silence with dither at most; stable-audio-tools drops clips at the same level.
SILENCE_PEAK_DBFS = -60.0
CLIPPED_LEVEL = 0.999
CLIPPED_WARNING_SHARE = 0.01
DC_OFFSET_WARNING = 0.05
LUFS_BLOCK_S = 0.4  # gating block of ITU-R BS.1770-4; shorter files have no loudness
TRUE_PEAK_OVERSAMPLING = 4  # ITU-R BS.1770-4, annex 2
BANDWIDTH_FLOOR_DB = 50.0  # the highest bin within 50 dB of the spectrum's peak, as NeMo Curator measures it
_FFT_SIZE = 4096


class CheckAudio(Stage):
    """Decode the file and drop what no later stage could use.

    Reads:  song.path
    Adds:   song.mix (float32 [C, L] at the file's own rate), sample_rate, channels, duration_s, metrics, warnings
    Drops:  "too_short", "too_long", "silent", "clipped"
    Raises: AudioDecodeError for files that hold no usable audio (quarantine)
    """

    name: ClassVar[str] = "check_audio"
    version: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Thresholds; every length in seconds of decoded audio."""

        min_duration_s: float = 1.0
        max_duration_s: float = 900.0
        max_clipped_share: float | None = None  # None: clipping is a warning; loud masters stay under 0.02

    def __init__(self, config: Config | None = None) -> None:
        """Keep the thresholds."""
        self.config = config or CheckAudio.Config()

    def process(self, song: Song) -> Song | Drop:
        """Decode and measure; see the class."""
        decoded = decode_audio(song.path, max_duration_s=4 * self.config.max_duration_s)
        song.mix, song.sample_rate, song.channels = decoded.samples, decoded.sample_rate, decoded.source_channels
        song.duration_s = decoded.duration_s
        if song.duration_s < self.config.min_duration_s:
            return Drop("too_short", f"{song.duration_s:.2f} s, expected at least {self.config.min_duration_s:g} s")
        if song.duration_s > self.config.max_duration_s:
            return Drop("too_long", f"{song.duration_s:.0f} s, expected at most {self.config.max_duration_s:g} s")
        peak = float(np.max(np.abs(song.mix)))
        if 20 * np.log10(max(peak, 1e-10)) < SILENCE_PEAK_DBFS:
            return Drop(
                "silent", f"peak {20 * np.log10(max(peak, 1e-10)):.0f} dBFS, expected above {SILENCE_PEAK_DBFS:.0f}"
            )
        song.metrics.update(measure_audio(song.mix, song.sample_rate))
        song.warnings += find_warnings(song.mix, song.metrics)
        limit = self.config.max_clipped_share
        if limit is not None and song.metrics["clipped_share"] > limit:
            return Drop("clipped", f"{song.metrics['clipped_share']:.0%} of the samples are at full scale")
        return song


def measure_audio(samples: Audio, sample_rate: int) -> dict[str, Any]:
    """Return lufs, true_peak_dbfs, rms_dbfs, dc_offset, clipped_share, bandwidth_hz of float32 [C, L]."""
    import pyloudnorm  # it brings scipy.signal, which takes seconds to load

    lufs = -70.0  # the absolute gate of BS.1770-4
    if samples.shape[1] >= LUFS_BLOCK_S * sample_rate:
        measured = pyloudnorm.Meter(sample_rate).integrated_loudness(samples.T.astype(np.float64))
        lufs = max(float(measured), lufs)
    return {
        "lufs": lufs,
        "true_peak_dbfs": 20 * np.log10(max(_true_peak(samples, sample_rate), 1e-10)),
        "rms_dbfs": rms_dbfs(samples),
        "dc_offset": float(np.max(np.abs(samples.mean(axis=1, dtype=np.float64)))),
        "clipped_share": float(np.mean(np.abs(samples) >= CLIPPED_LEVEL)),
        "bandwidth_hz": _bandwidth_hz(to_mono(samples), sample_rate),
    }


def find_warnings(samples: Audio, metrics: dict[str, Any]) -> list[str]:
    """Return what a person should know of float32 [C, L] that is no reason to reject it."""
    warnings = []
    if metrics["clipped_share"] > CLIPPED_WARNING_SHARE:
        warnings.append("clipped")
    if metrics["dc_offset"] > DC_OFFSET_WARNING:
        warnings.append("dc_offset")
    if len(samples) == 2:
        left_dbfs, right_dbfs = rms_dbfs(samples[0]), rms_dbfs(samples[1])
        if min(left_dbfs, right_dbfs) < max(left_dbfs, right_dbfs) - 40.0:
            warnings.append("one_channel_silent")
        elif rms_dbfs(samples.mean(axis=0)) < max(left_dbfs, right_dbfs) - 20.0:
            warnings.append("antiphase")
    return warnings


def _true_peak(samples: Audio, sample_rate: int) -> float:
    up = soxr.resample(samples.T, sample_rate, TRUE_PEAK_OVERSAMPLING * sample_rate, quality="LQ")
    return max(float(np.max(np.abs(up))), float(np.max(np.abs(samples))))


def _bandwidth_hz(mono: Audio, sample_rate: int) -> float:
    num_windows = len(mono) // _FFT_SIZE
    if num_windows == 0:
        return 0.0
    power = np.zeros(_FFT_SIZE // 2 + 1)
    window = np.hanning(_FFT_SIZE).astype(np.float32)
    for start in range(0, num_windows * _FFT_SIZE, _FFT_SIZE * max(1, num_windows // 400)):  # 400 windows are enough
        power += np.abs(rfft(mono[start : start + _FFT_SIZE] * window)) ** 2
    level_db = 10 * np.log10(power + 1e-20)
    above = np.flatnonzero(level_db >= level_db.max() - BANDWIDTH_FLOOR_DB)
    return float(above[-1] * sample_rate / _FFT_SIZE)
