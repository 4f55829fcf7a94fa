"""The songs that miniatures are trained on, rendered once into a folder of FLAC stems."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from pipeline.miniatures.songs.instruments import SAMPLE_RATE
from pipeline.miniatures.songs.songs import draw_spec, make_song

logger = logging.getLogger(__name__)
Stereo = NDArray[np.float32]  # [2, L], 48 kHz


@dataclass(frozen=True, kw_only=True, slots=True)
class Stems:
    """One song's vocals and accompaniment, float32 [2, L] at 48 kHz; their sum is the mix."""

    name: str
    vocals: Stereo
    accompaniment: Stereo

    @property
    def mix(self) -> Stereo:
        """The sum of the stems."""
        return self.vocals + self.accompaniment


def make_corpus(folder: Path, num_songs: int) -> None:
    """Render the songs of seeds 0 to `num_songs - 1` that `folder` lacks (needs the extra `miniatures`)."""
    for seed in range(num_songs):
        target = folder / f"song_{seed:04d}"
        if (target / "mixture.flac").exists():
            continue
        song = make_song(draw_spec(seed))
        target.mkdir(parents=True, exist_ok=True)
        sf.write(target / "vocals.flac", song.vocals.T, SAMPLE_RATE, subtype="PCM_16")
        sf.write(target / "part.flac", song.mix.T, SAMPLE_RATE, subtype="PCM_16")
        (target / "part.flac").rename(target / "mixture.flac")  # last: it marks the song as finished
        logger.info("song %d of %d rendered", seed + 1, num_songs)


def load_corpus(folders: list[Path]) -> list[Stems]:
    """Read every song (`mixture.flac` and `vocals.flac` in a folder of its own) below the folders, in name order.

    Raises:
        ValueError: no song was found, or one is not at 48 kHz.
    """
    songs: list[Stems] = []
    for mixture in sorted(path for folder in folders for path in folder.glob("*/mixture.flac")):
        mix, rate = sf.read(mixture, dtype="float32", always_2d=True)
        vocals, _ = sf.read(mixture.parent / "vocals.flac", dtype="float32", always_2d=True)
        if rate != SAMPLE_RATE:
            raise ValueError(f"{mixture}: {rate} Hz, expected {SAMPLE_RATE} Hz")
        vocals = np.broadcast_to(vocals, mix.shape)
        songs.append(Stems(name=mixture.parent.name, vocals=vocals.T.copy(), accompaniment=(mix - vocals).T.copy()))
    if not songs:
        raise ValueError(f"no songs below {', '.join(map(str, folders))}")
    return songs
