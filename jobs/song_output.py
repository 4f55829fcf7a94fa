"""From a song's latents to its audio file: at once, or piece by piece as the latents come."""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.encoding.vae_latents import VaeCodec
from shards.schema import FRAME_RATE_HZ, LATENT_SAMPLE_RATE_HZ

Latents = NDArray[np.float32]  # [T, C]

PEAK = 0.99  # louder songs are scaled down to it, never clipped
PIECE_FRAMES = 2 * FRAME_RATE_HZ  # shorter pieces would spend most of their time on context


def write_song(path: Path, latents: Latents, codec: VaeCodec) -> float:
    """Decode a song, write it in 16 bits and return the peak that it had before it was scaled down."""
    audio = codec.decode(latents)
    peak = float(np.abs(audio).max())
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T * min(1.0, PEAK / max(peak, 1e-9)), LATENT_SAMPLE_RATE_HZ, subtype="PCM_16")
    return peak


class SongStream:
    """Appends a song's audio to a WAV file while the song is being written; the file can be played at any time.

    A piece is decoded as soon as all latents are there that its audio depends on, so the file is what decoding the
    whole song would give. How loud the song will be is not known beforehand: samples are floats at the model's own
    level, which never clip in the file.
    """

    def __init__(self, path: Path, codec: VaeCodec, opening: Latents) -> None:
        """Start the file with what exists of the song already."""
        self._codec = codec
        self._latents = [opening]
        self._num_written = 0  # frames
        self.peak = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = soundfile.SoundFile(path, "w", LATENT_SAMPLE_RATE_HZ, channels=2, format="WAV", subtype="FLOAT")

    def add(self, latents: Latents) -> None:
        """Take a block's latents [P, C], and write what can be decoded by now."""
        self._latents.append(latents)
        num_ready = sum(map(len, self._latents)) - self._codec.decoder_context
        if num_ready - self._num_written >= PIECE_FRAMES:
            self._write(num_ready)

    def close(self) -> None:
        """Write the rest and close the file."""
        num_frames = sum(map(len, self._latents))
        if num_frames > self._num_written:
            self._write(num_frames)
        self._file.close()

    def _write(self, stop: int) -> None:
        """Decode and append the frames up to `stop`."""
        latents = np.concatenate(self._latents)
        context = self._codec.decoder_context
        first = max(0, self._num_written - context)
        audio = self._codec.decode(latents[first : stop + context])
        piece = audio[:, (self._num_written - first) * self._codec.hop_length :][
            :, : (stop - self._num_written) * self._codec.hop_length
        ]
        self.peak = max(self.peak, float(np.abs(piece).max()))
        self._file.write(piece.T)
        self._file.flush()
        self._num_written = stop
