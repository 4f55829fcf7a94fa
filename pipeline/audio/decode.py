"""Reading audio: what music comes in, decoded by content and never by file name."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.audio.file import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from pipeline.audio.file import AudioDecodeError as AudioDecodeError
from pipeline.audio.file import AudioFile, decode_error, is_out_of_memory, open_audio, open_stream
from pipeline.audio.file import hash_file as hash_file
from pipeline.audio.file import require_regular_file as require_regular_file
from pipeline.audio.headers import counted_duration_s, find_flac_streams, present_share, read_ogg_pages
from pipeline.audio.losses import Losses
from pipeline.audio.parts import MAX_DECODED_BYTES, Part, Parts

SPEECH_SAMPLE_RATE_HZ = 16_000  # of recognisers
_MAX_READ_ERRORS_IN_ROW, _MAX_READ_ERRORS = 4, 100  # beyond them the demuxer does not find its way back
_CANCELLED_POWER = 0.01  # of the first channel's: a mix 20 dB below it has cancelled out
_UNCOUNTED_FORMATS = ("mp3", "aac", "ac3", "amr", "dts", "eac3", "loas")  # frames without a header before them
_CLAMPED_FORMATS = ("wav", "w64", "caf")  # FFmpeg takes the length of what is there for the length that was promised
_SAME_BIT_RATE = 0.01
# Long files are taken in blocks, so that beside the samples themselves no second copy of a song is in memory.
BLOCK_SAMPLES = 1 << 20  # 22 s at 48 kHz

Audio = NDArray[np.float32]  # [C, L], full scale = 1.0


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """Samples of one file: float32 [C, L] with C 1 or 2 (more channels are mixed down), full scale = 1.0."""

    samples: Audio
    sample_rate: int
    source_channels: int  # the most that any part of the file has
    declared_s: float | None = None  # length that the header promises; None where it says nothing
    changes: int = 0  # how often rate, channels or sample format change in mid-stream
    lost_s: float = 0.0  # of audio that is missing or could not be decoded
    junk_bytes: int = 0  # that could not be decoded, between or after the frames
    has_end: bool = True  # False for an Ogg file whose last page does not say that it is the last one

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1] / self.sample_rate)

    @property
    def warnings(self) -> list[str]:
        """What a person should know of a file that could be used all the same."""
        claims = {
            f"format_change: {self.changes} in mid-stream": self.changes > 0,
            f"damaged: {self.lost_s:.2f} s of audio lost": self.lost_s > 0,
            f"junk: {self.junk_bytes} bytes that are no audio": self.junk_bytes > 0,
            "no_end_mark: the file may have been cut": not self.has_end,
        }
        return [text for text, holds in claims.items() if holds]


def _declared_duration_s(
    container: av.container.InputContainer, stream: av.AudioStream, counted_s: float | None
) -> float | None:
    """Return the length that the header promises, None where it says nothing.

    A bare stream (MP3 without a Xing header, AAC) has no length: FFmpeg guesses one from the bit rate of its first
    frames, with a variable rate far off. For an MP3 the rates of file and stream agree then.
    """
    if container.format.name in _CLAMPED_FORMATS:
        return None
    if container.format.name in _UNCOUNTED_FORMATS:
        is_guess = abs(container.bit_rate - (stream.bit_rate or 0)) < _SAME_BIT_RATE * container.bit_rate
        if container.format.name != "mp3" or counted_s is not None or is_guess:
            return counted_s
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def decode_audio(source: Path | AudioFile, *, max_duration_s: float = 3_600.0) -> DecodedAudio:
    """Decode the first audio stream of a file at its own sample rate.

    Where rate or channels change in mid-stream, everything gets the rate of the longest part, and two channels if any
    part has more than one. Frames that cannot be decoded are left out and counted.

    Args:
        source: any file; the content decides the format, not the suffix.
        max_duration_s: decoding stops with an error beyond this length, so that memory stays bounded.

    Raises:
        AudioDecodeError: unreadable, empty, cut, damaged (bounds in audio_losses.py), longer than `max_duration_s`,
            larger than `MAX_DECODED_BYTES`, or with samples that are not finite.
        MachineReadError: the file cannot be read here and now.
    """
    if isinstance(source, AudioFile):
        return _decode(source, max_duration_s)
    with open_audio(source) as file:
        return _decode(file, max_duration_s)


def _decode(file: AudioFile, max_duration_s: float) -> DecodedAudio:
    ogg = read_ogg_pages(file)
    share = None if ogg else present_share(file)
    counted_s = None if ogg else counted_duration_s(file)
    file.raise_fault()
    streams: Sequence[tuple[int, int]] = ogg.links if ogg else [(0, file.num_bytes)]
    parts, losses, format_name = _decode_streams(file, streams, share, counted_s, max_duration_s)
    if format_name == "flac" and parts.changes:  # FFmpeg finds frames twice where one FLAC file follows another
        streams = find_flac_streams(file)
        parts, losses, _ = _decode_streams(file, streams, share, counted_s, max_duration_s)
    changes = parts.changes
    samples, sample_rate = _join(parts.finish())
    losses.judge()
    if not all(np.isfinite(block).all() for block in iterate_blocks(samples)):
        raise AudioDecodeError("samples that are not finite (NaN or infinity)")
    return DecodedAudio(
        samples,
        sample_rate,
        parts.source_channels,
        losses.declared_s,
        changes,
        losses.lost_s(),
        losses.junk_bytes,
        ogg is None or ogg.has_end,
    )


def _decode_streams(
    file: AudioFile,
    streams: Sequence[tuple[int, int]],
    share: float | None,
    counted_s: float | None,
    max_duration_s: float,
) -> tuple[Parts, Losses, str]:
    """Decode one or more streams that follow each other in a file, and return the name of the format as well.

    Args:
        file: the open file.
        streams: first byte and byte after the last of each.
        share: see `present_share`.
        counted_s: see `counted_duration_s`.
        max_duration_s: of all together.
    """
    parts, losses, format_name = Parts(file.num_bytes, max_duration_s), Losses(), ""
    for number, (start, end) in enumerate(streams):
        file.select(start, end)
        with ExitStack() as stack:
            try:
                container, stream = stack.enter_context(open_stream(file))
            except AudioDecodeError:
                if number == 0:
                    raise
                losses.add_undecoded(end - start)  # other streams may be whole
                continue
            format_name = container.format.name
            declared_s = _declared_duration_s(container, stream, counted_s)
            parts.check_size(int((declared_s or 0.0) * stream.rate), stream.rate, stream.channels)
            losses.begin(is_lossless=stream.codec_context.codec.lossless)
            time_base, last_part = float(stream.time_base or 0), 0
            for frame in _read_frames(file, container, stream, losses):
                parts.add(frame)
                last_part = last_part or len(parts)
                has_clock = frame.pts is not None and len(parts) == last_part  # FFmpeg counts on at the old rate
                losses.add_frame(frame.pts * time_base if has_clock else None, frame.samples / frame.sample_rate)
            file.raise_fault()
            losses.end(declared_s, share, may_end_in_junk=format_name in _UNCOUNTED_FORMATS)
    return parts, losses, format_name


def _read_frames(
    file: AudioFile, container: av.container.InputContainer, stream: av.AudioStream, losses: Losses
) -> Iterator[av.AudioFrame]:
    """Yield the frames that can be decoded and count the bytes of those that cannot."""
    num_errors = num_errors_in_row = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            num_errors, num_errors_in_row = num_errors + 1, num_errors_in_row + 1
            if is_out_of_memory(error):
                raise decode_error(error, file, "cannot be read") from error
            if num_errors_in_row == _MAX_READ_ERRORS_IN_ROW or num_errors == _MAX_READ_ERRORS:
                yield from stream.decode(None)
                return
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        num_errors_in_row = 0
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError) as error:
            if is_out_of_memory(error):
                raise decode_error(error, file, "cannot be decoded") from error
            losses.add_undecoded(packet.size)
            continue
        yield from frames


def _join(parts: list[Part]) -> tuple[Audio, int]:
    """Return all parts as float32 [C, L] at the rate of the longest one, with that rate in Hz."""
    longest = max(parts, key=lambda part: part.num_samples / part.sample_rate)
    sample_rate, num_channels = longest.sample_rate, max(part.num_channels for part in parts)
    lengths = [round(part.num_samples * sample_rate / part.sample_rate) for part in parts]
    if sum(lengths) * num_channels * 4 > MAX_DECODED_BYTES:
        raise AudioDecodeError(f"more than {MAX_DECODED_BYTES >> 20} MiB of samples in {len(lengths)} formats")
    taken = [part.take() for part in parts]
    if len(taken) == len(taken[0]) == 1:
        return taken[0].pop(), sample_rate
    samples, place = np.empty((num_channels, sum(lengths)), np.float32), 0
    for part, blocks, length in zip(parts, taken, lengths, strict=True):
        target = samples[:, place : place + length]
        fill(target, resample_blocks(_widen(blocks, num_channels), part.sample_rate, sample_rate))
        place += length
    return samples, sample_rate


def _widen(blocks: list[Audio], num_channels: int) -> Iterator[Audio]:
    """Take blocks [1 or 2, n] from the end of a list; mono ones are repeated where two channels are wanted."""
    while blocks:
        block = blocks.pop()
        yield np.repeat(block, num_channels, axis=0) if len(block) < num_channels else block


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
