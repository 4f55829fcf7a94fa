"""How good the miniatures are on songs with known stems: separation, reconstruction, stability of tokens."""

from pathlib import Path
from typing import Any

import librosa
import numpy as np
from numpy.typing import NDArray

from pipeline.encoding.semantic_tokens import SemanticTokenizer
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.miniatures.training.corpus import Stems, Stereo
from pipeline.miniatures.training.muq import to_input
from pipeline.model_files.profiles import get_profile
from pipeline.separation.separate_vocals import SeparateVocals
from shards.schema import CODEBOOK_SIZE, LATENT_SAMPLE_RATE_HZ, count_frames

GAIN_DB = 3.0  # tokens should stay the same when a song is this much louder or quieter
MEL_FLOOR = 1e-4  # magnitude that counts as silence in the log-mel distance, -80 dB


def measure_separator(songs: list[Stems], folder: Path) -> dict[str, Any]:
    """Return the gain in SDR (dB, whole song, both channels) of the separated vocals over the mixture."""
    stage = SeparateVocals(SeparateVocals.Config(model_path=folder))
    stage.setup()
    gains = {
        song.name: _sdr(song.vocals, stage.separate(song.mix, LATENT_SAMPLE_RATE_HZ)) - _sdr(song.vocals, song.mix)
        for song in songs
        if song.vocals.any()
    }
    return {"mean_gain_db": _mean(gains.values()), "gain_db": {name: round(gain, 2) for name, gain in gains.items()}}


def measure_vae(songs: list[Stems], folder: Path) -> dict[str, Any]:
    """Return how close decoded posterior means come to the mixes, and the latents' statistics."""
    codec = VaeCodec(folder)
    chroma, mel, si_sdr, latents, stds = [], [], [], [], []
    for song in songs:
        mean, std = codec.encode(song.mix)
        decoded = codec.decode(mean)
        truth = song.mix[:, : decoded.shape[1]]
        chroma.append(float(np.corrcoef(_chroma(truth), _chroma(decoded))[0, 1]))
        mel.append(float(np.abs(_log_mel_db(truth) - _log_mel_db(decoded)).mean()))
        si_sdr.append(_si_sdr(truth, decoded))
        latents.append(mean)
        stds.append(std)
    channel_std = np.concatenate(latents).std(axis=0)
    return {
        "chroma_correlation": _mean(chroma),
        "log_mel_distance_db": _mean(mel),
        "si_sdr_db": _mean(si_sdr),
        "latent_std_min": round(float(channel_std.min()), 3),
        "latent_std_median": round(float(np.median(channel_std)), 3),
        "latent_std_max": round(float(channel_std.max()), 3),
        "posterior_std_median": round(float(np.median(np.concatenate(stds))), 3),
    }


def measure_tokens(songs: list[Stems], muq_folder: Path, codebook_folder: Path) -> dict[str, Any]:
    """Return the share of tokens that a gain of +-GAIN_DB leaves as they are, and how many entries the songs use."""
    tokenizer = SemanticTokenizer(muq_folder, codebook_folder, layer=get_profile("miniature").muq_layer)
    tokenizer.setup()
    stable, used = [], np.zeros(CODEBOOK_SIZE, bool)
    for song in songs:
        audio, num_frames = to_input(song.mix), count_frames(song.mix.shape[1], LATENT_SAMPLE_RATE_HZ)
        tokens = tokenizer.tokens(audio, num_frames)
        used[tokens] = True
        for gain in (10 ** (-GAIN_DB / 20), 10 ** (GAIN_DB / 20)):
            stable.append(float((tokenizer.tokens((gain * audio).astype(np.float32), num_frames) == tokens).mean()))
    return {"equal_after_gain": _mean(stable), "usage": round(float(used.mean()), 4)}


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 3)


def _sdr(truth: Stereo, estimate: Stereo) -> float:
    error = float(np.sum((truth - estimate) ** 2))
    return float(10 * np.log10((float(np.sum(truth**2)) + 1e-9) / (error + 1e-9)))


def _si_sdr(truth: Stereo, estimate: Stereo) -> float:
    scale = float(np.sum(truth * estimate)) / (float(np.sum(truth**2)) + 1e-9)
    return _sdr(scale * truth, estimate)


def _chroma(audio: Stereo) -> NDArray[np.float32]:
    chroma = librosa.feature.chroma_stft(
        y=audio.mean(0), sr=LATENT_SAMPLE_RATE_HZ, n_fft=8192, hop_length=1920, tuning=0.0
    )
    return np.asarray(chroma, dtype=np.float32).ravel()


def _log_mel_db(audio: Stereo) -> NDArray[np.float32]:
    mel = librosa.feature.melspectrogram(
        y=audio, sr=LATENT_SAMPLE_RATE_HZ, n_fft=2048, hop_length=480, n_mels=80, power=1.0
    )
    return np.asarray(20 * np.log10(np.maximum(mel, MEL_FLOOR)), dtype=np.float32)
