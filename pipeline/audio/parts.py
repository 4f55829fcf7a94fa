"""Samples of one file as they are decoded: parts of one format each, within limits that hold before memory is taken."""

from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.audio.file import MAX_CHANNELS, AudioDecodeError, check_format, is_out_of_memory

# Samples in memory: an hour of stereo at 48 kHz takes 1.4 GB, and so does a quarter of an hour at 192 kHz.
MAX_DECODED_BYTES = 1_536 << 20
# Above 256 MiB (12 minutes) the samples may not be more than 4000 times the file. Digital silence in FLAC is 2640 times
# it (14 bytes for 4608 samples of two channels); the largest blocks, which only a bomb has, reach 37,000.
MAX_EXPANSION, MIN_BOMB_BYTES = 4_000, 256 << 20
MAX_CHANGES = 1_000
_MIN_PART_S = 0.1
_SAMPLE_BYTES = 4  # of float32
# What needs no mixing is scaled here, many frames at once; libswresample gives the same bits frame by frame.
_SCALES = {"flt": 1.0, "fltp": 1.0, "s16": 2.0**-15, "s16p": 2.0**-15, "s32": 2.0**-31, "s32p": 2.0**-31}
_PLAIN_LAYOUTS = ("mono", "stereo", "1 channels", "2 channels")  # the last two: the header names no places
# Above 32 MiB the C library gives memory back to the system as soon as it is freed.
_DECODED_BLOCK_BYTES = 64 << 20

Samples = NDArray[np.float32]


class Part:
    """Frames of one rate, layout and sample format; at no time are there two copies of a long file."""

    def __init__(self, frame: av.AudioFrame) -> None:
        """Begin with a frame, which still has to be added."""
        self.sample_rate: int = frame.sample_rate
        self.source_channels: int = frame.layout.nb_channels
        self.num_channels = min(self.source_channels, 2)
        self.num_samples = 0
        self._layout = frame.layout.name
        self._mixer: av.AudioResampler | None = None
        sample_format, self._is_packed = frame.format.name, not frame.format.is_planar
        if sample_format not in _SCALES or self._layout not in _PLAIN_LAYOUTS:
            sample_format, self._is_packed = "fltp", False
            layout = "mono" if self.num_channels == 1 else "stereo"
            self._mixer = av.AudioResampler(format=sample_format, layout=layout, rate=frame.sample_rate)
        self._scale = _SCALES[sample_format]
        self._frames: list[NDArray[Any]] = []
        self._blocks: list[Samples] = []
        self._block_samples = _DECODED_BLOCK_BYTES // (self.num_channels * _SAMPLE_BYTES)
        self._next_block = self._block_samples

    def add(self, frame: av.AudioFrame | None) -> None:
        """Append the samples of a frame; None takes what is left in the mixer."""
        if self._mixer is None:
            if frame is not None:
                self._append(frame)
            return
        try:
            mixed = self._mixer.resample(frame)
        except av.FFmpegError as error:
            if is_out_of_memory(error):
                raise
            raise AudioDecodeError(f"{self._layout} of audio cannot be mixed to two: {error.strerror}") from error
        for part in mixed:
            self._append(part)

    def _append(self, frame: av.AudioFrame) -> None:
        self._frames.append(frame.to_ndarray())
        self.num_samples += frame.samples
        if self.num_samples >= self._next_block:
            self._close_block()

    def _close_block(self) -> None:
        if self._frames:
            joined = np.concatenate(self._frames, axis=1)
            if self._is_packed:  # [1, n * C]
                joined = joined.reshape(-1, self.num_channels).T
            if joined.dtype == np.float32 and not self._is_packed:
                self._blocks.append(joined)
            else:
                block = np.empty(joined.shape, np.float32)
                for target, channel in zip(block, joined, strict=True):
                    np.multiply(channel, np.float32(self._scale), out=target)
                self._blocks.append(block)
        self._frames, self._next_block = [], self.num_samples + self._block_samples

    def take(self) -> list[Samples]:
        """Return everything in blocks [C, n], last first, and forget it."""
        self._close_block()
        blocks, self._blocks = self._blocks[::-1], []
        return blocks


