"""Which window each line gets: the best path through a table of what speaks for every line in every window."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_ROUNDS = 100  # of a thousand equal lines the later ones of those that are still too near stay out: bounded time


def distinct_path(gain: NDArray[np.float64], texts: Sequence[Hashable], min_apart: int) -> list[int]:
    """Return the best path on which no singing is taken for two equal lines.

    Where two equal lines have windows nearer than `min_apart`, the later or the earlier one is kept out of these,
    whichever path is then better. Of equal lines without a pause between them one is lost: search what it leaves free.

    Args:
        gain: [windows, lines]; a line may stay out for a gain of zero.
        texts: of the lines.
        min_apart: windows; so far from each other two of them do not overlap.

    Returns:
        A window for each line, or -1; windows rise with the lines.
    """
    gain = gain.copy()
    chosen = best_path(gain)
    rounds = 0
    while clash := _first_clash(chosen, texts, min_apart):
        before, after = clash
        rounds += 1
        if rounds > MAX_ROUNDS:
            chosen[after] = -1
            continue
        later, earlier = gain.copy(), gain.copy()
        later[: chosen[before] + min_apart, after] = -np.inf
        earlier[max(chosen[after] - min_apart + 1, 0) :, before] = -np.inf
        gain = max((later, earlier), key=_path_gain)
        chosen = best_path(gain)
    return chosen


def _first_clash(chosen: Sequence[int], texts: Sequence[Hashable], min_apart: int) -> tuple[int, int] | None:
    last: dict[Hashable, int] = {}
    for line, (window, text) in enumerate(zip(chosen, texts, strict=True)):
        if window < 0:
            continue
        if text in last and window - chosen[last[text]] < min_apart:
            return last[text], line
        last[text] = line
    return None


def _path_gain(gain: NDArray[np.float64]) -> float:
    return sum(float(gain[window, line]) for line, window in enumerate(best_path(gain)) if window >= 0)


def best_path(gain: NDArray[np.float64]) -> list[int]:
    """Return a window for each line, or -1: windows rise with the lines and the summed gain is the highest.

    Args:
        gain: [windows, lines]; a line may stay out for a gain of zero.
    """
    num_windows, num_lines = gain.shape
    best: NDArray[np.float64] = np.zeros(
        num_windows
    )  # of the lines so far, the last of them in a window up to this one
    came_from = np.full((num_lines, num_windows), -1)
    for line in range(num_lines):
        here = best + gain[:, line]
        reached = np.maximum.accumulate(here)
        at = np.maximum.accumulate(np.where(here >= reached, np.arange(num_windows), 0))
        takes = reached > best
        came_from[line] = np.where(takes, at, -1)
        best = np.where(takes, reached, best)
    chosen = [-1] * num_lines
    window = num_windows - 1
    for line in range(num_lines - 1, -1, -1):
        if came_from[line, window] >= 0:
            chosen[line] = window = int(came_from[line, window])
    return chosen
