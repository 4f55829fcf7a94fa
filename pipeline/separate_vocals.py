"""Vocals out of the mix, by Demucs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ, Audio, resample, rms_dbfs, to_mono, to_stereo
from pipeline.separator_weights import load_separator
from pipeline.song import Drop, Song
from pipeline.stage import Stage, StageError


class SeparateVocals(Stage):
    """Split each mix into stems with Demucs and keep the vocal stem.

    Reads:  song.mix     float32 [C, L] at song.sample_rate
    Adds:   song.vocals  float32 [2, L] at song.sample_rate
            song.voice   float32 [L], the same at 16 kHz mono
            song.speech  float32 [L], the voice with some accompaniment left in: a recogniser copes with music better
                         than with what a weak separator does to a voice (figures in pipeline/README.md)
            metrics.vocal_ratio (energy of vocals over mix, 0 to 1)
    Source: HT Demucs, arXiv:2211.08553; segments and overlap are those of its own `apply_model`.
    """

    name: ClassVar[str] = "separate_vocals"
    version: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """How the separator runs."""

        model_name: str
        overlap: float = 0.25  # of a segment; Demucs' own default
        accompaniment_share: float = 0.0  # of the accompaniment in song.speech, as amplitude
        device: str = "cpu"

    def __init__(self, config: Config) -> None:
        """Keep the settings; weights load in `setup`."""
        self.config = config

    def setup(self) -> None:
        """Load the separator."""
        self._model = load_separator(self.config.model_name)
        if "vocals" not in self._model.sources:
            raise StageError(
                f"separator {self.config.model_name}: sources {self._model.sources}, expected one named vocals"
            )
        self._model.to(self.config.device).eval()

    def process(self, song: Song) -> Song | Drop:
        """Separate one song; see the class."""
        assert song.mix is not None
        song.vocals = self.separate(song.mix, song.sample_rate)
        song.voice = to_mono(resample(song.vocals, song.sample_rate, SPEECH_SAMPLE_RATE_HZ))
        share = self.config.accompaniment_share
        blend = song.vocals + share * (to_stereo(song.mix) - song.vocals)
        song.speech = to_mono(resample(blend, song.sample_rate, SPEECH_SAMPLE_RATE_HZ)) if share else song.voice
        mix_dbfs, vocals_dbfs = rms_dbfs(song.mix), rms_dbfs(song.vocals)
        song.metrics["vocal_ratio"] = float(min(10 ** ((vocals_dbfs - mix_dbfs) / 10), 1.0))
        return song

    def separate(self, mix: Audio, sample_rate: int) -> Audio:
        """Return the vocals of float32 [C, L] as float32 [2, L] at the same rate."""
        import torch
        from demucs.apply import apply_model

        model_rate = int(self._model.samplerate)
        stereo = torch.from_numpy(resample(to_stereo(mix), sample_rate, model_rate))
        # Demucs was trained on mixes normalised by the mono reference's mean and deviation.
        reference = stereo.mean(0)
        mean, std = reference.mean(), reference.std() + 1e-8
        with torch.inference_mode():
            stems = apply_model(
                self._model,
                ((stereo - mean) / std)[None],
                shifts=0,
                split=True,
                overlap=self.config.overlap,
                device=self.config.device,
                num_workers=0,
            )
        vocals = stems[0, self._model.sources.index("vocals")].cpu() * std + mean
        back = resample(vocals.numpy(), model_rate, sample_rate)
        num_samples = mix.shape[1]
        return np.pad(back, ((0, 0), (0, max(0, num_samples - back.shape[1]))))[:, :num_samples]
