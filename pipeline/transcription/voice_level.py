"""Where the separated voice sounds, and where in an aligned word it sets in."""

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.song import MIN_WORD_S, TimedWord

# The voice is on where the vocal stem is within this range of its loud parts.
ACTIVITY_FRAME_S = 0.02
ACTIVITY_RANGE_DB = 35.0
ACTIVITY_FLOOR_DBFS = -55.0
# A word that is longer than this may have a pause in front: the aligner gives pauses to the word after them.
LONG_WORD_S = 0.3
MIN_DIP_DB = 10.0  # how far the level falls in a pause below that of the word after it
EARLY_S = 0.08  # the aligner enters a word this much before it sounds (median over songs with true times)


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
        widened = np.concatenate([level_db[:1], level_db, level_db[-1:]])
        self._level_db = (widened[:-2] + widened[1:-1] + widened[2:]) / 3

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
        if start_s == word.start_s:
            start_s += EARLY_S
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
