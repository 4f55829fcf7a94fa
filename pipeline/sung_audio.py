"""One song's singing as the search for its lines asks for it: word times, evidence for lines, where the voice sounds."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.song import Song
from pipeline.voice_activity import VoiceActivity
from pipeline.whisper import TimedWord, Whisper

Words = tuple[str, ...]


class SungAudio:
    """What can be asked of a song's vocals; equal questions are answered once."""

    def __init__(self, whisper: Whisper, song: Song) -> None:
        """Measure where the voice of the song sounds."""
        assert song.speech is not None
        assert song.voice is not None
        assert song.transcript is not None
        self.voice = VoiceActivity(song.voice, song.transcript.voice_probability)
        self.duration_s = song.duration_s
        self._align = functools.cache(functools.partial(_align, whisper, song))
        self._measure = functools.cache(functools.partial(_measure, whisper, song))

    def align(self, start_s: float, end_s: float, words: Sequence[str]) -> list[TimedWord]:
        """Return the place of every word in a window of at most 30 s, in order; see Whisper.align."""
        return list(self._align(start_s, end_s, tuple(words)))

    def measure_support(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Return nats per token for every line in a window; see Whisper.measure_support."""
        return self._measure(start_s, end_s, tuple(map(tuple, lines))).copy()


def _align(whisper: Whisper, song: Song, start_s: float, end_s: float, words: Words) -> list[TimedWord]:
    assert song.speech is not None
    return whisper.align(song.speech, start_s, end_s, words, song.language)


def _measure(
    whisper: Whisper, song: Song, start_s: float, end_s: float, lines: tuple[Words, ...]
) -> NDArray[np.float64]:
    assert song.speech is not None
    return whisper.measure_support(song.speech, start_s, end_s, lines, song.language)
