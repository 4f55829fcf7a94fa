"""One open audio file: hashed and decoded through the same descriptor, and nothing else is opened for it.

FFmpeg reads hundreds of formats. Some name other files or addresses (ffconcat, HLS, DASH, SDP), and most hold no music.
So demuxers and decoders are allowed by name (`format_whitelist`, `codec_whitelist` of FFmpeg's AVFormatContext), no
protocol is (`protocol_whitelist`), and FFmpeg gets bytes from a Python object in place of a name.
"""

import ctypes
import errno
import hashlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av._core
from av.stream import Discard

from pipeline.input_file import InputFileError, machine_error, open_regular

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = frozenset(
    ".wav .w64 .rf64 .flac .mp3 .mp2 .ogg .oga .opus .m4a .m4b .aac .mp4 .3gp .aif .aiff .aifc .caf .au .wma .mka "
    ".webm .ape .wv .tta .tak .mpc .dsf .ac3 .eac3 .dts .amr".split()
)
# What music and speech come in. None of these demuxers opens another file; mov's could, if `enable_drefs` were set.
_DEMUXERS = (
    "aac ac3 aiff amr ape asf au caf dsf dts eac3 flac loas matroska mov mp3 mpc mpc8 ogg tak tta w64 wav wv".split()
)
_DECODERS = frozenset(
    "aac aac_latm ac3 adpcm_ima_qt adpcm_ima_wav adpcm_ms alac als amrnb amrwb ape dca dsd_lsbf dsd_lsbf_planar "
    "dsd_msbf dsd_msbf_planar eac3 flac gsm_ms libopencore_amrnb libopencore_amrwb libopus mp1 mp1float mp2 mp2float "
    "mp3 mp3float mpc7 mpc8 opus tak tta vorbis wavpack wmalossless wmapro wmav1 wmav2 wmavoice".split()
) | {name for name in av.codecs_available if name.startswith("pcm_")}
_OPTIONS = {
    "format_whitelist": ",".join(_DEMUXERS),
    "codec_whitelist": ",".join(sorted(_DECODERS)),
    "protocol_whitelist": "none",
}
# What a file begins with that holds no audio of its own.
_LISTS = (
    (b"ffconcat", "an ffconcat list of other files"),
    (b"#EXTM3U", "an M3U or HLS playlist"),
    (b"[playlist]", "a PLS playlist"),
    (b"v=0", "an SDP description of a stream"),
    (b"<asx", "an ASX playlist"),
    (b"<smil", "a SMIL playlist"),
    (b"<MPD", "a DASH manifest"),
)
_HEAD_BYTES = 4_096

# The largest block that FFmpeg may take at once; without it a header of 60 kB makes it take gigabytes. A song's largest
# are its picture and its table of frames: at 24 bytes each (AVIndexEntry) 2.8 million frames, 16 hours of AAC.
MAX_BLOCK_BYTES = 64 << 20
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 1_000, 768_000
MAX_CHANNELS = 64  # that libswresample mixes (SWR_CH_MAX)
_HASH_CHUNK_BYTES = 1 << 20
_MAX_PLACE = (1 << 62) - 1  # larger ones would overflow with the size of what is read there


class AudioDecodeError(ValueError):
    """A file that holds no audio that can be used: it goes to quarantine with this message."""


class AudioFile:
    """An open audio file: read, seek and tell as FFmpeg calls them, within a part of the file if one is selected.

    A read that the machine cannot do is remembered (`raise_fault`) and ends the file for FFmpeg, whose own errors
    do not tell a disk that fails from a file that is cut.
    """

    def __init__(self, raw: io.FileIO, path: Path) -> None:
        """Take an open file; `path` is for errors and for its suffix, which FFmpeg weighs where content is in doubt."""
        suffix = path.suffix.lower()
        self.name = f"audio{suffix}" if suffix in AUDIO_SUFFIXES else "audio"
        self.path = path
        self._raw = raw
        self._fault: OSError | None = None
        self.num_bytes = os.fstat(raw.fileno()).st_size
        self._start, self._end, self._place = 0, self.num_bytes, 0

    def select(self, start: int, end: int) -> None:
        """Make bytes `start` to `end` the whole file, and go to their first."""
        self._start, self._end, self._place = start, end, 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes from here on; none at the end, and after a fault."""
        size = min(size, self._end - self._start - self._place)
        if size <= 0 or self._fault is not None:
            return b""
        try:
            data = os.pread(self._raw.fileno(), size, self._start + self._place)
        except OSError as error:
            self._fault = error
            return b""
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, which may lie behind the end, and return its place; before the start it is an error code."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end - self._start}[whence]
        if base + offset < 0:
            return -errno.EINVAL  # FFmpeg's way; an exception would end the decoding of a file that has junk after it
        self._place = min(base + offset, _MAX_PLACE)
        return self._place

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def raise_fault(self) -> None:
        """Raise MachineReadError if a read has failed since the file was opened."""
        if self._fault is not None:
            raise machine_error(self._fault, self.path) from self._fault

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes as hex.

        Raises:
            MachineReadError: a read failed.
        """
        self.select(0, self.num_bytes)
        digest = hashlib.sha256()
        while chunk := self.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
        self.raise_fault()
        self.seek(0)
        return digest.hexdigest()


