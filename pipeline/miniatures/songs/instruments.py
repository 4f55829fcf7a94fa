"""Single notes and drum hits made with numpy; every function returns mono float64 [L] with a peak near 1."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

SAMPLE_RATE = 48000
Mono = NDArray[np.float64]


def _time(seconds: float) -> Mono:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _hz(midi: float) -> float:
    return float(440.0 * 2 ** ((midi - 69) / 12))


def _fade(note: Mono, attack_s: float, release_s: float) -> Mono:
    shape = np.ones(len(note))
    attack, release = min(int(attack_s * SAMPLE_RATE), len(note)), min(int(release_s * SAMPLE_RATE), len(note))
    shape[:attack] *= np.linspace(0, 1, attack)
    shape[len(note) - release :] *= np.linspace(1, 0, release)
    return note * shape


def _noise(seconds: float, seed: int) -> Mono:
    return np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))


def filter_band(audio: Mono, low_hz: float | None, high_hz: float | None, order: int = 2) -> Mono:
    """Butterworth filter along the last axis; None leaves that side open."""
    if low_hz and high_hz:
        sos = butter(order, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE, output="sos")
    elif low_hz:
        sos = butter(order, low_hz, "highpass", fs=SAMPLE_RATE, output="sos")
    else:
        sos = butter(order, high_hz, "lowpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sosfilt(sos, audio))


@lru_cache(maxsize=4096)
def harmonics(midi: float, seconds: float, slope: float, odd_only: bool, detune_cents: float) -> Mono:
    """A steady tone whose k-th harmonic has amplitude k ** -slope, below 15 kHz, as two detuned copies."""
    t = _time(seconds)
    out = np.zeros(len(t))
    for copy, cents in enumerate((-detune_cents, detune_cents) if detune_cents else (0.0,)):
        base = _hz(midi + cents / 100)
        for k in range(1, min(40, int(15000 / base)) + 1, 2 if odd_only else 1):
            out += float(k) ** -slope * np.sin(2 * np.pi * base * k * t + 1.7 * k * k + copy)
    return np.asarray(out / max(np.abs(out).max(), 1e-9))


def piano(midi: float, seconds: float) -> Mono:
    """A struck string: upper harmonics die first, the string is slightly stiff."""
    t = _time(min(seconds + 0.3, 3.0))
    base = _hz(midi)
    out = np.zeros(len(t))
    for k in range(1, min(14, int(12000 / base)) + 1):
        out += k**-1.2 * np.exp(-t * (0.9 + 0.5 * k)) * np.sin(2 * np.pi * base * k * np.sqrt(1 + 4e-4 * k * k) * t)
    return _fade(out / max(np.abs(out).max(), 1e-9), 0.003, 0.08)


def electric_piano(midi: float, seconds: float) -> Mono:
    """Two-operator FM bell."""
    t = _time(min(seconds + 0.2, 3.0))
    base = _hz(midi)
    modulator = 1.8 * np.exp(-3.5 * t) * np.sin(2 * np.pi * base * t) + 0.6 * np.exp(-9 * t) * np.sin(
        28 * np.pi * base * t
    )
    return _fade(np.exp(-1.3 * t) * np.sin(2 * np.pi * base * t + modulator), 0.004, 0.1)


def guitar(midi: float, seconds: float) -> Mono:
    """A plucked string (Karplus and Strong 1983) as one recursive filter."""
    period = SAMPLE_RATE / _hz(midi)
    whole = int(period - 0.5)
    burst = np.zeros(int(min(seconds + 0.4, 3.0) * SAMPLE_RATE))
    burst[:whole] = filter_band(_noise(whole / SAMPLE_RATE + 0.001, int(midi * 7))[:whole], None, 6000, 1)
    taps = np.zeros(whole + 2)
    taps[0] = 1.0
    share = period - 0.5 - whole
    taps[whole], taps[whole + 1] = -0.997 * (0.5 + 0.5 * (0.5 - share)), -0.997 * (0.5 - 0.5 * (0.5 - share))
    out = lfilter([1.0], taps, burst)
    return _fade(np.asarray(out) / max(np.abs(out).max(), 1e-9), 0.001, 0.1)


def pad(midi: float, seconds: float) -> Mono:
    """A slow string-like chord tone."""
    return _fade(filter_band(harmonics(midi, seconds, 1.0, False, 9.0), None, 2600), 0.25, 0.3)


def organ(midi: float, seconds: float) -> Mono:
    """Drawbars at 8', 4', 2 2/3' and 2'."""
    t = _time(seconds)
    parts = ((1, 1.0), (2, 0.7), (3, 0.45), (4, 0.3), (8, 0.12))
    out = sum(level * np.sin(2 * np.pi * _hz(midi) * k * t) for k, level in parts)
    return _fade(np.asarray(out) / 2.0, 0.012, 0.04)


def lead(midi: float, seconds: float) -> Mono:
    """A square lead with a soft edge."""
    return _fade(filter_band(harmonics(midi, seconds, 1.1, True, 5.0), None, 4500), 0.01, 0.08)


def bell(midi: float, seconds: float) -> Mono:
    """A mallet on a metal bar: inharmonic partials."""
    t = _time(min(seconds + 0.5, 2.0))
    out = sum(
        a * np.exp(-d * t) * np.sin(2 * np.pi * _hz(midi) * r * t)
        for r, a, d in ((1, 1, 3), (3.93, 0.4, 7), (9.2, 0.15, 14))
    )
    return _fade(np.asarray(out) / 1.4, 0.002, 0.1)


def bass_finger(midi: float, seconds: float) -> Mono:
    """A plucked electric bass."""
    t = _time(seconds)
    tone = harmonics(midi, seconds, 1.3, False, 0.0) * np.exp(-1.6 * t)
    return _fade(filter_band(tone, None, 900), 0.006, 0.04)


def bass_synth(midi: float, seconds: float) -> Mono:
    """A held saw bass."""
    return _fade(filter_band(harmonics(midi, seconds, 1.0, False, 4.0), None, 700), 0.006, 0.04)


@lru_cache(maxsize=64)
def drum(name: str, kit: int) -> Mono:
    """One hit of `kick`, `snare`, `hat`, `open_hat`, `clap`, `shaker` or `tom`; `kit` changes pitch and decay."""
    low = 1.0 + 0.12 * (kit % 4)
    if name in ("kick", "tom"):
        t = _time(0.35)
        base = 46.0 * low if name == "kick" else 95.0 * low
        phase = 2 * np.pi * (base * t + base * 2.6 / 28 * (1 - np.exp(-28 * t)))
        click = 0.25 * _noise(0.35, kit) * np.exp(-t * 400)
        return _fade(np.sin(phase) * np.exp(-9 * t / low) + click, 0.001, 0.05)
    if name == "snare":
        t = _time(0.28)
        body = np.sin(2 * np.pi * 185 * low * t) * np.exp(-24 * t)
        rattle = 0.5 * filter_band(_noise(0.28, 11 + kit), 900, 9000) * np.exp(-16 * t / low)
        return np.asarray(0.6 * body + rattle)
    if name == "clap":
        t = _time(0.25)
        shape = np.exp(-18 * t)
        for late_s in (0.0, 0.012, 0.024):
            shape += np.where(t >= late_s, np.exp(-60 * np.maximum(t - late_s, 0)), 0)
        return np.asarray(0.5 * filter_band(_noise(0.25, 23 + kit), 700, 5000) * shape)
    seconds, decay = {"hat": (0.09, 60.0), "open_hat": (0.35, 11.0), "shaker": (0.12, 30.0)}[name]
    band = (3500.0, 10000.0) if name == "shaker" else (6500.0, 16000.0)
    t = _time(seconds)
    return np.asarray(0.5 * filter_band(_noise(seconds, 31 + kit), *band) * np.exp(-decay * t))


def reverberate(audio: Mono, seconds: float, wet: float, seed: int) -> Mono:
    """Add a stereo room [2, L]: decaying noise, darker with time; `wet` is relative to the dry level."""
    length = int(seconds * 1.2 * SAMPLE_RATE)
    t = np.arange(length) / SAMPLE_RATE
    rng = np.random.default_rng(seed)
    tail = filter_band(rng.standard_normal((2, length)), 180, 5500) * 10 ** (-3 * t / seconds)
    tail[:, : int(0.012 * SAMPLE_RATE)] = 0
    tail /= np.sqrt((tail**2).sum(axis=1, keepdims=True))
    return np.asarray(audio + wet * fftconvolve(audio, tail, axes=1)[:, : audio.shape[1]])
