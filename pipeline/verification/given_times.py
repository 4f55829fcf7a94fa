"""Times that a lyrics file gives for its lines, against those at which lines were found: are they to be trusted?

A file's times may all be off by one constant, run at another speed than the recording, be those of another version, or
be nonsense. What fits is found from lines whose place is known without them; all else is left to the audio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.transcription.encoded_song import Span
from pipeline.verification.locate_lines import TYPICAL_WORD_S, Candidate

# Heard words place a line to some tenths of a second, and people stamp lines as roughly.
TOLERANCE_S = 1.0
MIN_LINES = 3
# Of the lines, so many must fit, and so many at least, or all. Times drawn at random, in their order, pass in 3 of
# 100 made songs with five lines, in 5 with eight, in none with fifteen; right ones, 15 % of the lines found elsewhere,
# in 83, 97 and 100.
MIN_SHARE, MIN_FITTING = 0.6, 4
MIN_DRIFT_LINES = 5  # two of them make a slope, the others have to fit it
MIN_DRIFT_SPAN_S = 15.0
MAX_DRIFT = 0.1  # beyond it, it is another performance
MIN_TOLERANCE_S, SPREADS = 0.4, 4.0  # of a line that lies elsewhere: so many median deviations of those that fit
MAX_POINTS = 100  # of a fit: every pair of them is a slope to try
MAX_LINE_S = 8.0
NUM_NEIGHBOURS = 3  # on each side of a line, which tell whether the fit holds there


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeFit:
    """found = given + offset_s + drift * (given - pivot_s), for `num_fitting` of the lines."""

    offset_s: float  # found minus given, median over these lines
    drift: float | None  # 0.01: what takes 100 s in the file takes 101 s; None: too few lines, or too near each other
    pivot_s: float
    spread_s: float  # median deviation of the lines that fit
    num_fitting: int
    num_lines: int

    def expect(self, given_s: float) -> float:
        """Return when something is sung that has a given time, in seconds of the song."""
        return given_s + self.offset_s + (self.drift or 0.0) * (given_s - self.pivot_s)

    def holds(self, given_s: float, found_s: float) -> bool:
        """Whether a line is where the fit has it."""
        return abs(self.expect(given_s) - found_s) <= TOLERANCE_S

    @property
    def tolerance_s(self) -> float:
        """From how far off a line is elsewhere: people stamp some files to a tenth of a second and others to one."""
        return min(max(SPREADS * self.spread_s, MIN_TOLERANCE_S), TOLERANCE_S)

    @property
    def is_trusted(self) -> bool:
        """Whether enough lines agree."""
        return self.num_fitting >= max(MIN_SHARE * self.num_lines, min(MIN_FITTING, self.num_lines))


def fit_times(given_s: Sequence[float], found_s: Sequence[float]) -> TimeFit | None:
    """Return what most lines agree on, trusted or not; None for fewer than MIN_LINES.

    The offset, or the slope through two lines, that the most others fit to TOLERANCE_S (a search over all of them, as
    in RANSAC), then the median of their slopes (Theil 1950, Sen 1968) and of their offsets.
    """
    given, found = np.asarray(given_s, dtype=float), np.asarray(found_s, dtype=float)
    if len(given) < MIN_LINES:
        return None
    off = found - given
    fits = _fit_offset(off)
    if (sloped := _fit_slope(given, off)) is not None and sloped.sum() > fits.sum():
        fits = sloped
    pivot_s = float(np.median(given[fits]))
    drift = None
    if fits.sum() >= MIN_DRIFT_LINES and np.ptp(given[fits]) >= MIN_DRIFT_SPAN_S:
        drift = _median_slope(given[fits], off[fits])
    rest = off[fits] - (drift or 0.0) * (given[fits] - pivot_s)
    offset_s = float(np.median(rest))
    return TimeFit(
        offset_s=offset_s,
        drift=drift,
        pivot_s=pivot_s,
        spread_s=float(np.median(np.abs(rest - offset_s))),
        num_fitting=int(fits.sum()),
        num_lines=len(fits),
    )


def _fit_offset(off: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the most lines that one offset holds of."""
    ordered = np.sort(off)
    counts = np.searchsorted(ordered, ordered + 2 * TOLERANCE_S, side="right") - np.arange(len(ordered))
    first = ordered[int(np.argmax(counts))]
    return np.asarray((off >= first) & (off <= first + 2 * TOLERANCE_S))


