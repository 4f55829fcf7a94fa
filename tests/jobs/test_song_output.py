"""Tests of jobs/song_output.py: a song that is written while it comes is the song written at its end."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs.song_output import SongStream, write_song
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.model_files.names import resolve_model


@pytest.fixture(scope="module")
def codec() -> VaeCodec:
    return VaeCodec(resolve_model("miniature", "vae"))


@pytest.mark.parametrize("num_opening", [0, 32])
def test_a_streamed_song_is_the_whole_song(codec: VaeCodec, tmp_path: Path, num_opening: int) -> None:
    latents = np.random.default_rng(0).standard_normal((112, codec.latent_channels)).astype(np.float32)
    path = tmp_path / "new" / "song.wav"
    stream = SongStream(path, codec, latents[:num_opening])
    lengths = []
    for start in range(num_opening, 112, 16):
        stream.add(latents[start : start + 16])
        lengths.append(soundfile.info(path).frames // codec.hop_length)
    stream.close()
    # A piece of at least 2 s, as soon as the frames that it depends on are there too.
    assert lengths == {0: [0, 0, 0, 55, 55, 55, 55], 32: [0, 55, 55, 55, 55]}[num_opening]
    audio, rate = soundfile.read(path, dtype="float32")
    assert rate == 48_000
    expected = codec.decode(latents)
    assert audio.shape == expected.T.shape
    assert np.abs(audio.T - expected).max() < 1e-4 * np.abs(expected).max()
    assert stream.peak == pytest.approx(np.abs(expected).max(), rel=1e-3)


def test_a_song_without_a_block_leaves_an_empty_file(codec: VaeCodec, tmp_path: Path) -> None:
    stream = SongStream(tmp_path / "song.wav", codec, np.zeros((0, codec.latent_channels), np.float32))
    stream.close()
    assert soundfile.info(tmp_path / "song.wav").frames == 0


def test_a_loud_song_is_scaled_down(codec: VaeCodec, tmp_path: Path) -> None:
    latents = 40 * np.random.default_rng(0).standard_normal((8, codec.latent_channels)).astype(np.float32)
    peak = write_song(tmp_path / "song.flac", latents, codec)
    audio, _ = soundfile.read(tmp_path / "song.flac")
    assert peak > 1
    assert np.abs(audio).max() == pytest.approx(0.99, abs=1e-3)
