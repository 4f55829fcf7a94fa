"""One song as one Whisper hears it: windows of it, encoded once, that say where words are and how likely lines are."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.song import TimedWord
from pipeline.transcription.whisper import (
    FRAME_S,
    MAX_ALIGN_TOKENS,
    MAX_FRAMES,
    NO_PATH_FRAMES,
    TOKEN_STEP_S,
    Whisper,
    states,
    token_logprobs,
    words_from_path,
)

BATCH_WINDOWS = 8  # encoded and decoded at once; WhisperX's own default
# Silence after a window that is not padded to 30 s: 10 s of singing are encoded five times as fast, and the scores of
# 392 lines are the same to 0.01 nats in the mean. Without it they lose 0.1.
SHORT_PADDING_FRAMES = 50
REACH_S = 1.0  # so far beyond a window of voice a question may reach: nothing is sung there
_FRAMES_PER_POSITION = round(TOKEN_STEP_S / FRAME_S)

Span = tuple[float, float]  # start and end in seconds of the song
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class _Encoding:
    """A stretch of the song as the encoder hears it."""

    states: NDArray[np.float32]  # [1, T, D], a position per 20 ms from `start_s` on
    start_s: float
    askable: Span  # in which questions about it lie

    def holds(self, start_s: float, end_s: float) -> bool:
        """Whether a window can be read from it: at least its middle is encoded."""
        middle = (start_s + end_s) / 2 - self.start_s
        is_askable = self.askable[0] <= start_s and end_s <= self.askable[1]
        return is_askable and 0 <= middle < self.states.shape[1] * TOKEN_STEP_S


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """What the decoder reads to answer questions about a window."""

    span: Span  # as it was asked for
    start_s: float  # of the first position
    num_frames: int
    encoded: NDArray[np.float32]  # [1, T, D], silence at its end


class EncodedSong:
    """Questions about windows of a song, answered from slices of what is encoded already where they lie in it.

    Args:
        whisper: encodes and reads.
        samples: float32 [L], 16 kHz mono.
        windows: of at most 30 s, in their order; encoded at once, as Whisper was trained: padded to 30 s.
    """

    def __init__(self, whisper: Whisper, samples: NDArray[np.float32], windows: Sequence[Span] = ()) -> None:
        """Encode the windows."""
        self.whisper = whisper
        self._samples = samples
        # The encoder's output for every batch of windows.
        self.batches = [whisper.encode([self._cut(*window) for window in batch]) for batch in in_batches(windows)]
        self._windows = list(windows)
        self._last_window: _Window | None = None
        self._last_reading: tuple[_Window, list[int], str, int, Any] | None = None

    def align(self, start_s: float, end_s: float, words: Sequence[str], language: str) -> list[TimedWord]:
        """Place given words in a window of at most 30 s by dynamic time warping over Whisper's alignment heads.

        Args:
            start_s, end_s: the window; words are placed within it, in order.
            words: display words; a Chinese character is a word.
            language: an ISO 639-1 code.

        Returns:
            One TimedWord per word, times monotone and in seconds of the song.
        """
        if not words:
            return []
        per_word = self.whisper.tokenize(words, language)
        if sum(map(len, per_word)) > MAX_ALIGN_TOKENS:
            half = len(words) // 2
            middle_s = start_s + (end_s - start_s) * half / len(words)
            first = self.align(start_s, middle_s, words[:half], language)
            return first + self.align(middle_s, end_s, words[half:], language)
        window = self._open(start_s, end_s)
        result = self._read(window, sum(per_word, []), window.num_frames, language)
        lengths = [len(tokens) for tokens in per_word]
        return words_from_path(result.alignments, result.text_token_probs, lengths, window.start_s, end_s)

    def measure_support(
        self, start_s: float, end_s: float, lines: Sequence[Sequence[str]], language: str
    ) -> NDArray[np.float64]:
        """Return how much more probable a window makes each line than silence does, in nats per token [lines].

        log p(line | window, lines before it) - log p(line | silence, lines before it), mean over the line's tokens:
        what the language model knows without listening cancels out. Lines that are sung in the window reach 1 to 5,
        others stay within 1 of zero (pipeline/README.md has the experiment).
        """
        support: list[float] = []
        window = self._open(start_s, end_s)
        for group in self._groups(lines, language):
            text = [token for tokens in group for token in tokens]
            heard = token_logprobs(self._read(window, text, NO_PATH_FRAMES, language))
            known = self.whisper.silent_logprobs(tuple(text), language)
            bounds = np.cumsum([0, *map(len, group)])
            support += [float((heard - known)[a:b].mean()) for a, b in itertools.pairwise(bounds)]
        return np.array(support)

    def _groups(self, lines: Sequence[Sequence[str]], language: str) -> Iterator[list[list[int]]]:
        """Yield the lines as tokens, in groups that fit the decoder."""
        group: list[list[int]] = []
        for words in lines:
            tokens = sum(self.whisper.tokenize(words, language), [])[:MAX_ALIGN_TOKENS]
            if sum(map(len, group)) + len(tokens) > MAX_ALIGN_TOKENS:
                yield group
                group = []
            group.append(tokens)
        if group:
            yield group

    def _read(self, window: _Window, text: list[int], num_frames: int, language: str) -> Any:
        """Return path (through `num_frames`) and probabilities of a text in a window; the last ones are remembered.

        Whoever asks where words are asks for their evidence next: both come from one pass of the decoder.
        """
        last = self._last_reading
        if last is None or last[0] is not window or last[1:3] != (text, language) or last[3] < num_frames:
            result = self.whisper.read(window.encoded, text, num_frames, language)
            self._last_reading = last = window, text, language, num_frames, result
        return last[4]

    def _open(self, start_s: float, end_s: float) -> _Window:
        """Return a window of the song; the last one is remembered."""
        if self._last_window is None or self._last_window.span != (start_s, end_s):
            found = next((each for each in self._encodings if each.holds(start_s, end_s)), None)
            if found is None:
                self._encodings.append(found := self._encode(start_s, end_s))
            self._last_window = self._cut_window(found, start_s, end_s)
        return self._last_window

    @functools.cached_property
    def _encodings(self) -> list[_Encoding]:
        """What is encoded so far: the windows, then those of their own; nothing before the first question."""
        ends_s = [0.0, *(end_s for _, end_s in self._windows)]
        starts_s = [*(start_s for start_s, _ in self._windows), np.inf]
        encoded = (window[None] for batch in self.batches for window in states(batch))
        encodings = []
        for k, (start_s, end_s) in enumerate(self._windows):
            askable = max(start_s - REACH_S, ends_s[k]), min(end_s + REACH_S, starts_s[k + 1])
            encodings.append(_Encoding(next(encoded)[:, : _count_positions(end_s - start_s)], start_s, askable))
        return encodings

    def _encode(self, start_s: float, end_s: float) -> _Encoding:
        samples = self._cut(start_s, end_s)
        num_positions = _count_positions(len(samples) / SPEECH_SAMPLE_RATE_HZ)
        num_frames = min(num_positions * _FRAMES_PER_POSITION + SHORT_PADDING_FRAMES, MAX_FRAMES)
        encoded = states(self.whisper.encode([samples], num_frames))
        return _Encoding(encoded[:, :num_positions], start_s, (start_s, end_s))

    def _cut_window(self, encoding: _Encoding, start_s: float, end_s: float) -> _Window:
        first, end = (round((time_s - encoding.start_s) / TOKEN_STEP_S) for time_s in (start_s, end_s))
        part = encoding.states[:, max(first, 0) : end]
        # With nowhere to look but at singing the decoder denies one line of ten that is sung (pipeline/README.md).
        encoded = np.concatenate([part, self.whisper.silence_after], axis=1)
        first_s = encoding.start_s + max(first, 0) * TOKEN_STEP_S
        return _Window((start_s, end_s), first_s, part.shape[1] * _FRAMES_PER_POSITION, encoded)

    def _cut(self, start_s: float, end_s: float) -> NDArray[np.float32]:
        return self._samples[int(start_s * SPEECH_SAMPLE_RATE_HZ) : int(end_s * SPEECH_SAMPLE_RATE_HZ)]


def in_batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield BATCH_WINDOWS at a time, in order."""
    for first in range(0, len(items), BATCH_WINDOWS):
        yield items[first : first + BATCH_WINDOWS]


def _count_positions(duration_s: float) -> int:
    return max(min(int(duration_s / TOKEN_STEP_S), MAX_FRAMES // _FRAMES_PER_POSITION), 1)
