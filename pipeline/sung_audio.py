"""One song's singing, as the search for its lines asks for it: word times, evidence for lines, where somebody sings."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.aligner import SongAligner
from pipeline.song import Song
from pipeline.voice_activity import VoiceActivity
from pipeline.whisper import VOICE_STEP_S, TimedWord, Whisper

# Low, because a voice activity model trained on speech misses held vowels: on sung words of the songs with true times
# it is above 0.5 in 60 to 95 % of the frames, elsewhere in 1 to 54 %; the level alone is near its peak on both.
MIN_VOICE_PROBABILITY = 0.3


class SungAudio:
    """What can be asked of a song's vocals; equal questions are answered once."""

    def __init__(self, whisper: Whisper, aligner: SongAligner, song: Song) -> None:
        """Measure where the voice of the song sounds."""
        assert song.voice is not None
        assert song.voice_probability is not None
        self.duration_s = song.duration_s
        self._voice = VoiceActivity(song.voice)
        self._is_sung = song.voice_probability > MIN_VOICE_PROBABILITY
        self._aligner = aligner
        self._measure = functools.cache(functools.partial(_measure, whisper, song))

    @property
    def gives_pauses_to_words(self) -> bool:
        """Whether words come from attention, which enters a word early after a pause and late in a held syllable."""
        return self._aligner.gives_pauses_to_words

    def align(self, start_s: float, end_s: float, words: Sequence[str]) -> list[TimedWord]:
        """Return the place of every word in a window of at most 30 s, in order, without silence at its edges."""
        timed = self._aligner.align(start_s, end_s, words)
        return [self._voice.tighten(word) for word in timed] if self.gives_pauses_to_words else timed

    def measure_support(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Return nats per token for every line in a window; see Whisper.measure_support."""
        return self._measure(start_s, end_s, tuple(map(tuple, lines))).copy()

    def voiced_share(self, start_s: float, end_s: float) -> float:
        """Return the share of [start_s, end_s) in which somebody seems to sing."""
        part = self._is_sung[int(start_s / VOICE_STEP_S) : max(int(end_s / VOICE_STEP_S), 0)]
        return float(part.mean()) if len(part) else 0.0


def _measure(
    whisper: Whisper, song: Song, start_s: float, end_s: float, lines: tuple[tuple[str, ...], ...]
) -> NDArray[np.float64]:
    assert song.speech is not None
    return whisper.measure_support(song.speech, start_s, end_s, lines, song.language)