@contextmanager
def open_audio(path: Path) -> Iterator[AudioFile]:
    """Open a file to hash it, to decode it, or both: what takes its name in the meantime changes nothing.

    Raises:
        AudioDecodeError: missing, empty, no regular file (a pipe would block us), or without permission.
        MachineReadError: this machine cannot open it now.
    """
    with _as_audio_error(), open_regular(path) as raw:
        yield AudioFile(raw, path)


@contextmanager
def _as_audio_error() -> Iterator[None]:
    try:
        yield
    except InputFileError as error:
        raise AudioDecodeError(str(error)) from error


def require_regular_file(path: Path) -> None:
    """Raise AudioDecodeError unless `path` leads to a readable, non-empty regular file; MachineReadError as there."""
    with open_audio(path):
        pass


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex; raises as `open_audio`."""
    with open_audio(path) as file:
        return file.sha256()


@contextmanager
def open_stream(file: AudioFile) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    """Find the first audio stream in the selected part of a file; its decoder is checked, and runs in one thread.

    Raises:
        AudioDecodeError: no audio, or not in a format that is read here.
        MachineReadError: a read failed.
    """
    try:
        container = av.open(file, mode="r", metadata_errors="ignore", container_options=_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        if what := _what_else(file):
            raise AudioDecodeError(f"no audio, but {what}; name the audio files themselves") from error
        raise decode_error(error, file, "no known audio format") from error
    with container:
        file.raise_fault()
        if not container.streams.audio:
            raise AudioDecodeError("no audio stream in the file")
        stream = container.streams.audio[0]
        _check_stream(stream)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        stream.codec_context.thread_count = 1
        if stream.codec_context.codec.lossless:  # their checksums find what is damaged and decodes all the same
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        yield container, stream


def _check_stream(stream: av.AudioStream) -> None:
    if stream.codec_context is None:
        raise AudioDecodeError("audio stream of an unknown codec")
    if stream.codec_context.name not in _DECODERS:
        raise AudioDecodeError(f"codec {stream.codec_context.name} is not read here; convert the file to FLAC")
    check_format(stream.rate or 0, stream.channels)


def check_format(sample_rate: int, num_channels: int) -> None:
    """Raise AudioDecodeError for a rate or a number of channels that no music has."""
    if not MIN_SAMPLE_RATE_HZ <= sample_rate <= MAX_SAMPLE_RATE_HZ:
        raise AudioDecodeError(f"sample rate {sample_rate} Hz, expected {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise AudioDecodeError(f"{num_channels} channels, expected 1 to {MAX_CHANNELS}")


def _what_else(file: AudioFile) -> str:
    """Return what a file is in place of audio, "" where that is not known."""
    file.seek(0)
    head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(b"<?xml"):
        head = head[max(0, head.find(b"<mpd")) :]
    return next((what for mark, what in _LISTS if head.startswith(mark.lower())), "")


def decode_error(error: Exception, file: AudioFile, what: str) -> AudioDecodeError | OSError:
    """Return the error to raise after FFmpeg's: AudioDecodeError with `what`, or MachineReadError."""
    try:
        file.raise_fault()
    except OSError as fault:
        return fault
    if is_out_of_memory(error):
        try:
            bytearray(MAX_BLOCK_BYTES)
        except MemoryError:
            return machine_error(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), file.path)
        return AudioDecodeError(f"{what}: its header asks for more than {MAX_BLOCK_BYTES >> 20} MiB at once")
    return AudioDecodeError(f"{what}: {getattr(error, 'strerror', None) or error}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether FFmpeg could not have a block of memory."""
    return getattr(error, "errno", None) == errno.ENOMEM


def _limit_blocks() -> None:
    """Set FFmpeg's own limit (`av_max_alloc` of libavutil) for this process; PyAV has no function for it."""
    try:
        set_limit = ctypes.CDLL(av._core.__file__).av_max_alloc  # found through the libraries that the module links to
    except (AttributeError, OSError) as error:
        logger.warning("FFmpeg's memory cannot be limited (%s): a hostile file may take all of it", error)
        return
    set_limit.argtypes, set_limit.restype = [ctypes.c_size_t], None
    set_limit(MAX_BLOCK_BYTES)


_limit_blocks()
