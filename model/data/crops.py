"""Which span of a song a training step learns from.

The model is told that the song ends where the crop ends, so a crop begins and ends where music does: at section
boundaries where the lengths allow it, else between lines, never inside a line.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.vocabulary import compose_lyric_ids

LENGTH_TOLERANCE = 0.1  # of the wanted length: leaves a choice of places, and ranks within a few percent of each other
GOLDEN_RATIO = 11_400_714_819_323_198_485  # its fractional part, in units of 2**-64
SHORTENING = 0.9  # of a span whose lyrics are over the budget, for the next try


class UnusableSongError(ValueError):
    """No span of the song fits the settings; the message is a short reason, the same for all such songs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CropRules:
    """What a crop may be, in frames at 25 Hz and lyric symbols."""

    min_frames: int
    max_frames: int
    block_frames: int  # crops are a multiple of this
    max_lyric_tokens: int
    seconds_per_tag: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A span of a song and the lyrics sung in it."""

    start_frame: int
    end_frame: int
    lyric_ids: list[int]

    @property
    def num_frames(self) -> int:
        """Frames of the span."""
        return self.end_frame - self.start_frame


def spread(seed: int, place: int) -> float:
    """Return a number in [0, 1) for a place of the stream, so that those of neighbours lie evenly.

    Multiples of the golden ratio from a start that the seed decides (Knuth, TAOCP 3, 6.4): so that any batch has about
    as many short crops as long ones, and nearly the same number of tokens.
    """
    return ((seed + place * GOLDEN_RATIO) % 2**64 >> 11) / 2**53


def choose_length(num_frames: int, rules: CropRules, share: float) -> int:
    """Return how long a crop of a song of `num_frames` should be, before anything else is known of the song.

    Args:
        num_frames: of the song.
        rules: what a crop may be.
        share: from 0, the shortest, to below 1.
    """
    longest = min(rules.max_frames, num_frames)
    shortest = min(rules.min_frames, longest)
    return shortest + int(share * (longest - shortest + 1))


def choose_crop(
    metadata: Mapping[str, Any], rules: CropRules, generator: np.random.Generator, wanted_frames: int | None = None
) -> Crop:
    """Draw a span of the song whose lyrics fit the budget; a span whose lyrics do not is replaced by a shorter one.

    So is a span without any symbol: nothing is sung in it, and each of its sections is too short for a tag.
    A song whose lines have no times is used whole or not at all.

    Args:
        metadata: of the sample.
        rules: what a crop may be.
        generator: decides between spans.
        wanted_frames: the length that the span should have, as nearly as good places to cut allow, and above it by
            LENGTH_TOLERANCE at most where any place to cut allows that; None: any.

    Raises:
        UnusableSongError: no span fits.
    """
    reason = (
        "no line times and longer than data.max_crop_s"
        if metadata["lyrics_source"] == "raw"
        else "no span between data.min_crop_s and data.max_crop_s"
    )
    longest = math.inf if wanted_frames is None else (1 + LENGTH_TOLERANCE) * wanted_frames
    for spans in chain(_limit(_rank_spans(metadata, rules), longest), _rank_spans(metadata, rules)):
        for start_frame, end_frame in _draw_shorter_and_shorter(spans, generator, wanted_frames):
            lyric_ids = compose_lyric_ids(
                metadata["sections"],
                metadata["lines"],
                start_frame=start_frame,
                end_frame=end_frame,
                seconds_per_tag=rules.seconds_per_tag,
            )
            reason = "no span with 1 to model.conditions.max_lyric_tokens symbols of lyrics"
            if 0 < len(lyric_ids) <= rules.max_lyric_tokens:
                return Crop(start_frame=start_frame, end_frame=end_frame, lyric_ids=lyric_ids)
    raise UnusableSongError(reason)


def choose_prompt(
    metadata: Mapping[str, Any], crop: Crop, num_frames: int, generator: np.random.Generator
) -> int | None:
    """Draw a style prompt of `num_frames`, from outside the crop where there is one; None for a song without any."""
    starts = metadata["prompt_start_frames"]
    if not starts:
        return None
    outside = [
        number
        for number, start in enumerate(starts)
        if start + num_frames <= crop.start_frame or start >= crop.end_frame
    ]
    return int(generator.choice(outside or len(starts)))


def _rank_spans(metadata: Mapping[str, Any], rules: CropRules) -> Iterator[NDArray[np.int64]]:
    """Yield spans from best to worst places to cut: section boundaries, line ends, any block outside of lines."""
    num_frames = metadata["num_frames"]
    if metadata["lyrics_source"] == "raw":
        yield _find_spans(np.array([0, num_frames]), rules)
        return
    lines = [(line["start_frame"], line["end_frame"]) for line in metadata["lines"]]
    section_cuts = {0, num_frames, *(section["end_frame"] for section in metadata["sections"])}
    yield _find_spans(_sorted(section_cuts), rules)
    line_cuts = section_cuts | {frame for line in lines for frame in line}
    yield _find_spans(_outside(_sorted(line_cuts), lines), rules)
    block_cuts = line_cuts | set(range(0, num_frames, rules.block_frames))
    yield _find_spans(_outside(_sorted(block_cuts), lines), rules)


def _limit(spans_by_rank: Iterator[NDArray[np.int64]], longest: float) -> Iterator[NDArray[np.int64]]:
    """Yield the spans of at most `longest` frames."""
    for spans in spans_by_rank:
        yield spans[spans[:, 1] - spans[:, 0] <= longest]


def _sorted(frames: set[int]) -> NDArray[np.int64]:
    return np.array(sorted(frames), dtype=np.int64)


def _outside(cuts: NDArray[np.int64], lines: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the cuts that no line lies across."""
    is_free = np.ones(len(cuts), dtype=bool)
    for start, end in lines:
        is_free &= (cuts <= start) | (cuts >= end)
    return cuts[is_free]


def _find_spans(cuts: NDArray[np.int64], rules: CropRules) -> NDArray[np.int64]:
    """Return [S, 2] the spans between two cuts, floored to whole blocks; they may be short of the minimum by that."""
    block = rules.block_frames
    too_long = (rules.max_frames // block + 1) * block
    first = np.searchsorted(cuts, cuts + max(rules.min_frames, block))
    last = np.maximum(first, np.searchsorted(cuts, cuts + too_long))
    starts = np.repeat(cuts, last - first)
    ends = np.concatenate([cuts[low:high] for low, high in zip(first, last, strict=True)])
    return np.stack([starts, starts + (ends - starts) // block * block], axis=1)


def _draw_shorter_and_shorter(
    spans: NDArray[np.int64], generator: np.random.Generator, wanted_frames: int | None
) -> Iterator[tuple[int, int]]:
    """Yield spans, each shorter than the one before: first any start, then an end of that start."""
    while len(spans):
        lengths = spans[:, 1] - spans[:, 0]
        near = spans
        if wanted_frames is not None:
            miss = np.abs(lengths - wanted_frames)
            near = spans[miss <= miss.min() + LENGTH_TOLERANCE * wanted_frames]
        start = generator.choice(np.unique(near[:, 0]))
        start, end = generator.choice(near[near[:, 0] == start])
        yield int(start), int(end)
        spans = spans[lengths < end - start]
        wanted_frames = None if wanted_frames is None else min(wanted_frames, int(SHORTENING * (end - start)))