class Parts:
    """Everything that is decoded of one file, within limits that hold before memory is taken."""

    def __init__(self, num_file_bytes: int, max_duration_s: float) -> None:
        """Nothing has been decoded yet."""
        self.source_channels = 0
        self._num_file_bytes = num_file_bytes
        self._max_source_bytes = max(MIN_BOMB_BYTES, MAX_EXPANSION * num_file_bytes)
        self._max_duration_s = max_duration_s
        self._parts: list[Part] = []
        self._format: tuple[str, str, int] | None = None
        self._room = 0  # samples that the part in progress may still take

    @property
    def changes(self) -> int:
        """How often rate, layout or sample format changed; a single odd frame between two parts is no part."""
        return max(0, sum(part.num_samples >= _MIN_PART_S * part.sample_rate for part in self._parts) - 1)

    def __len__(self) -> int:
        """Return the number of parts, odd frames included."""
        return len(self._parts)

    def check_size(self, num_samples: int, sample_rate: int, source_channels: int) -> None:
        """Raise AudioDecodeError if so many more samples per channel would be too long or too large."""
        if self._seconds() + num_samples / sample_rate > self._max_duration_s:
            raise AudioDecodeError(f"longer than {self._max_duration_s:g} s")
        if self._num_bytes(2) + num_samples * min(source_channels, 2) * _SAMPLE_BYTES > MAX_DECODED_BYTES:
            raise AudioDecodeError(f"more than {MAX_DECODED_BYTES >> 20} MiB of samples")
        num_bytes = self._num_bytes(MAX_CHANNELS) + num_samples * source_channels * _SAMPLE_BYTES
        if num_bytes > self._max_source_bytes:
            raise AudioDecodeError(
                f"{self._num_file_bytes} bytes that become {num_bytes >> 20} MiB of samples and more are no music"
            )

    def add(self, frame: av.AudioFrame) -> None:
        """Append a frame."""
        frame_format = frame.format.name, frame.layout.name, frame.sample_rate
        if frame_format != self._format:
            self._begin(frame)
            self._format = frame_format
        part = self._parts[-1]
        self._room -= frame.samples
        if self._room < 0:
            self.check_size(frame.samples, part.sample_rate, part.source_channels)
        part.add(frame)

    def _begin(self, frame: av.AudioFrame) -> None:
        check_format(frame.sample_rate, frame.layout.nb_channels)
        self._flush()
        if len(self._parts) > MAX_CHANGES:
            raise AudioDecodeError(f"rate or channels change more than {MAX_CHANGES} times")
        part = Part(frame)
        self._room = min(
            int((self._max_duration_s - self._seconds()) * part.sample_rate),
            (MAX_DECODED_BYTES - self._num_bytes(2)) // (part.num_channels * _SAMPLE_BYTES),
            (self._max_source_bytes - self._num_bytes(MAX_CHANNELS)) // (part.source_channels * _SAMPLE_BYTES),
        )
        self._parts.append(part)
        self.source_channels = max(self.source_channels, frame.layout.nb_channels)

    def _seconds(self) -> float:
        return sum(part.num_samples / part.sample_rate for part in self._parts)

    def _num_bytes(self, max_channels: int) -> int:
        """Return the size of all samples so far, of as many channels."""
        return _SAMPLE_BYTES * sum(part.num_samples * min(part.source_channels, max_channels) for part in self._parts)

    def _flush(self) -> None:
        if self._parts:
            self._parts[-1].add(None)

    def finish(self) -> list[Part]:
        """Return the parts that hold samples, and forget them.

        Raises:
            AudioDecodeError: there is none.
        """
        self._flush()
        parts, self._parts = [part for part in self._parts if part.num_samples], []
        if not parts:
            raise AudioDecodeError("no audio could be decoded")
        return parts
