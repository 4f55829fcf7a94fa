"""What headers promise and FFmpeg does not pass on: samples that a cut file lacks, frames of an MP3, links of an Ogg.

Sources: WAVE (Microsoft and IBM, 1991), RF64 (EBU Tech 3306), Sony Wave64, Apple's Core Audio Format, Ogg (RFC 3533);
for MP3 the tag of Xing and LAME (gabriel.mp3-tech.org/mp3infotag.html).
"""

import itertools
import re
import struct
from dataclasses import dataclass

from pipeline.audio.file import AudioDecodeError, AudioFile

# What writes to a pipe cannot know the length: it leaves 0 or a number at the end of what 31 or 32 bits hold.
_UNKNOWN_SIZE = 0x7FFFF000  # SoX's; FFmpeg's is 0xFFFFFFFF
_MAX_CHUNKS = 1_000  # before the samples; broadcast files have about ten
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"

_ID3_HEADER_BYTES, _MP3_HEAD_BYTES = 10, 512
# Of MPEG audio, layer III, by the two version bits of a frame's header (2.5, none, 2, 1).
_MP3_SAMPLES_PER_FRAME = (576, 0, 576, 1_152)
_MP3_RATES_HZ = ((11_025, 12_000, 8_000), (), (22_050, 24_000, 16_000), (44_100, 48_000, 32_000))

_XING_FIELDS = ((1, 4), (2, 4), (4, 100), (8, 4))  # flag and bytes: frames, bytes, places to seek to, quality

