"""One song's singing, as the search for its lines asks for it: word times, evidence for lines, where somebody sings."""

import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.by_language import Aligner
from pipeline.song import Song, TimedWord
from pipeline.transcription.encoded_song import EncodedSong
from pipeline.transcription.voice_detector import VOICE_STEP_S
from pipeline.transcription.voice_level import VoiceActivity
from pipeline.verification.word_onsets import advance_late, agree, begin_later

# Low, because a voice activity model trained on speech misses held vowels: on sung words of the songs with true times
# it is above 0.5 in 60 to 95 % of the frames, elsewhere in 1 to 54 %; the level alone is near its peak on both.
MIN_VOICE_PROBABILITY = 0.3
# Lines are placed several times, and a window moves with the times of its first and last line: of 100 later windows 92
# have the lines of an earlier one, 53 within so much of it, and what comes out is as good (pipeline/README.md).
SAME_WINDOW_S = 0.5

Words = tuple[str, ...]
Lines = tuple[Words, ...]


class SungAudio:
    """What can be asked of a song's vocals; questions of the same lines in nearly the same window are answered once."""

    def __init__(self, encoded: EncodedSong, aligner: Aligner | None, song: Song) -> None:
        """Measure where the voice of the song sounds.

        Args:
            encoded: the song as a Whisper hears it, whose cross-attention places words and whose decoder scores lines.
            aligner: a second ear for word times, or None.
            song: with speech, voice and voice_probability.
        """
        assert song.speech is not None
        assert song.voice is not None
        assert song.voice_probability is not None
        self.duration_s = song.duration_s
        self._language = song.language
        self._voice = VoiceActivity(song.voice)
        self._is_sung = song.voice_probability > MIN_VOICE_PROBABILITY
        self._attend = functools.cache(functools.partial(encoded.align, language=song.language))
        self._second = aligner.open_song(song.speech, song.language) if aligner else None
        self._measure = functools.cache(functools.partial(encoded.measure_support, language=song.language))
        self._windows: dict[Lines, list[tuple[float, float]]] = defaultdict(list)

    def align(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> list[list[TimedWord]]:
        """Return where every line's words are in a window of at most 30 s, in order, without silence at their edges.

        From the recogniser's attention, and from the second aligner where both agree on a word or a line begins later:
        see `agree` and `begin_later`.
        """
        start_s, end_s = self._known_window(start_s, end_s, lines)
        words = [word for line in lines for word in line]
        timed = [self._voice.tighten(word) for word in self._attend(start_s, end_s, tuple(words))]
        timed = advance_late(words, timed, self._language)
        if self._second:
            second = self._second.align(start_s, end_s, words)
            first_words = np.cumsum([0, *map(len, lines[:-1])])
            timed = begin_later(agree(timed, second), second, first_words.tolist())
        return _split(timed, lines)

    def second_path(self, lines: Sequence[Sequence[str]]) -> list[list[TimedWord]]:
        """Return where the second aligner has every line if it takes the whole song at once; empty without one."""
        if not self._second or not lines:
            return []
        timed = self._second.align(0.0, self.duration_s, [word for line in lines for word in line])
        return _split(timed, lines)

    def second_score(self, start_s: float, end_s: float, words: Sequence[str]) -> float:
        """Return the mean score of words where the second aligner has them in a window; 0 without one."""
        if not self._second:
            return 0.0
        return float(np.mean([word.score for word in self._second.align(start_s, end_s, words)]))

    def measure_evidence(self, words: Sequence[str]) -> float | None:
        """Return how much better words fit the sounds of the song in their order than shuffled; see SongAligner."""
        return self._second.measure_evidence(words) if self._second else None

    def measure_support(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Return nats per token for every line in a window; see EncodedSong.measure_support."""
        start_s, end_s = self._known_window(start_s, end_s, lines)
        return self._measure(start_s, end_s, tuple(map(tuple, lines))).copy()

    def _known_window(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> tuple[float, float]:
        """Return the window that was asked for these lines before, where there is one so near, or this one."""
        known = self._windows[tuple(map(tuple, lines))]
        for window in known:
            if max(abs(window[0] - start_s), abs(window[1] - end_s)) <= SAME_WINDOW_S:
                return window
        known.append((start_s, end_s))
        return start_s, end_s

    def voiced_share(self, start_s: float, end_s: float) -> float:
        """Return the share of [start_s, end_s) in which somebody seems to sing."""
        part = self._is_sung[int(start_s / VOICE_STEP_S) : max(int(end_s / VOICE_STEP_S), 0)]
        return float(part.mean()) if len(part) else 0.0

    def voiced_s(self, start_s: float, end_s: float) -> float:
        """Return for how many seconds of [start_s, end_s) somebody seems to sing; 0 if it ends before it starts."""
        return (end_s - start_s) * self.voiced_share(start_s, end_s) if end_s > start_s else 0.0


def _split(timed: Sequence[TimedWord], lines: Sequence[Sequence[str]]) -> list[list[TimedWord]]:
    """Return the words line by line."""
    rest = iter(timed)
    return [list(itertools.islice(rest, len(line))) for line in lines]
