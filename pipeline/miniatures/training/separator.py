"""A small HTDemucs trained to take synthetic singing out of synthetic bands, mixed anew at every step."""

from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from torch import Tensor, nn

from pipeline.miniatures.songs.instruments import SAMPLE_RATE as SONG_SAMPLE_RATE
from pipeline.miniatures.training.corpus import Stems
from pipeline.miniatures.training.loop import Schedule, fit, save_model

SAMPLE_RATE = 44100  # Demucs' own
CONFIG: dict[str, Any] = {
    "sources": ["accompaniment", "vocals"],
    "channels": 16,
    "depth": 4,
    "t_layers": 0,
    "nfft": 4096,
    "samplerate": SAMPLE_RATE,
    "segment": 6,
}
CROP_S = 3.0
BATCH_SONGS = 3
SCHEDULE = Schedule(steps=360, peak_lr=2e-3, warmup_steps=30, average_decay=0.98)

Crop = NDArray[np.float32]  # [2, L]


class MixDrawer:
    """Draws crops of vocals and of accompaniment from different songs and changes both.

    Voices get another size (speed), tone, room, width and level: all the songs have one speaker behind them.
    """

    def __init__(self, songs: list[Stems], rng: np.random.Generator) -> None:
        self._rng = rng
        # One rate for all: resampling whole songs once is cheaper than resampling every crop.
        self._vocals = [_to_rate(song.vocals) for song in songs]
        self._bands = [_to_rate(song.accompaniment) for song in songs]
        self._length = int(CROP_S * SAMPLE_RATE)

    def draw(self) -> Tensor:
        """Return stems [sources=2, channels=2, L] whose sum has a standard deviation of 1."""
        rng = self._rng
        speed = float(rng.uniform(0.8, 1.3))
        vocals = self._crop(self._vocals, int(self._length * speed))
        vocals = soxr.resample(vocals.T, speed, 1.0, "QQ").T
        vocals = np.pad(vocals, ((0, 0), (0, max(self._length - vocals.shape[1], 0))))[:, : self._length]
        vocals = self._change_tone(vocals)
        if rng.random() < 0.4:
            vocals = self._add_room(vocals)
        if rng.random() < 0.3:
            vocals = vocals.mean(0, keepdims=True) * np.array([[1.0], [rng.uniform(0.6, 1.0)]])
        band = self._change_tone(self._crop(self._bands, self._length))
        band = band[:, ::-1] if rng.random() < 0.1 else band  # backwards: new attacks
        band_rms, vocals_rms = _rms(band), _rms(vocals)
        if rng.random() < 0.06:
            vocals = np.zeros_like(vocals)
        elif vocals_rms > 1e-4:
            vocals = vocals * band_rms / vocals_rms * 10 ** (rng.uniform(-5, 8) / 20)
        stems = np.stack([band, vocals])[:, :: int(rng.choice([-1, 1]))]
        stems[1] *= rng.choice([-1, 1])
        stems = stems / max(float(stems.sum(0).mean(0).std()), 1e-4)
        return torch.from_numpy(np.ascontiguousarray(stems, dtype=np.float32))

    def _crop(self, songs: list[Crop], length: int) -> Crop:
        """Return a crop that is not silent, if one of ten draws finds one."""
        for _ in range(10):
            song = songs[self._rng.integers(len(songs))]
            start = int(self._rng.integers(max(song.shape[1] - length, 1)))
            crop = song[:, start : start + length]
            if _rms(crop) > 1e-3:
                break
        return np.pad(crop, ((0, 0), (0, length - crop.shape[1])))

    def _change_tone(self, audio: Crop) -> Crop:
        """Multiply the spectrum by a smooth random curve of +-8 dB; now and then cut it above 4 to 11 kHz."""
        spectrum = np.fft.rfft(audio, axis=1)
        hz = np.linspace(0, SAMPLE_RATE / 2, spectrum.shape[1])
        points = np.array([0, 120, 300, 800, 2000, 5000, 10000, SAMPLE_RATE / 2])
        gain_db = np.interp(hz, points, self._rng.uniform(-8, 8, len(points)) * self._rng.random())
        if self._rng.random() < 0.3:
            cut = self._rng.uniform(4000, 11000)
            gain_db = gain_db - 60 * np.clip((hz - cut) / 1500, 0, 1)
        shaped = np.fft.irfft(spectrum * 10 ** (gain_db / 20), n=audio.shape[1], axis=1)
        return np.asarray(shaped, dtype=np.float32)

    def _add_room(self, audio: Crop) -> Crop:
        seconds = self._rng.uniform(0.2, 1.5)
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tail = self._rng.standard_normal((2, len(t))) * 10 ** (-3 * t / seconds)
        tail *= self._rng.uniform(0.1, 0.6) / np.sqrt((tail**2).sum(1, keepdims=True))
        wet = fftconvolve(audio, tail, axes=1)[:, : audio.shape[1]]
        return np.asarray(audio + wet, dtype=np.float32)


def train(songs: list[Stems], folder: Path, *, seed: int, schedule: Schedule = SCHEDULE) -> None:
    """Train and save the separator.

    The loss is the mean absolute error of the waveform plus that of the spectrogram, over both stems.
    """
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(seed)
    drawer = MixDrawer(songs, np.random.default_rng(seed))
    model: nn.Module = HTDemucs(**CONFIG)

    def compute_loss(_: int) -> tuple[Tensor, dict[str, float]]:
        stems = torch.stack([drawer.draw() for _ in range(BATCH_SONGS)])
        estimate = model(stems.sum(1))
        wave = (estimate - stems).abs().mean()
        spectral = sum((_spectrum(estimate, n) - _spectrum(stems, n)).abs().mean() for n in (512, 2048)) / 2
        error = (estimate - stems)[:, 1].pow(2).sum((1, 2)) + 1e-4
        gain_db = 10 * torch.log10((stems[:, 0].pow(2).sum((1, 2)) + 1e-4) / error).mean()
        return wave + 0.5 * spectral, {"wave": wave.item(), "gain_db": gain_db.item()}

    save_model(folder, CONFIG, fit(model, compute_loss, schedule))


def _spectrum(stems: Tensor, n_fft: int) -> Tensor:
    flat = stems.flatten(0, 2)
    bins = torch.stft(flat, n_fft, n_fft // 4, window=torch.hann_window(n_fft), return_complex=True, normalized=True)
    return torch.view_as_real(bins)


def _to_rate(audio: Crop) -> Crop:
    return np.asarray(soxr.resample(audio.T, SONG_SAMPLE_RATE, SAMPLE_RATE).T, dtype=np.float32)


def _rms(audio: Crop) -> float:
    return float(np.sqrt(np.mean(audio**2) + 1e-12))
