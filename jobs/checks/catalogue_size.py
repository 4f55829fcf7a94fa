"""How large a catalogue is and what will be written for it, from a look that is over in seconds."""

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from pipeline.audio.decode import AUDIO_SUFFIXES
from pipeline.catalogue.inputs import find_songs
from pipeline.input_file import InputError
from pipeline.model_files.profiles import Profile
from shards.schema import FRAME_RATE_HZ, LATENT_CHANNELS, PROMPT_FRAMES

MAX_LOOK_S = 5.0
_SAMPLES_PER_SUFFIX = 5
_DURATION_S = 1.0  # for opening samples; a file on a slow share takes a tenth of a second
# Bytes a second where no file of that kind could be opened: 16 bit stereo at 44.1 kHz, two thirds of it for FLAC,
# 256 kbit/s for the others.
_TYPICAL_RATE = {".wav": 176_400.0, ".aif": 176_400.0, ".aiff": 176_400.0, ".flac": 118_000.0}
_TYPICAL_COMPRESSED = 32_000.0

_FLOAT16, _UINT16 = 2, 2
_HOURS_S = 3600 * 10  # from here on in whole hours
SHARD_BYTES_PER_S = FRAME_RATE_HZ * (2 * LATENT_CHANNELS * _FLOAT16 + _UINT16)  # means, deviations, tokens
# Of one song, beside that: row, records, .lrc and .TextGrid in clean/, and the JSON in its shard. A demo song of 27 s
# takes 30 kB in clean/, nearly all of it for its words; a whole song has seven times as many, and the shard half.
SONG_TEXT_BYTES = 300_000
CODEBOOK_FRAMES = 4_194_304  # `fit_codebook.py --max-vectors`, float16 until it has finished
CODEBOOK_CHANNELS = 1024  # of MuQ


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueSize:
    """What was counted of a catalogue, or extrapolated."""

    num_songs: int
    num_bytes: int
    duration_s: float  # by the files' sizes, and the bytes a second of the few that were opened
    is_extrapolated: bool  # the look was ended by its time
    samples: tuple[Path, ...]  # some of its files, to try whether they can be read

    def output_bytes(self, profile: Profile) -> int:
        """Return what all jobs write for it: clean/, the features of the codebook, the shards."""
        prompts = profile.prompts_per_song * PROMPT_FRAMES * LATENT_CHANNELS * _FLOAT16
        shards = self.duration_s * SHARD_BYTES_PER_S + self.num_songs * (prompts + SONG_TEXT_BYTES)
        features = min(CODEBOOK_FRAMES, self.duration_s * FRAME_RATE_HZ) * CODEBOOK_CHANNELS * _FLOAT16
        return round(shards + features)

    def __str__(self) -> str:
        about = "about " if self.is_extrapolated else ""
        length = f"{self.duration_s / 3600:,.0f} hours" if self.duration_s >= _HOURS_S else f"{self.duration_s:,.0f} s"
        return f"{about}{self.num_songs:,} songs, about {length}"


def measure_catalogue(source: Path, *, max_look_s: float = MAX_LOOK_S) -> CatalogueSize:
    """Count the songs of a folder or a manifest, and guess how long they are.

    A folder's entries are sampled in random order: when time runs out, the totals are extrapolated from the sample.

    Args:
        source: what --in names.
        max_look_s: seconds after which the rest is extrapolated.

    Raises:
        InputError: no such folder or manifest, or no songs.
        OSError: it cannot be read.
    """
    deadline = time.monotonic() + max_look_s
    # What is neither a folder nor a manifest raises.
    entries = _list_entries(source) if source.is_dir() else [song.path for song in find_songs(source)]
    list_files = _audio_files if source.is_dir() else _sized
    random.Random(0).shuffle(entries)
    num_bytes: Counter[str] = Counter()
    samples: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    num_songs = num_entries = 0
    is_over = False
    for entry in entries:
        for path, size in list_files(entry):
            suffix = path.suffix.lower()
            num_songs += 1
            num_bytes[suffix] += size
            if len(samples[suffix]) < _SAMPLES_PER_SUFFIX:
                samples[suffix].append((path, size))
            if is_over := time.monotonic() > deadline:
                break
        num_entries += 1
        if is_over or time.monotonic() > deadline:
            break
    if not num_songs:
        raise InputError(f"{source}: no songs found; audio files end with {', '.join(sorted(AUDIO_SUFFIXES))}")
    scale = len(entries) / num_entries
    duration_s = sum(total / _bytes_per_second(suffix, samples[suffix]) for suffix, total in num_bytes.items())
    return CatalogueSize(
        num_songs=round(scale * num_songs),
        num_bytes=round(scale * num_bytes.total()),
        duration_s=scale * duration_s,
        is_extrapolated=is_over or num_entries < len(entries),
        samples=tuple(path for files in samples.values() for path, _ in files),
    )


def _list_entries(folder: Path) -> list[Path]:
    """Return what lies in a folder; a folder that holds only one other folder counts as that one."""
    entries = list(folder.iterdir())
    while len(entries) == 1 and entries[0].is_dir():
        entries = list(entries[0].iterdir())
    return entries


def _audio_files(entry: Path) -> Iterator[tuple[Path, int]]:
    """Yield the audio files of a file or a folder with their sizes; what cannot be read is left out."""
    if entry.suffix.lower() in AUDIO_SUFFIXES and not entry.is_dir():
        yield from _sized(entry)
        return
    for folder, _, names in os.walk(entry):  # of a file: nothing
        for name in names:
            if Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield from _sized(Path(folder) / name)


def _sized(path: Path) -> Iterator[tuple[Path, int]]:
    try:
        yield path, path.stat().st_size
    except OSError:
        return


def _bytes_per_second(suffix: str, samples: Sequence[tuple[Path, int]]) -> float:
    """Return what a second takes in some files, by their headers; a typical figure where none can be opened."""
    deadline = time.monotonic() + _DURATION_S
    total_bytes = total_s = 0.0
    for path, size in samples:
        duration_s = _declared_duration_s(path)
        if duration_s > 0 and size > 0:
            total_bytes += size
            total_s += duration_s
        if time.monotonic() > deadline:
            break
    return total_bytes / total_s if total_s else _TYPICAL_RATE.get(suffix, _TYPICAL_COMPRESSED)


def _declared_duration_s(path: Path) -> float:
    try:
        with av.open(f"file:{path.resolve()}", mode="r", metadata_errors="ignore") as container:
            return float((container.duration or 0) / av.time_base)
    except (av.FFmpegError, OSError):
        return 0.0
