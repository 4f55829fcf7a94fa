"""Exact word times for lines whose places are roughly known: forced alignment by windows, edges set by the voice."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ
from pipeline.locate_lines import Candidate
from pipeline.whisper import MAX_WINDOW_S, TimedWord

Align = Callable[[float, float, Sequence[str]], list[TimedWord]]  # window start, window end, words

WINDOW_S = 24.0  # of lines; margins come on top and the whole stays under Whisper's 30 s
MARGIN_S = 1.0
MIN_WORD_S = 0.04
# A word that is longer than this may have a pause in front: the aligner gives pauses to the word after them.
LONG_WORD_S = 0.4
MIN_DIP_DB = 10.0  # how far the level falls in a pause below that of the word after it
# The voice is on where the vocal stem is within this range of its loud parts.
ACTIVITY_FRAME_S = 0.02
ACTIVITY_RANGE_DB = 35.0
ACTIVITY_FLOOR_DBFS = -55.0


class VoiceActivity:
    """Where the separated voice sounds, in frames of 20 ms, from the level of 16 kHz mono [L]."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        """Measure the level of every frame."""
        size = int(ACTIVITY_FRAME_S * SPEECH_SAMPLE_RATE_HZ)
        num_frames = len(samples) // size
        power = np.mean(samples[: num_frames * size].reshape(num_frames, size).astype(np.float64) ** 2, axis=1)
        level_db = 10 * np.log10(power + 1e-12)
        loud_db = float(np.percentile(level_db, 95)) if num_frames else ACTIVITY_FLOOR_DBFS
        self.active = level_db > max(loud_db - ACTIVITY_RANGE_DB, ACTIVITY_FLOOR_DBFS)
        self._level_db = uniform_filter1d(level_db, size=3)

    def share(self, start_s: float, end_s: float) -> float:
        """Return the share of [start_s, end_s) in which the voice sounds."""
        part = self.active[int(start_s / ACTIVITY_FRAME_S) : max(int(end_s / ACTIVITY_FRAME_S), 0)]
        return float(part.mean()) if len(part) else 0.0

    def tighten(self, word: TimedWord) -> TimedWord:
        """Return the word without silence at its edges; a word that is all silence stays as it is."""
        first, last = int(word.start_s / ACTIVITY_FRAME_S), int(np.ceil(word.end_s / ACTIVITY_FRAME_S))
        sounding = np.flatnonzero(self.active[first:last])
        if not len(sounding):
            return word
        start_s = max(word.start_s, float(first + sounding[0]) * ACTIVITY_FRAME_S)
        end_s = min(word.end_s, float(first + sounding[-1] + 1) * ACTIVITY_FRAME_S)
        if end_s - start_s > LONG_WORD_S:
            start_s = self._after_pause(start_s, end_s)
        return TimedWord(start_s, max(end_s, start_s + MIN_WORD_S), word.score)

    def _after_pause(self, start_s: float, end_s: float) -> float:
        """Return where the voice sets in after the deepest dip of a long word, if that dip is a pause."""
        first, last = int(start_s / ACTIVITY_FRAME_S), int(end_s / ACTIVITY_FRAME_S)
        level_db = self._level_db[first:last]
        dip = int(np.argmin(level_db[: -int(0.1 / ACTIVITY_FRAME_S)]))
        loud_db = float(level_db[dip:].max())
        if loud_db - level_db[dip] < MIN_DIP_DB:
            return start_s
        onset = dip + int(np.argmax(level_db[dip:] > loud_db - MIN_DIP_DB))
        return max(start_s, (first + onset) * ACTIVITY_FRAME_S)


def place_words(lines: Sequence[Candidate], align: Align, voice: VoiceActivity, duration_s: float) -> None:
    """Align the words of every line (its `timed`) in windows around the estimated times; the times are monotone."""
    windows = list(_windows(lines))
    for index, window in enumerate(windows):
        start_s = max(window[0].start_s - MARGIN_S, 0.0)
        if index:  # not into the line before: its last word would be taken for the first of this window
            start_s = max(start_s, min(windows[index - 1][-1].end_s, window[0].start_s) - 0.2)
        end_s = min(window[-1].end_s + MARGIN_S, duration_s, start_s + MAX_WINDOW_S)
        if index + 1 < len(windows):
            end_s = min(end_s, max(windows[index + 1][0].start_s, window[-1].end_s) + 0.2)
        words = [word for line in window for word in line.words]
        timed = [voice.tighten(word) for word in align(start_s, end_s, words)]
        for line in window:
            line.timed, timed = timed[: len(line.words)], timed[len(line.words) :]
            line.start_s, line.end_s = line.timed[0].start_s, line.timed[-1].end_s
    _make_monotone(lines, duration_s)


def _windows(lines: Sequence[Candidate]) -> list[list[Candidate]]:
    """Cut lines into groups of at most WINDOW_S, at the widest pause in the second half of each group."""
    groups: list[list[Candidate]] = []
    rest = list(lines)
    while rest:
        count = 1
        while count < len(rest) and rest[count].end_s - rest[0].start_s <= WINDOW_S:
            count += 1
        if count < len(rest) and count > 2:
            pauses = [rest[k].start_s - rest[k - 1].end_s for k in range(count // 2 + 1, count + 1)]
            count = count // 2 + 1 + int(np.argmax(pauses))
        groups.append(rest[:count])
        rest = rest[count:]
    return groups


def _make_monotone(lines: Sequence[Candidate], duration_s: float) -> None:
    clock_s = 0.0
    for line in lines:
        fixed = []
        for word in line.timed:
            start_s = min(max(word.start_s, clock_s), duration_s)
            end_s = min(max(word.end_s, start_s + MIN_WORD_S), duration_s)
            fixed.append(TimedWord(start_s, end_s, word.score))
            clock_s = start_s
        line.timed = fixed
        line.start_s, line.end_s = fixed[0].start_s, fixed[-1].end_s
