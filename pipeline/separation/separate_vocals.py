"""Vocals out of the mix, by Demucs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ, Audio, fill, resample_mono, rms_dbfs, to_stereo
from pipeline.song import Drop, Song
from pipeline.stage import Stage, StageError

if TYPE_CHECKING:
    from pipeline.separation.demucs_stream import Precision


class SeparateVocals(Stage):
    """Split each mix into stems with Demucs and keep the vocal stem.

    Reads:  song.mix     float32 [C, L] at song.sample_rate; it is gone afterwards
    Adds:   song.vocals  float32 [2, L] at song.sample_rate, where they are to be kept: 1.3 GB for an hour
            song.voice   float32 [L], the same at 16 kHz mono
            song.speech  float32 [L], the voice with some accompaniment left in: a recogniser copes with music better
                         than with what a weak separator does to a voice (figures in pipeline/README.md)
            metrics.vocal_ratio (energy of vocals over mix, 0 to 1)
    Source: HT Demucs, arXiv:2211.08553; segments, overlap and weights are those of its own `apply_model`.
    """

    name: ClassVar[str] = "separate_vocals"
    version: ClassVar[int] = 2

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """How the separator runs."""

        model_path: Path  # what `Profile.model_path("separator")` returns
        overlap: float = 0.25  # of a segment; Demucs' own default
        accompaniment_share: float = 0.0  # of the accompaniment in song.speech, as amplitude
        batch_size: int = 1  # segments of a song that run together: worth it on a GPU only
        precision: "Precision" = "float32"
        device: str = "cpu"
        keep_vocals: bool = True  # no later stage reads them

    def __init__(self, config: Config) -> None:
        """Keep the settings; weights load in `setup`."""
        self.config = config

    def setup(self) -> None:
        """Load the separator."""
        # Here, as PyTorch takes a second that the job's driver and the workers of the survey need not wait for.
        from pipeline.separation.demucs_stream import StreamSeparator
        from pipeline.separation.demucs_weights import load_separator

        config = self.config
        model = load_separator(config.model_path)
        if "vocals" not in model.sources:
            raise StageError(f"separator {config.model_path}: sources {model.sources}, expected one named vocals")
        self._separator = StreamSeparator(
            model,
            "vocals",
            overlap=config.overlap,
            batch_size=config.batch_size,
            precision=config.precision,
            device=config.device,
        )

    def process(self, song: Song) -> Song | Drop:
        """Separate one song; see the class."""
        assert song.mix is not None
        mix, rate = song.mix, song.sample_rate
        mix_dbfs, share = rms_dbfs(mix), np.float32(self.config.accompaniment_share)
        mix_16k = resample_mono(mix, rate, SPEECH_SAMPLE_RATE_HZ) if share else None
        # The vocals go where the mix was, which is read well ahead: an hour of each takes 1.4 GB.
        vocals, song.mix = fill(to_stereo(mix), self._separator.separate(mix, rate)), None
        song.vocals = vocals if self.config.keep_vocals else None
        song.voice = resample_mono(vocals, rate, SPEECH_SAMPLE_RATE_HZ)
        song.speech = song.voice if mix_16k is None else song.voice + share * (mix_16k - song.voice)
        song.metrics["vocal_ratio"] = float(min(10 ** ((rms_dbfs(vocals) - mix_dbfs) / 10), 1.0))
        return song

    def separate(self, mix: Audio, sample_rate: int) -> Audio:
        """Return the vocals of float32 [C, L] as float32 [2, L] at the same rate."""
        return fill(np.empty((2, mix.shape[1]), np.float32), self._separator.separate(mix, sample_rate))