def _fit_slope(given: NDArray[np.float64], off: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Return the most lines that one offset and one drift hold of; None where there are too few."""
    points = np.unique(np.linspace(0, len(given) - 1, MAX_POINTS).astype(int))
    one, other = np.triu_indices(len(points), 1)
    one, other = points[one], points[other]
    apart = np.abs(given[other] - given[one]) >= MIN_DRIFT_SPAN_S
    one, other = one[apart], other[apart]
    slopes = (off[other] - off[one]) / (given[other] - given[one])
    one, slopes = one[np.abs(slopes) <= MAX_DRIFT], slopes[np.abs(slopes) <= MAX_DRIFT]
    best: NDArray[np.bool_] | None = None
    for at, slope in zip(one, slopes, strict=True):
        fits = np.abs(off - off[at] - slope * (given - given[at])) <= TOLERANCE_S
        if fits.sum() >= MIN_DRIFT_LINES and (best is None or fits.sum() > best.sum()):
            best = fits
    return best


def _median_slope(given: NDArray[np.float64], off: NDArray[np.float64]) -> float:
    one, other = np.triu_indices(len(given), 1)
    apart = np.abs(given[other] - given[one]) >= MIN_DRIFT_SPAN_S / 2
    slopes = (off[other] - off[one])[apart] / (given[other] - given[one])[apart]
    return float(np.clip(np.median(slopes), -MAX_DRIFT, MAX_DRIFT))


def begin_s(line: Candidate) -> float:
    """Return when a line's first word begins, as far as it is known."""
    return line.timed[0].start_s if line.timed else line.start_s


def fit_lines(lines: Sequence[Candidate]) -> TimeFit | None:
    """Return how far the given times of placed lines are off; None where too few have one."""
    pairs = [(line.given_s, begin_s(line)) for line in lines if line.given_s is not None]
    return fit_times(*zip(*pairs, strict=True)) if pairs else None


def expect_lines(candidates: Sequence[Candidate], found: Sequence[Candidate]) -> Mapping[int, Span]:
    """Return where lines are expected by their given times, by id; empty where these fit nothing that is known.

    A line is not expected anywhere where most of the lines just before or just after it are not where the fit has them:
    that part is of another version.

    Args:
        candidates: all given lines in their order.
        found: those that were heard, with times.
    """
    fit = fit_lines(found)
    if fit is None or not fit.is_trusted:
        return {}
    places = {id(line) for line in found}
    timed = [line for line in candidates if line.given_s is not None]
    holds = {
        id(line): fit.holds(line.given_s, begin_s(line))
        for line in timed
        if id(line) in places and line.given_s is not None
    }
    expected: dict[int, Span] = {}
    for k, line in enumerate(timed):
        sides = (_nearest(timed[k - 1 :: -1] if k else [], holds), _nearest(timed[k + 1 :], holds))
        if line.given_s is None or any(2 * sum(side) < len(side) for side in sides):
            continue
        next_s = timed[k + 1].given_s if k + 1 < len(timed) else None
        expected[id(line)] = _span(line, next_s, fit)
    return expected


def _nearest(lines: Sequence[Candidate], holds: Mapping[int, bool]) -> list[bool]:
    """Return whether the fit holds of the first few lines of which this is known."""
    return list(islice((holds[id(line)] for line in lines if id(line) in holds), NUM_NEIGHBOURS))


def _span(line: Candidate, next_s: float | None, fit: TimeFit) -> Span:
    """Return from when to when a line is expected: to its given end, or for as long as its words take."""
    assert line.given_s is not None
    length_s = len(line.words) * TYPICAL_WORD_S
    if line.given_end_s is not None:
        length_s = line.given_end_s - line.given_s
    elif next_s is not None:
        length_s = min(max(length_s, 0.8 * (next_s - line.given_s)), 2 * length_s)
    start_s = fit.expect(line.given_s)
    return start_s, start_s + min(max(length_s, TYPICAL_WORD_S), MAX_LINE_S)
