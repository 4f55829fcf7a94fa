"""Decode a song and measure it before anything costly runs: length, level, clipping, bandwidth, stereo image."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decode import (
    Audio,
    DecodedAudio,
    decode_audio,
    iterate_blocks,
    resample_blocks,
    rms_dbfs,
    rms_dbfs_of_blocks,
    to_mono,
)
from pipeline.audio.landmarks import fingerprint_audio
from pipeline.audio.loudness import measure_loudness
from pipeline.song import Drop, Song
from pipeline.stage import Stage

# Every number that is ours was measured on songs at hand, whole and spoilt: pipeline/README.md has the figures.
SILENCE_PEAK_DBFS = -60.0  # below it there is dither at most; stable-audio-tools drops clips at the same level
SILENT_FRAME_S = 0.05
MOSTLY_SILENT_SHARE = 0.5  # of the frames below SILENCE_PEAK_DBFS
CLIPPED_LEVEL = 0.99  # of the channel's own peak: clipped audio stays clipped when it is made quieter
CLIPPED_WARNING_SHARE = 0.002
MIN_CREST_DB = 6.0  # peak over RMS; a square wave has 0, a sine 3
DC_OFFSET_WARNING = 0.05
TRUE_PEAK_OVERSAMPLING = 4  # ITU-R BS.1770-4, annex 2
TRUE_PEAK_WARNING_DBFS = 3.0  # intersample peaks beyond it are no mastering choice
BANDWIDTH_FLOOR_DB = 50.0  # the highest bin within 50 dB of the spectrum's peak, as NeMo Curator measures it
CUTOFF_STEP_DB = 30.0  # fall of the level within 0.5 kHz: an encoder's or a resampler's low-pass, not an instrument
UPSAMPLED_SHARE = 0.8  # of half the sample rate: a cut-off below it means that the file promises more than it holds
ONE_CHANNEL_DB = 40.0
SILENT_RMS_DBFS = -100.0  # a channel below it has no phase
MONO_SIDE_DB = -40.0  # level of (left - right) over that of (left + right)
ANTIPHASE_CORRELATION = -0.5
DURATION_TOLERANCE = 0.03  # by which the decoded length passes the header's; shorter: pipeline/audio/losses.py
_FFT_SIZE = 4096
_FRAMES_AT_ONCE = 400


class CheckAudio(Stage):
    """Decode the file and drop what no later stage could use.

    Reads:  song.path
    Adds:   song.mix (float32 [C, L] at the file's own rate), sample_rate, channels, duration_s, landmarks, metrics,
            warnings (those of find_warnings and DecodedAudio, and "header_duration")
    Drops:  "too_short", "too_long", "silent", "clipped"
    Raises: AudioDecodeError for files that hold no usable audio (quarantine), MachineReadError (tried again)
    """

    name: ClassVar[str] = "check_audio"
    version: ClassVar[int] = 5

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Thresholds; every length in seconds of decoded audio."""

        min_duration_s: float = 1.0
        max_duration_s: float = 900.0
        max_clipped_share: float | None = None  # None: clipping is a warning

    def __init__(self, config: Config | None = None) -> None:
        """Keep the thresholds."""
        self.config = config or CheckAudio.Config()

    def process(self, song: Song) -> Song | Drop:
        """Decode and measure; see the class."""
        decoded = _decode(song, max_duration_s=4 * self.config.max_duration_s)
        assert song.mix is not None
        if song.duration_s < self.config.min_duration_s:
            return Drop("too_short", f"{song.duration_s:.2f} s, expected at least {self.config.min_duration_s:g} s")
        if song.duration_s > self.config.max_duration_s:
            return Drop("too_long", f"{song.duration_s:.0f} s, expected at most {self.config.max_duration_s:g} s")
        peak = max(float(np.abs(block).max(initial=0.0)) for block in iterate_blocks(song.mix))
        if 20 * np.log10(max(peak, 1e-10)) < SILENCE_PEAK_DBFS:
            return Drop(
                "silent", f"peak {20 * np.log10(max(peak, 1e-10)):.0f} dBFS, expected above {SILENCE_PEAK_DBFS:.0f}"
            )
        song.metrics.update(measure_audio(song.mix, song.sample_rate))
        song.landmarks = fingerprint_audio(to_mono(song.mix), song.sample_rate)
        song.warnings += find_warnings(song.metrics, song.sample_rate) + decoded.warnings
        if decoded.declared_s is not None and song.duration_s > (1 + DURATION_TOLERANCE) * decoded.declared_s + 0.1:
            song.warnings.append("header_duration")
        limit = self.config.max_clipped_share
        if limit is not None and song.metrics["clipped_share"] > limit:
            return Drop("clipped", f"{song.metrics['clipped_share']:.0%} of the samples are at full scale")
        return song


class ReadAudio(Stage):
    """Decode a file that was checked before.

    Reads:  song.path
    Adds:   song.mix (float32 [C, L] at the file's own rate), sample_rate, channels, duration_s
    Raises: AudioDecodeError for files that hold no usable audio (quarantine), MachineReadError (tried again)
    """

    name: ClassVar[str] = "read_audio"
    version: ClassVar[int] = 2

    def process(self, song: Song) -> Song | Drop:
        """Decode one song; see the class."""
        _decode(song, max_duration_s=song.duration_s + 1.0)
        return song


def _decode(song: Song, max_duration_s: float) -> DecodedAudio:
    decoded = decode_audio(song.path, max_duration_s=max_duration_s)
    song.mix, song.sample_rate, song.channels = decoded.samples, decoded.sample_rate, decoded.source_channels
    song.duration_s = decoded.duration_s
    return decoded


def measure_audio(samples: Audio, sample_rate: int) -> dict[str, Any]:
    """Return the metrics of float32 [C, L] that pipeline/README.md lists under check_audio."""
    means = samples.mean(axis=1, dtype=np.float64)
    level_db = _spectrum_db(to_mono(samples))
    return {
        "lufs": measure_loudness(samples, sample_rate),
        "true_peak_dbfs": 20 * np.log10(max(_true_peak(samples, sample_rate), 1e-10)),
        "rms_dbfs": rms_dbfs(samples),
        "dc_offset": float(np.max(np.abs(means))),
        "silence_share": _silence_share(samples, sample_rate),
        **_measure_clipping(samples, means.astype(np.float32)[:, None]),
        **(_measure_stereo(samples) if len(samples) == 2 else {}),
        "bandwidth_hz": _bandwidth_hz(level_db, sample_rate),
        "cutoff_hz": _cutoff_hz(level_db, sample_rate),
    }


def find_warnings(metrics: dict[str, Any], sample_rate: int) -> list[str]:
    """Return what a person should know of measured audio that is no reason to reject it."""
    is_one_channel = abs(metrics.get("channel_difference_db", 0.0)) > ONE_CHANNEL_DB
    cutoff_hz = metrics["cutoff_hz"]
    claims = {
        "mostly_silent": metrics["silence_share"] > MOSTLY_SILENT_SHARE,
        "clipped": metrics["clipped_share"] > CLIPPED_WARNING_SHARE or metrics["crest_db"] < MIN_CREST_DB,
        "true_peak": metrics["true_peak_dbfs"] > TRUE_PEAK_WARNING_DBFS,
        "dc_offset": metrics["dc_offset"] > DC_OFFSET_WARNING,
        "upsampled": cutoff_hz is not None and cutoff_hz < UPSAMPLED_SHARE * sample_rate / 2,
        "one_channel_silent": is_one_channel,
        "mono_as_stereo": metrics.get("side_db", 0.0) < MONO_SIDE_DB,
        "antiphase": not is_one_channel and metrics.get("stereo_correlation", 1.0) < ANTIPHASE_CORRELATION,
    }
    return [name for name, holds in claims.items() if holds]


def _silence_share(samples: Audio, sample_rate: int) -> float:
    size = max(int(SILENT_FRAME_S * sample_rate), 1)
    num_frames, num_silent = samples.shape[1] // size, 0
    for block in iterate_blocks(samples[:, : num_frames * size], _FRAMES_AT_ONCE * size):
        peaks = np.abs(block.reshape(len(samples), -1, size)).max(axis=(0, 2))
        num_silent += int((peaks < 10 ** (SILENCE_PEAK_DBFS / 20)).sum())
    return num_silent / num_frames if num_frames else 0.0


def _measure_clipping(samples: Audio, offset: Audio) -> dict[str, float]:
    """Measure samples without their DC offset: how many lie at their channel's peak, and the peak over the RMS."""
    peaks = np.max([np.abs(block - offset).max(axis=1, keepdims=True) for block in iterate_blocks(samples)], axis=0)
    num_clipped = sum(
        int(((np.abs(block - offset) >= CLIPPED_LEVEL * peaks) & (peaks > 0)).sum())
        for block in iterate_blocks(samples)
    )
    loudest = int(peaks.argmax())
    rms_db = rms_dbfs_of_blocks(block[loudest] - offset[loudest] for block in iterate_blocks(samples))
    crest_db = 20 * np.log10(max(float(peaks.max()), 1e-10)) - rms_db
    return {"clipped_share": num_clipped / samples.size, "crest_db": float(crest_db)}


def _measure_stereo(samples: Audio) -> dict[str, float]:
    left, right = samples
    product = sum(float(np.vdot(*block.astype(np.float64))) for block in iterate_blocks(samples)) / len(left)
    levels = rms_dbfs(left), rms_dbfs(right)
    return {
        "stereo_correlation": product / 10 ** (sum(levels) / 20) if min(levels) > SILENT_RMS_DBFS else 0.0,
        "side_db": rms_dbfs_of_blocks(block[0] - block[1] for block in iterate_blocks(samples))
        - rms_dbfs_of_blocks(block[0] + block[1] for block in iterate_blocks(samples)),
        "channel_difference_db": levels[0] - levels[1],
    }


def _true_peak(samples: Audio, sample_rate: int) -> float:
    up = resample_blocks(iterate_blocks(samples), sample_rate, TRUE_PEAK_OVERSAMPLING * sample_rate, quality="LQ")
    return max(float(np.abs(block).max(initial=0.0)) for block in itertools.chain(up, iterate_blocks(samples)))


def _spectrum_db(mono: Audio) -> NDArray[np.float64]:
    """Return the mean power spectrum of up to 400 windows over the song, in dB; [1 + _FFT_SIZE / 2]."""
    from scipy import fft  # as in audio_fingerprint.py

    num_windows = len(mono) // _FFT_SIZE
    power = np.zeros(_FFT_SIZE // 2 + 1)
    window = np.hanning(_FFT_SIZE).astype(np.float32)
    for start in range(0, num_windows * _FFT_SIZE, _FFT_SIZE * max(1, num_windows // 400)):
        power += np.abs(fft.rfft(mono[start : start + _FFT_SIZE] * window)) ** 2
    return np.asarray(10 * np.log10(power + 1e-20))


def _bandwidth_hz(level_db: NDArray[np.float64], sample_rate: int) -> float:
    above = np.flatnonzero(level_db >= level_db.max() - BANDWIDTH_FLOOR_DB)
    return float(above[-1] * sample_rate / _FFT_SIZE)


def _cutoff_hz(level_db: NDArray[np.float64], sample_rate: int) -> float | None:
    """Return where the level falls off a cliff, from 0.75 kHz below a frequency to 0.75 kHz above it, or None."""
    hz = sample_rate / _FFT_SIZE
    gap, width = int(250 / hz), int(500 / hz)  # the cliff itself is left out on both sides
    if len(level_db) <= 2 * (gap + width) or width < 1:
        return None
    means = np.convolve(level_db, np.full(width, 1 / width), mode="valid")
    fall = means[: -(width + 2 * gap)] - means[width + 2 * gap :]
    steepest = int(np.argmax(fall))
    return float((steepest + width + gap) * hz) if fall[steepest] >= CUTOFF_STEP_DB else None
