"""What a recording is known by after re-encoding, another gain or a small trim: landmarks of its spectrogram.

A landmark is a constellation of three neighbouring spectral peaks, named by their frequencies and the times between
them (after A. Wang, "An industrial-strength audio search algorithm", ISMIR 2003, who takes two; three tell a million
songs apart). Of each song the landmarks with the smallest scrambled names are kept, so that two copies keep the same
ones, and equal names lead to them without comparing all pairs of songs.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.audio.decode import Audio
from pipeline.song import AudioFingerprint

RATE_HZ = 8_000  # every lossy codec keeps what lies below 4 kHz
WINDOW, HOP = 1_024, 128  # 128 ms and 16 ms
WINDOWS_AT_ONCE = 4_096  # a minute: those of an hour would take 2 GB
PEAK_BINS, PEAK_FRAMES = 31, 25  # a peak is the highest point within +-120 Hz and +-0.2 s
NAME_FRAMES = 2  # times enter the name in units of 32 ms: two decoders rarely agree to 16 ms
REACH_STEPS, REACH_BINS = 63, 63  # 2 s and 490 Hz: how far the other two peaks may lie from the first
NEIGHBOURS = 4  # peaks after the first that make constellations with it
NUM_LANDMARKS = 400  # kept per song
MAX_SONGS_PER_NAME = 100  # a name that more songs share (a drum loop, a test tone) says nothing
OFFSET_TOLERANCE_FRAMES = 4  # 64 ms
MIN_SHARED = 0.04  # of the kept landmarks, at one offset; pipeline/README.md has the experiment
MIN_AGREEING = 8  # landmarks: a few seconds of sound have few, and one or two agree by chance


def fingerprint_audio(mono: Audio, sample_rate: int) -> AudioFingerprint:
    """Return the landmarks of float32 [L]; none for what is shorter than a window or has no peaks."""
    frames, bins = _find_peaks(soxr.resample(mono, sample_rate, RATE_HZ, quality="LQ"))
    names, starts = _name_constellations(frames, bins)
    names, first = np.unique(names, return_index=True)  # a name once per song, where it sounds first
    kept = np.sort(np.argsort(_scramble(names), kind="stable")[:NUM_LANDMARKS])
    return AudioFingerprint(names[kept], starts[first[kept]].astype(np.int32))


def find_near_duplicates(fingerprints: Mapping[str, AudioFingerprint]) -> dict[tuple[str, str], float]:
    """Return the pairs of songs that hold the same recording, with the share of landmarks that agree on one offset.

    Songs meet where they share a landmark's name; the work grows with the number of such meetings, not of pairs.
    """
    ids, prints = list(fingerprints), list(fingerprints.values())
    first, second, offsets = _meetings(prints)
    if not len(first):
        return {}
    pairs, groups = np.unique(np.stack([first, second]), axis=1, return_inverse=True)
    # One number per meeting, sorted: those of one pair lie together, by offset, far from those of the next pair.
    position = np.sort(groups.ravel().astype(np.int64) * 2**32 + offsets)
    agreeing = np.searchsorted(position, position + OFFSET_TOLERANCE_FRAMES, side="right") - np.arange(len(position))
    best = np.zeros(pairs.shape[1], np.int64)
    np.maximum.at(best, (position + 2**31) // 2**32, agreeing)
    sizes = np.array([len(landmarks.names) for landmarks in prints])
    shares = best / np.minimum(sizes[pairs[0]], sizes[pairs[1]])
    found = np.flatnonzero((best >= MIN_AGREEING) & (shares >= MIN_SHARED))
    return {(ids[pairs[0, k]], ids[pairs[1, k]]): float(shares[k]) for k in found}


def _find_peaks(samples: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return frames and bins of the local maxima of the spectrogram, in time order."""
    from scipy import fft, ndimage  # takes a quarter of a second to load, and most processes take no fingerprint

    if len(samples) < WINDOW:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    weights = np.hanning(WINDOW).astype(np.float32)
    parts = (windows[start : start + WINDOWS_AT_ONCE] for start in range(0, len(windows), WINDOWS_AT_ONCE))
    spectrum = np.concatenate([np.abs(fft.rfft(part * weights, axis=1)) for part in parts])
    is_peak = ndimage.maximum_filter(spectrum, (PEAK_FRAMES, PEAK_BINS)) == spectrum
    frames, bins = np.nonzero(is_peak & (spectrum > np.median(spectrum)))
    return frames, bins


def _name_constellations(
    frames: NDArray[np.int64], bins: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return a name and a start frame for every constellation of peaks that are in time order."""
    names, starts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for near, far in combinations(range(1, NEIGHBOURS + 1), 2):
        here = np.arange(max(len(frames) - far, 0))
        times = [(frames[here + step] - frames[here]) // NAME_FRAMES for step in (near, far)]
        heights = [bins[here + step] - bins[here] for step in (near, far)]
        fits = np.all([t <= REACH_STEPS for t in times] + [abs(h) <= REACH_BINS for h in heights], axis=0)
        name = bins[here]
        for time, height in zip(times, heights, strict=True):
            name = (name * (REACH_STEPS + 1) + time) * (2 * REACH_BINS + 1) + height + REACH_BINS
        names.append(name[fits].astype(np.uint64))
        starts.append(frames[here][fits])
    return np.concatenate(names), np.concatenate(starts)


def _meetings(
    prints: Sequence[AudioFingerprint],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return who meets whom under an equal name, and how many frames later the name sounds in the second song."""
    if not prints:
        return (np.zeros(0, np.int64),) * 3
    names = np.concatenate([landmarks.names for landmarks in prints])
    frames = np.concatenate([landmarks.frames for landmarks in prints]).astype(np.int64)
    songs = np.repeat(np.arange(len(prints)), [len(landmarks.names) for landmarks in prints])
    order = np.argsort(names, kind="stable")
    _, where, sizes = np.unique(names[order], return_inverse=True, return_counts=True)
    order = order[sizes[where] <= MAX_SONGS_PER_NAME]
    names, frames, songs = names[order], frames[order], songs[order]
    found = []
    for step in range(1, MAX_SONGS_PER_NAME):  # equal names stand together: compare each with the one `step` further
        equal = np.flatnonzero(names[:-step] == names[step:])
        if not len(equal):
            break
        found.append((songs[equal], songs[equal + step], frames[equal + step] - frames[equal]))
    if not found:
        return (np.zeros(0, np.int64),) * 3
    first, second, offsets = (np.concatenate(column) for column in zip(*found, strict=True))
    return first, second, offsets


def _scramble(names: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread names evenly over 64 bits (the finaliser of SplitMix64), so that the smallest are a random choice."""
    mixed = (names ^ (names >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
