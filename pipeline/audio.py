"""Reading audio: any container that FFmpeg's libraries know, decoded by content and never by file name."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soxr
from numpy.typing import NDArray

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".aif", ".aiff", ".wma"}
)

# A file whose decoded length is this far below what its header promises has been cut.
MIN_DECODED_FRACTION = 0.97
MAX_SAMPLE_RATE_HZ = 768_000
SPEECH_SAMPLE_RATE_HZ = 16_000  # of recognisers
_CANCELLED_POWER = 0.01  # of the first channel's: a mix 20 dB below it has cancelled out
_BARE_FORMATS = ("mp3", "aac")
_SAME_BIT_RATE = 0.01
_HASH_CHUNK_BYTES = 1 << 20
# Long files are taken in blocks, so that beside the samples themselves no second copy of a song is in memory.
BLOCK_SAMPLES = 1 << 20  # 22 s at 48 kHz
# Above 32 MiB the C library gives memory back to the system as soon as it is freed.
_DECODED_BLOCK_BYTES = 64 << 20

Audio = NDArray[np.float32]  # [C, L], full scale = 1.0


class AudioDecodeError(ValueError):
    """A file that holds no audio that can be used: it goes to quarantine with this message."""


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """Samples of one file: float32 [C, L] with C 1 or 2 (more channels are mixed down), full scale = 1.0."""

    samples: Audio
    sample_rate: int
    source_channels: int
    declared_s: float | None = None  # length that the header promises; None where it says nothing

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1] / self.sample_rate)


def require_regular_file(path: Path) -> None:
    """Raise AudioDecodeError unless `path` leads to a readable, non-empty regular file (a pipe would block us)."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise AudioDecodeError(f"cannot be opened: {getattr(error, 'strerror', error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise AudioDecodeError("not a regular file")
    if status.st_size == 0:
        raise AudioDecodeError("file is empty")
    if not os.access(path, os.R_OK):
        raise AudioDecodeError("no permission to read")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    require_regular_file(path)
    # The "file:" prefix keeps FFmpeg from reading a name such as "concat:..." or "-x" as a protocol or an option.
    try:
        container = av.open(f"file:{path.resolve()}", mode="r", metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise AudioDecodeError(f"no known audio format: {error.strerror or error}") from error
    with container:
        if not container.streams.audio:
            raise AudioDecodeError("no audio stream in the file")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioDecodeError("audio stream of an unknown codec")
        if not 0 < (stream.rate or 0) <= MAX_SAMPLE_RATE_HZ:
            raise AudioDecodeError(f"sample rate {stream.rate} Hz, expected 1 to {MAX_SAMPLE_RATE_HZ}")
        yield container, stream


def _declared_duration_s(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """Return the length that the header promises, None where it says nothing.

    A bare stream (MP3 without a Xing header, AAC) has no length: FFmpeg guesses one from the bit rate of its first
    frames, with a variable rate far off. Then the rates of file and stream agree; those of a cut file do not.
    """
    if container.format.name in _BARE_FORMATS and stream.bit_rate:
        if abs(container.bit_rate - stream.bit_rate) < _SAME_BIT_RATE * stream.bit_rate:
            return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def decode_audio(path: Path, *, max_duration_s: float = 3_600.0) -> DecodedAudio:
    """Decode the first audio stream of a file at its own sample rate.

    Args:
        path: any file; the content decides the format, not the suffix.
        max_duration_s: decoding stops with an error beyond this length, so that memory stays bounded.

    Raises:
        AudioDecodeError: unreadable, cut, empty, too long or with samples that are not finite.
    """
    blocks = _Blocks()
    with _open_stream(path) as (container, stream):
        channels = stream.channels
        sample_rate = int(stream.rate)
        declared_s = _declared_duration_s(container, stream)
        resampler = av.AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=sample_rate)
        try:
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    blocks.add(part.to_ndarray())
                if blocks.num_samples > max_duration_s * sample_rate:
                    raise AudioDecodeError(f"longer than {max_duration_s:g} s")
            for part in resampler.resample(None):
                blocks.add(part.to_ndarray())
        except (av.FFmpegError, OSError) as error:
            raise AudioDecodeError(
                f"decoding failed after {blocks.num_samples / sample_rate:.2f} s: {error.strerror or error}"
            ) from error
    if not blocks.num_samples:
        raise AudioDecodeError("no audio could be decoded")
    samples = blocks.join()
    decoded_s = samples.shape[1] / sample_rate
    if declared_s is not None and decoded_s < MIN_DECODED_FRACTION * declared_s - 0.1:
        raise AudioDecodeError(f"cut: the header promises {declared_s:.2f} s, {decoded_s:.2f} s could be decoded")
    if not all(np.isfinite(block).all() for block in iterate_blocks(samples)):
        raise AudioDecodeError("samples that are not finite (NaN or infinity)")
    return DecodedAudio(samples, sample_rate, channels, declared_s)


class _Blocks:
    """Joins decoded frames; at no time are there two copies of a long file."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._frames: list[Audio] = []
        self._frame_bytes = 0
        self._blocks: list[Audio] = []

    def add(self, frame: Audio) -> None:
        """Append samples [C, L] of the type that decoding gives."""
        self._frames.append(frame)
        self.num_samples += frame.shape[1]
        self._frame_bytes += frame.nbytes
        if self._frame_bytes >= _DECODED_BLOCK_BYTES:
            self._close_block()

    def _close_block(self) -> None:
        if self._frames:
            self._blocks.append(np.concatenate(self._frames, axis=1).astype(np.float32, copy=False))
        self._frames, self._frame_bytes = [], 0

    def join(self) -> Audio:
        """Return everything as float32 [C, L] and forget it."""
        self._close_block()
        if len(self._blocks) == 1:
            return self._blocks.pop()
        blocks, self._blocks = self._blocks[::-1], []
        samples = np.empty((len(blocks[0]), self.num_samples), np.float32)
        return fill(samples, (blocks.pop() for _ in range(len(blocks))))


def iterate_blocks(samples: Audio, size: int = BLOCK_SAMPLES) -> Iterator[Audio]:
    """Yield views [C, up to `size`] that cover [C, L] in order."""
    for start in range(0, samples.shape[1], size):
        yield samples[:, start : start + size]


def fill(target: Audio, blocks: Iterable[Audio]) -> Audio:
    """Write blocks [C, n] one after the other into [C, L] and return it; what is too long is cut, the rest is zero."""
    filled = 0
    for block in blocks:
        part = block[:, : target.shape[1] - filled]
        target[:, filled : filled + part.shape[1]] = part
        filled += part.shape[1]
    target[:, filled:] = 0
    return target


def resample(samples: Audio, from_rate: int, to_rate: int) -> Audio:
    """Resample float32 [C, L] with soxr's high-quality setting; the length becomes round(L * to / from)."""
    if from_rate == to_rate:
        return samples
    target = np.empty((len(samples), round(samples.shape[1] * to_rate / from_rate)), np.float32)
    return fill(target, resample_blocks(iterate_blocks(samples), from_rate, to_rate))


def resample_blocks(
    blocks: Iterable[Audio], from_rate: int, to_rate: int, quality: Literal["HQ", "LQ"] = "HQ"
) -> Iterator[Audio]:
    """Resample a stream of blocks [C, n]; joined they are what the whole would give, to the last bit."""
    if from_rate == to_rate:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    num_channels = 0
    for block in blocks:
        if stream is None:
            num_channels = len(block)
            stream = soxr.ResampleStream(from_rate, to_rate, num_channels, dtype="float32", quality=quality)
        yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
    if stream is not None:
        yield stream.resample_chunk(np.empty((0, num_channels), np.float32), last=True).T


def resample_mono(samples: Audio, from_rate: int, to_rate: int) -> Audio:
    """Mix float32 [C, L] down as `to_mono` does and resample it to float32 [round(L * to / from)], block by block."""
    weights = _mono_weights(samples)
    mono = (weights @ block for block in iterate_blocks(samples))
    target = np.empty((1, round(samples.shape[1] * to_rate / from_rate)), np.float32)
    fill(target, resample_blocks((block[None] for block in mono), from_rate, to_rate))
    return np.asarray(target[0])


def to_mono(samples: Audio) -> Audio:
    """Mix float32 [C, L] down to [L]; where the channels cancel (right = -left) the first channel is taken instead."""
    return np.asarray(_mono_weights(samples) @ samples)


def _mono_weights(samples: Audio) -> Audio:
    equal = np.full(len(samples), 1 / len(samples), np.float32)
    if len(samples) > 1:
        power = sum(float(np.square(equal @ block, dtype=np.float64).sum()) for block in iterate_blocks(samples))
        first = sum(float(np.square(block[0], dtype=np.float64).sum()) for block in iterate_blocks(samples))
        if power < _CANCELLED_POWER * first:
            return np.asarray(np.eye(len(samples), dtype=np.float32)[0])
    return equal


def to_stereo(samples: Audio) -> Audio:
    """Return float32 [2, L]: a mono channel is repeated."""
    return np.repeat(samples, 2, axis=0) if len(samples) == 1 else samples[:2]


def rms_dbfs(samples: Audio) -> float:
    """Return the root mean square of all samples in dB relative to full scale; -200 for silence."""
    return rms_dbfs_of_blocks(iterate_blocks(np.atleast_2d(samples)))


def rms_dbfs_of_blocks(blocks: Iterable[Audio]) -> float:
    """Return the same for samples that come in blocks [C, n]."""
    energy, size = 0.0, 0
    for block in blocks:
        energy += float(np.square(block, dtype=np.float64).sum())
        size += block.size
    return float(10.0 * np.log10(max(energy / max(size, 1), 1e-20)))
