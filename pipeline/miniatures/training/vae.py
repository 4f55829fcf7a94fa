"""A narrow Oobleck VAE at SongBloom's strides, trained on spectrograms without a discriminator."""

from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from pipeline.miniatures.training.corpus import Stems, Stereo
from pipeline.miniatures.training.loop import Schedule, fit, save_model
from pipeline.miniatures.training.vae_start import start_linear
from pipeline.quiet_libraries import without_weight_norm_warning
from shards.schema import LATENT_CHANNELS

CONFIG: dict[str, Any] = {
    "encoder_hidden_size": 8,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 8, 16, 24],
    "decoder_channels": 8,
    "decoder_input_channels": LATENT_CHANNELS,
    "audio_channels": 2,
    "sampling_rate": 48000,
}
CROP_FRAMES = 16  # 0.64 s
BATCH_CROPS = 4
KL_WEIGHT = 1e-4  # of the released settings
WAVE_WEIGHT = 2.0
# A step compares at one long and one short window, left and right or mid and side: all of it costs twice the model.
LONG_WINDOWS, SHORT_WINDOWS = (4096, 2048), (1024, 512, 128)
LOG_FLOOR = 1e-3  # magnitude below which differences do not count, about -60 dB of a full-scale tone
ENERGY_FLOOR = 1e-4  # mean square of magnitudes; music is around 4e-3
FIRST_SCALE = -3.0  # softplus makes this a posterior deviation of 0.05, for latents of unit variance
START_SONGS = 16  # that the principal components are measured on
SCHEDULE = Schedule(steps=280, peak_lr=1e-4, warmup_steps=20, average_decay=0.98)


def build_autoencoder() -> Any:
    """Return an AutoencoderOobleck narrower than its latents.

    The class gives the encoder as many outputs as its first layer has channels; stable-audio-tools does not, so the
    last convolution is made anew with mean and scale for LATENT_CHANNELS.
    """
    from diffusers import AutoencoderOobleck

    with without_weight_norm_warning():
        model = AutoencoderOobleck(**CONFIG)
    width = CONFIG["encoder_hidden_size"] * CONFIG["channel_multiples"][-1]
    output: Any = nn.Conv1d(width, 2 * LATENT_CHANNELS, kernel_size=3, padding=1)
    with torch.no_grad():
        output.bias.copy_(torch.tensor([0.0, FIRST_SCALE]).repeat_interleave(LATENT_CHANNELS))
    with without_weight_norm_warning():
        model.encoder.conv2 = weight_norm(output)
    return model


class CropDrawer:
    """Draws crops of mixes with new levels, speeds and sides."""

    def __init__(self, songs: list[Stems], rng: np.random.Generator) -> None:
        self._songs, self._rng = songs, rng
        self._length = CROP_FRAMES * int(np.prod(CONFIG["downsampling_ratios"]))

    def draw(self) -> Tensor:
        """Return one crop [2, L]."""
        rng = self._rng
        song = self._songs[rng.integers(len(self._songs))]
        speed = float(rng.uniform(0.8, 1.25)) if rng.random() < 0.6 else 1.0
        start = int(rng.integers(max(song.vocals.shape[1] - int(self._length * speed) - 8, 1)))
        stop = start + int(self._length * speed) + 8
        level = 10 ** (rng.uniform(-8, 6, size=2) / 20) * np.array([rng.random() > 0.05, 1.0])
        crop: Stereo = (level[0] * song.vocals[:, start:stop] + level[1] * song.accompaniment[:, start:stop]).astype(
            np.float32
        )
        if speed != 1.0:
            crop = soxr.resample(crop.T, speed, 1.0, "QQ").T
        crop = np.pad(crop, ((0, 0), (0, max(self._length - crop.shape[1], 0))))[:, : self._length]
        crop = crop[:, :: int(rng.choice([-1, 1]))] if rng.random() < 0.1 else crop
        crop = crop[::-1] if rng.random() < 0.5 else crop
        return torch.from_numpy(np.ascontiguousarray(crop / max(float(np.abs(crop).max()), 1.0)))


def spectral_loss(estimate: Tensor, truth: Tensor, n_fft: int) -> Tensor:
    """Return the distance of magnitudes of audio [B, 2, L] at one STFT size, plain and logarithmic, added."""
    estimated, true = _magnitudes(estimate, n_fft), _magnitudes(truth, n_fft)
    # The floor keeps silent crops and the empty side channel of mono ones from drowning everything else.
    convergence = ((estimated - true).square().mean() / (true.square().mean() + ENERGY_FLOOR)).sqrt()
    return convergence + (torch.log(estimated + LOG_FLOOR) - torch.log(true + LOG_FLOOR)).abs().mean()


def _magnitudes(audio: Tensor, n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft)
    bins = torch.stft(audio.flatten(0, 1), n_fft, n_fft // 4, window=window, return_complex=True, normalized=True)
    return torch.sqrt(bins.real**2 + bins.imag**2 + 1e-12)


def train(songs: list[Stems], folder: Path, *, seed: int, schedule: Schedule = SCHEDULE) -> None:
    """Train and save the VAE."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    drawer = CropDrawer(songs, rng)
    model = build_autoencoder()
    start_linear(model, songs[:START_SONGS], LATENT_CHANNELS)

    def compute_loss(_: int) -> tuple[Tensor, dict[str, float]]:
        audio = torch.stack([drawer.draw() for _ in range(BATCH_CROPS)])
        posterior = model.encode(audio).latent_dist
        estimate = model.decode(posterior.sample()).sample
        sides = torch.tensor([[0.5, 0.5], [0.5, -0.5]]) if rng.random() < 0.5 else torch.eye(2)
        sizes = (int(rng.choice(LONG_WINDOWS)), int(rng.choice(SHORT_WINDOWS)))
        spectral = sum((spectral_loss(sides @ estimate, sides @ audio, n) for n in sizes), torch.zeros(()))
        wave = (estimate - audio).abs().mean()
        kl = posterior.kl()
        figures = {
            "spectral": spectral.item(),
            "wave": wave.item(),
            "kl": kl.item(),
            "std": posterior.mean.std().item(),
        }
        return spectral + WAVE_WEIGHT * wave + KL_WEIGHT * kl, figures

    save_model(folder, CONFIG, fit(model, compute_loss, schedule))