_FLAC_START = re.compile(b"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)  # and a STREAMINFO block, which has 34 bytes
_FLAC_START_BYTES = 8

_OGG_HEADER = struct.Struct("<4sBBqIIIB")  # capture pattern, version, flags, granule, serial, sequence, CRC, segments
_OGG_FIRST, _OGG_LAST = 2, 4  # flags: first and last page of a logical stream
_SEARCH_BYTES = 1 << 18
MAX_OGG_LINKS = 500


def present_share(file: AudioFile) -> float | None:
    """Return the share of the promised sample bytes that a WAV, RF64, W64 or CAF file holds, 0 to 1.

    None for other formats, and where the header says nothing.
    """
    file.select(0, file.num_bytes)
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        found = _find_riff_data(file)
    elif head[:16] == _W64_RIFF:
        found = _find_w64_data(file)
    elif head[:4] == b"caff":
        found = _find_caf_data(file)
    else:
        return None
    if found is None:
        return None
    start, size = found
    return min(1.0, max(0, file.num_bytes - start) / size)


def _find_riff_data(file: AudioFile) -> tuple[int, int] | None:
    """Return start and size in bytes of the samples of a WAVE file, None where the size is not known."""
    place, size_64 = 12, None
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        header = file.read(24)
        if len(header) < 8:
            return None
        name, size = struct.unpack("<4sI", header[:8])
        if name == b"ds64" and len(header) == 24:
            (size_64,) = struct.unpack("<Q", header[16:24])
        if name == b"data":
            if size == 0xFFFFFFFF and size_64:
                size = size_64
            elif size == 0 or size >= _UNKNOWN_SIZE:
                return None
            return place + 8, size
        place += 8 + size + size % 2
    return None


def _find_w64_data(file: AudioFile) -> tuple[int, int] | None:
    place = 40
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        header = file.read(24)
        if len(header) < 24:
            return None
        (size,) = struct.unpack("<Q", header[16:])  # with the 24 bytes of the header
        if header[:16] == _W64_DATA:
            return (place + 24, size - 24) if 24 < size < 1 << 62 else None
        place += max(24, size + -size % 8)
    return None


def _find_caf_data(file: AudioFile) -> tuple[int, int] | None:
    place = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        header = file.read(12)
        if len(header) < 12:
            return None
        name, size = struct.unpack(">4sq", header)
        if name == b"data":  # four bytes of it count edits; -1 is "until the end"
            return (place + 16, size - 4) if size > 4 else None
        if size < 0:
            return None
        place += 12 + size
    return None


def counted_duration_s(file: AudioFile) -> float | None:
    """Return the length of an MP3 by the number of frames in its Xing or LAME tag, None where it has none.

    FFmpeg forgets the number where the file is larger than the tag says, and guesses from the bit rate instead.
    """
    file.select(0, file.num_bytes)
    id3 = file.read(_ID3_HEADER_BYTES)
    if id3[:3] == b"ID3" and len(id3) == _ID3_HEADER_BYTES:
        file.seek(_ID3_HEADER_BYTES + (id3[6] << 21 | id3[7] << 14 | id3[8] << 7 | id3[9]))  # seven bits each
    else:
        file.seek(0)
    head = file.read(_MP3_HEAD_BYTES)
    if len(head) < _MP3_HEAD_BYTES or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # of layer III
        return None
    version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
    side_bytes = (32, 17) if version == 3 else (17, 9)  # of stereo and mono, between the header and the tag
    tag = head[4 + side_bytes[head[3] >> 6 == 3] :]
    if tag[:4] not in (b"Xing", b"Info") or not tag[7] & 1 or rate == 3 or not _MP3_RATES_HZ[version]:
        return None
    num_samples = int.from_bytes(tag[8:12], "big") * _MP3_SAMPLES_PER_FRAME[version]
    encoder = tag[8 + sum(size for bit, size in _XING_FIELDS if tag[7] & bit) :]
    if encoder[:4] in (b"LAME", b"Lavf", b"Lavc"):
        delay = int.from_bytes(encoder[21:24], "big")  # twelve bits for each end
        num_samples -= (delay >> 12) + (delay & 0xFFF)
    return num_samples / _MP3_RATES_HZ[version][rate] if num_samples > 0 else None


def find_flac_streams(file: AudioFile) -> list[tuple[int, int]]:
    """Return first byte and byte after the last of every FLAC file in a file that is several, one after the other."""
    starts, place = [0], 1
    file.select(0, file.num_bytes)
    while place < file.num_bytes:
        file.seek(place)
        block = file.read(_SEARCH_BYTES + _FLAC_START_BYTES - 1)
        starts += [place + found.start() for found in _FLAC_START.finditer(block)]
        place += _SEARCH_BYTES
    return list(itertools.pairwise([*starts, file.num_bytes]))


@dataclass(frozen=True, slots=True)
class OggPages:
    """The links of an Ogg file: streams one after the other, each with headers of its own, as radio stations send."""

    links: tuple[tuple[int, int], ...]  # first byte and byte after the last
    has_end: bool  # the last page says that it is the last one


def read_ogg_pages(file: AudioFile) -> OggPages | None:
    """Walk through the pages of an Ogg file; None for anything else.

    Raises:
        AudioDecodeError: the file ends within a page, so it has been cut, or it has more than `MAX_OGG_LINKS` links.
    """
    file.select(0, file.num_bytes)
    if file.read(4) != b"OggS":
        return None
    starts: list[int] = []
    place: int | None = 0
    was_first, flags = False, 0
    while place is not None:
        file.seek(place)
        header = file.read(_OGG_HEADER.size + 255)
        if len(header) < _OGG_HEADER.size or header[:5] != b"OggS\0":
            place = _find_page(file, place + 1)
            continue
        _, _, flags, *_, num_segments = _OGG_HEADER.unpack_from(header)
        body = header[_OGG_HEADER.size : _OGG_HEADER.size + num_segments]
        end = place + _OGG_HEADER.size + num_segments + sum(body)
        if end > file.num_bytes or len(body) < num_segments:
            place = _find_page(file, place + 1)  # damage, if a page follows
            if place is None:
                raise AudioDecodeError("cut: the file ends in the middle of an Ogg page; get it whole")
            continue
        is_first = bool(flags & _OGG_FIRST)
        if is_first and not was_first:
            starts.append(place)
            if len(starts) > MAX_OGG_LINKS:
                raise AudioDecodeError(f"more than {MAX_OGG_LINKS} Ogg streams one after the other")
        was_first = is_first
        place = end if end < file.num_bytes else None
    starts[:1] = [0]
    return OggPages(tuple(itertools.pairwise([*starts, file.num_bytes])), bool(flags & _OGG_LAST))


def _find_page(file: AudioFile, place: int) -> int | None:
    """Return where the next page begins after damage or junk."""
    for start in itertools.count(place, _SEARCH_BYTES):
        file.seek(start)
        block = file.read(_SEARCH_BYTES + 3)
        if (found := block.find(b"OggS")) >= 0:
            return start + found
        if len(block) < _SEARCH_BYTES + 3:
            return None
    return None
