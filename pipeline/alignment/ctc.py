"""Forced alignment of given words to the frame probabilities of any CTC model, and the evidence that they are sung.

A word is a sequence of sounds; a sound is the set of the model's tokens that may stand for it. The empty set is a
wildcard: any token, for what a vocabulary lacks. The search is torchaudio's `forced_align`; no Python loop per frame.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.song import TimedWord

Sound = tuple[int, ...]  # token ids, any of which may be heard; (): anything but blank
Spelling = tuple[Sound, ...]

# A sound that the model is sure not to hear costs no more than this, so that one wrong letter never moves a line.
MIN_LOG_PROB = -12.0
# Frames times sounds that one search may take: two states of a byte each, 256 MB. 15 minutes with 2900 sounds fit.
MAX_CELLS = 1 << 27
NUM_SHUFFLES = 5


@dataclass(frozen=True, slots=True)
class Path:
    """The best path of some sounds through some frames."""

    starts: NDArray[np.int64]  # first frame of every sound
    ends: NDArray[np.int64]  # last frame + 1
    scores: NDArray[np.float64]  # mean posterior over its frames, 0 to 1
    log_prob: float  # of the whole path


class CtcSong:
    """The frame probabilities of one song, to align words to.

    Args:
        log_probs: float32 [T, V], natural logarithms, rows sum to 1.
        blank: the token of no sound.
        frame_s: seconds per frame.
        onset_lead_s: a CTC model may be sure of a sound only some frames after it sets in. A word starts earlier by
            half the gap to the word before, by this at most.
    """

    def __init__(
        self, log_probs: NDArray[np.float32], *, blank: int, frame_s: float, onset_lead_s: float = 0.0
    ) -> None:
        """Keep the frames; the wildcard is the likeliest token that is not blank."""
        self._frame_s = frame_s
        self._onset_lead_s = onset_lead_s
        self._log_probs = log_probs
        self._blank = log_probs[:, blank]
        self._wildcard: NDArray[np.float32] = np.delete(log_probs, blank, axis=1).max(axis=1)

    def align(self, start_s: float, end_s: float, spellings: Sequence[Spelling]) -> list[TimedWord]:
        """Place words in order between two times; the window may be the whole song.

        Returns:
            One TimedWord per word, times monotone and in seconds of the song. Words that cannot fit (more sounds than
            frames) are spread evenly, with score 0.
        """
        if not spellings:
            return []
        spellings = [spelling or ((),) for spelling in spellings]
        first, last = self._frames(start_s, end_s)
        path = self._search(first, last, [sound for spelling in spellings for sound in spelling])
        if path is None:
            edges = np.linspace(start_s, max(end_s, start_s), len(spellings) + 1)
            return [TimedWord(float(a), float(b), 0.0) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        bounds = np.cumsum([0, *map(len, spellings)])
        onsets_s = (first + path.starts[bounds[:-1]]) * self._frame_s
        ends_s = (first + path.ends[bounds[1:] - 1]) * self._frame_s
        gaps_s = onsets_s - np.concatenate([[first * self._frame_s], ends_s[:-1]])
        onsets_s -= np.clip(gaps_s / 2, 0.0, self._onset_lead_s)
        scores = np.add.reduceat(path.scores, bounds[:-1]) / np.diff(bounds)
        return [TimedWord(float(a), float(b), float(s)) for a, b, s in zip(onsets_s, ends_s, scores, strict=True)]

    def measure_evidence(
        self, spellings: Sequence[Spelling], start_s: float = 0.0, end_s: float = float("inf")
    ) -> float:
        """Return how much likelier the words are in their order than shuffled, in a window or the whole song.

        The log probability of the best path per sound, less the mean of `NUM_SHUFFLES` shuffles of the same words:
        what any words would find in any song proves nothing. About 0 for the lyrics of another song. Where the window
        has too few frames for all words, the last ones are left out.
        """
        first, last = self._frames(start_s, end_s)
        num_frames = last - first
        room = min(num_frames // 2, MAX_CELLS // max(num_frames, 1))
        spellings = [spelling for spelling in spellings if spelling]
        spellings = spellings[: int(np.searchsorted(np.cumsum([len(s) for s in spellings]), room, side="right"))]
        random = np.random.default_rng(0)
        orders = [np.arange(len(spellings)), *(random.permutation(len(spellings)) for _ in range(NUM_SHUFFLES))]
        log_probs = []
        for order in orders:
            path = self._search(first, last, [sound for k in order for sound in spellings[k]])
            if path is None:
                return 0.0
            log_probs.append(path.log_prob)
        return (log_probs[0] - float(np.mean(log_probs[1:]))) / sum(map(len, spellings))

    def _frames(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Return the frames [first, last) of a window, at least one."""
        first = int(min(max(start_s / self._frame_s, 0), max(len(self._blank) - 1, 0)))
        return first, int(max(min(end_s / self._frame_s, len(self._blank)), first + 1))

    def _search(self, first: int, last: int, sounds: Sequence[Sound]) -> Path | None:
        """Return the best path through the frames [first, last), or None if it has no room."""
        columns: dict[Sound, int] = {}
        targets = [columns.setdefault(sound, len(columns) + 1) for sound in sounds]
        num_frames = len(self._blank[first:last])
        repeats = sum(a == b for a, b in zip(targets[:-1], targets[1:], strict=True))
        if not targets or len(targets) + repeats > num_frames or num_frames * len(targets) > MAX_CELLS:
            return None
        frames = np.stack([self._blank[first:last], *(self._column(sound, first, last) for sound in columns)], axis=1)
        return find_path(np.maximum(frames, MIN_LOG_PROB), targets)

    def _column(self, sound: Sound, first: int, last: int) -> NDArray[np.float32]:
        if not sound:
            return self._wildcard[first:last]
        return np.asarray(np.logaddexp.reduce(self._log_probs[first:last, list(sound)], axis=1), dtype=np.float32)


def find_path(log_probs: NDArray[np.float32], targets: Sequence[int]) -> Path:
    """Return the likeliest CTC path of `targets` (columns, none of them 0) through float32 [T, C]; column 0 is blank.

    Raises:
        ValueError: fewer frames than the targets need, one each and one between equal neighbours.
    """
    import torch
    from torchaudio.functional import forced_align  # both take long to load: only where words are aligned

    repeats = sum(a == b for a, b in zip(targets[:-1], targets[1:], strict=True))
    if not targets or len(log_probs) < len(targets) + repeats:
        raise ValueError(f"{len(log_probs)} frames for {len(targets)} sounds, expected at least {len(targets)}")
    with warnings.catch_warnings():  # torchaudio announces a move of this function in every call
        warnings.simplefilter("ignore")
        labels, values = forced_align(
            torch.from_numpy(np.ascontiguousarray(log_probs, dtype=np.float32))[None],
            torch.tensor([list(targets)], dtype=torch.int32),
            blank=0,
        )
    path, frame_log_probs = labels[0].numpy(), values[0].numpy().astype(np.float64)
    sounding = path != 0
    begins = sounding & (path != np.concatenate([[0], path[:-1]]))
    finishes = sounding & (path != np.concatenate([path[1:], [0]]))
    starts, ends = np.flatnonzero(begins), np.flatnonzero(finishes) + 1
    index = np.cumsum(begins) - 1
    totals = np.bincount(index[sounding], weights=np.exp(frame_log_probs[sounding]), minlength=len(starts))
    return Path(starts, ends, totals / (ends - starts), float(frame_log_probs.sum()))
