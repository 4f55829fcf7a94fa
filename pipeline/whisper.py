"""A Whisper model: what is sung (pipeline/transcription.py), how likely given lines are, where their words are."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ
from pipeline.models import resolve_model

MAX_WINDOW_S = 30.0  # Whisper's receptive field
FRAME_S, MAX_FRAMES = 0.01, 3000  # of the encoder's input
# Silence after a window that is not padded to 30 s: 10 s of singing are encoded five times as fast, and the scores of
# its lines change by a tenth of a nat.
SHORT_PADDING_FRAMES = 100
TOKEN_STEP_S = 0.02  # one encoder position
MIN_WORD_S = 0.04
SILENCE_S = 5.0
# Of the encoder's positions for silence the decoder reads every third: a pass takes 0.6 of the time, and the mean
# log probability of 264 lines' words is the same, to 0.01 nats in the mean and 0.08 in the deviation (base).
SILENCE_STRIDE = 3
NO_PATH_FRAMES = 2  # to warp time through where only probabilities are asked: they do not hang on it
MIN_TOKEN_PROBABILITY = 1e-6  # below it the logarithm is noise
_RELATED = {"yue": "zh"}  # large-v3 knows Cantonese, the others take it for Chinese
MAX_ALIGN_TOKENS = 440  # of the decoder's 448 positions, the start sequence taken off


class LanguageError(ValueError):
    """The recogniser does not know the song's language."""


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word of given text with its place in the audio; `score` is the mean probability of its tokens."""

    start_s: float
    end_s: float
    score: float


class Whisper:
    """A CTranslate2 Whisper through faster-whisper.

    Args:
        path: what `resolve_model` returns for the stages "asr" and "verifier".
        device: "cpu" or "cuda".
        threads: CPU threads of one call.
    """

    def __init__(self, path: Path, *, device: str = "cpu", threads: int = 1) -> None:
        """Load the weights."""
        from faster_whisper import WhisperModel

        self._model = WhisperModel(
            str(path),
            device=device,
            compute_type="float16" if device == "cuda" else "int8",
            cpu_threads=threads,
            local_files_only=True,
        )
        self._device = device
        self.model = self._model.model  # the ctranslate2.models.Whisper itself
        self._last_window: tuple[NDArray[np.float32], int, int, Any] | None = None
        self._last_reading: tuple[Any, list[int], str, int, Any] | None = None
        self.is_multilingual = bool(self._model.model.is_multilingual)
        # The package lists the languages of large-v3 for every model.
        knows = self._model.hf_tokenizer.token_to_id
        codes = self._model.supported_languages
        self.languages = tuple(c for c in codes if not self.is_multilingual or knows(f"<|{c}|>") is not None)

    def require_language(self, language: str) -> None:
        """Raise LanguageError for a language that the model does not know."""
        if _RELATED.get(language, language) not in self.languages:
            raise LanguageError(f"language is {language!r}, this Whisper model knows {', '.join(self.languages)}")

    def encode(self, windows: Sequence[NDArray[np.float32]], num_frames: int = MAX_FRAMES) -> Any:
        """Return the encoder's output (a ctranslate2.StorageView) for 16 kHz mono windows of at most 30 s each.

        Args:
            windows: samples.
            num_frames: to which the features are padded, 100 a second. Whisper was trained on 30 s, and transcribes no
                less; to score and place given words it needs no more than the window.
        """
        import ctranslate2
        from faster_whisper.audio import pad_or_trim

        extract = self._model.feature_extractor
        features = [pad_or_trim(extract(w, padding=True)[..., :-1], num_frames) for w in windows]
        if self._device != "cpu":
            return self._model.encode(np.stack(features))
        # One by one is as fast on a CPU, and the scores of attention take 72 MB a window (180 MB with large-v3).
        encoded = [np.asarray(self._model.encode(window[None])) for window in features]
        return ctranslate2.StorageView.from_array(np.concatenate(encoded))

    def prompt(self, language: str) -> list[int]:
        """Return the tokens that ask for a transcription without time stamps."""
        tokenizer = self._tokenizer(language)
        return [*tokenizer.sot_sequence, tokenizer.no_timestamps]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens."""
        first_special = self._model.hf_tokenizer.token_to_id("<|endoftext|>")
        return str(self._model.hf_tokenizer.decode([token for token in tokens if token < first_special]))

    def align(
        self, samples: NDArray[np.float32], start_s: float, end_s: float, words: Sequence[str], language: str
    ) -> list[TimedWord]:
        """Place given words in a window of at most 30 s by dynamic time warping over Whisper's alignment heads.

        Args:
            samples: 16 kHz mono [L], the whole song.
            start_s, end_s: the window; words are placed within it, in order.
            words: display words; a Chinese character is a word.

        Returns:
            One TimedWord per word, times monotone and in seconds of the song.
        """
        if not words:
            return []
        tokenizer = self._tokenizer(language)
        per_word = [tokenizer.encode(_with_space(word, language)) for word in words]
        if sum(map(len, per_word)) > MAX_ALIGN_TOKENS:
            half = len(words) // 2
            middle = start_s + (end_s - start_s) * half / len(words)
            return self.align(samples, start_s, middle, words[:half], language) + self.align(
                samples, middle, end_s, words[half:], language
            )
        encoded, num_frames = self._encode_window(samples, start_s, end_s)
        result = self._read(encoded, num_frames, sum(per_word, []), language)
        return _words_from_path(result.alignments, result.text_token_probs, [len(t) for t in per_word], start_s, end_s)

    def align_encoded(
        self, encoded: Any, spans: Sequence[tuple[float, float]], words: Sequence[Sequence[str]], language: str
    ) -> list[list[TimedWord]]:
        """Place the words of several windows, as `align` does, in one call on what `encode` returned for them.

        Args:
            encoded: the encoder's output, one entry per window.
            spans: start and end of every window in seconds of the song.
            words: display words of every window; more than the decoder holds are cut off, and stand at its end.
        """
        tokenizer = self._tokenizer(language)
        tokens = [[tokenizer.encode(_with_space(word, language)) for word in window] for window in words]
        flat: list[list[int]] = [sum(window, [])[:MAX_ALIGN_TOKENS] for window in tokens]
        num_frames = [min(int((end_s - start_s) / FRAME_S), MAX_FRAMES) for start_s, end_s in spans]
        results = self.model.align(encoded, tokenizer.sot_sequence, flat, num_frames)
        timed = []
        for result, window, (start_s, end_s) in zip(results, tokens, spans, strict=True):
            lengths = np.diff(np.minimum(np.cumsum([0, *map(len, window)]), MAX_ALIGN_TOKENS)).tolist()
            timed.append(_words_from_path(result.alignments, result.text_token_probs, lengths, start_s, end_s))
        return timed

    def measure_support(
        self, samples: NDArray[np.float32], start_s: float, end_s: float, lines: Sequence[Sequence[str]], language: str
    ) -> NDArray[np.float64]:
        """Return how much more probable the window makes each line than silence does, in nats per token [lines].

        log p(line | window, lines before it) - log p(line | silence, lines before it), mean over the line's tokens:
        what the language model knows without listening cancels out. Lines that are sung in the window reach 1 to 5,
        others stay within 1 of zero (pipeline/README.md has the experiment).
        """
        support: list[float] = []
        encoded, _ = self._encode_window(samples, start_s, end_s)
        for group in self._token_groups(lines, language):
            heard = self._token_logprobs(encoded, group, language)
            known = self._silent_logprobs(tuple(map(tuple, group)), language)
            bounds = np.cumsum([0, *map(len, group)])
            support += [float((heard - known)[a:b].mean()) for a, b in itertools.pairwise(bounds)]
        return np.array(support)

    def _token_groups(self, lines: Sequence[Sequence[str]], language: str) -> Iterator[list[list[int]]]:
        """Yield the lines as token ids, in groups that fit the decoder."""
        group: list[list[int]] = []
        tokenizer = self._tokenizer(language)
        for words in lines:
            tokens = [t for word in words for t in tokenizer.encode(_with_space(word, language))][:MAX_ALIGN_TOKENS]
            if sum(map(len, group)) + len(tokens) > MAX_ALIGN_TOKENS:
                yield group
                group = []
            group.append(tokens)
        if group:
            yield group

    def _token_logprobs(self, encoded: Any, lines: Sequence[Sequence[int]], language: str) -> NDArray[np.float64]:
        result = self._read(encoded, NO_PATH_FRAMES, [token for tokens in lines for token in tokens], language)
        logprobs: NDArray[np.float64] = np.log(np.maximum(result.text_token_probs, MIN_TOKEN_PROBABILITY))
        return logprobs

    def _read(self, encoded: Any, num_frames: int, text: list[int], language: str) -> Any:
        """Return path (through `num_frames`) and probabilities of a text in a window; the last ones are remembered.

        Whoever asks where words are asks for their evidence next: both come from one pass of the decoder.
        """
        last = self._last_reading
        if last is None or last[0] is not encoded or last[1:3] != (text, language) or last[3] < num_frames:
            result = self.model.align(encoded, self._tokenizer(language).sot_sequence, [text], num_frames)[0]
            self._last_reading = last = encoded, text, language, num_frames, result
        return last[4]

    @functools.lru_cache(maxsize=256)  # noqa: B019  # one Whisper lives as long as its process
    def _silent_logprobs(self, lines: tuple[tuple[int, ...], ...], language: str) -> NDArray[np.float64]:
        return self._token_logprobs(self._silence, lines, language)

    @functools.cached_property
    def _silence(self) -> Any:
        import ctranslate2

        # Padded to 30 s: after a short silence all words are improbable, so any line would seem sung by comparison.
        encoded = self.encode([np.zeros(int(SILENCE_S * SPEECH_SAMPLE_RATE_HZ), dtype=np.float32)])
        positions = np.asarray(encoded.to_device(ctranslate2.Device.cpu))[:, ::SILENCE_STRIDE]
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(positions))

    def _encode_window(self, samples: NDArray[np.float32], start_s: float, end_s: float) -> tuple[Any, int]:
        """Return a window encoded, with its length in feature frames; the last one is remembered."""
        first, last = int(start_s * SPEECH_SAMPLE_RATE_HZ), int(end_s * SPEECH_SAMPLE_RATE_HZ)
        if self._last_window is None or self._last_window[0] is not samples or self._last_window[1:3] != (first, last):
            self._last_window = samples, first, last, self._encode_short(samples[first:last])
        return self._last_window[3], _num_frames(samples[first:last])

    def _encode_short(self, window: NDArray[np.float32]) -> Any:
        return self.encode([window], min(_num_frames(window) + SHORT_PADDING_FRAMES, MAX_FRAMES))

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        language = language if language in self.languages else _RELATED[language]
        return Tokenizer(self._model.hf_tokenizer, self.is_multilingual, task="transcribe", language=language)


def load_whisper(name: str, stage: str, device: str, threads: int) -> Whisper:
    """Return the Whisper of a stage ("asr" or "verifier"); both share the weights where they name the same model."""
    return _load(resolve_model(name, stage), device, threads)


@functools.lru_cache(maxsize=2)
def _load(path: Path, device: str, threads: int) -> Whisper:
    return Whisper(path, device=device, threads=threads)


def _num_frames(window: NDArray[np.float32]) -> int:
    return min(int(len(window) / SPEECH_SAMPLE_RATE_HZ / FRAME_S), MAX_FRAMES)


def _words_from_path(
    path: Sequence[tuple[int, int]],
    probabilities: Sequence[float],
    lengths: Sequence[int],
    start_s: float,
    end_s: float,
) -> list[TimedWord]:
    tokens = np.array([step[0] for step in path])
    times = np.array([step[1] for step in path]) * TOKEN_STEP_S
    first = np.flatnonzero(np.diff(tokens, prepend=-1))  # where the path enters each token
    onset_s = np.full(sum(lengths) + 1, end_s - start_s)
    onset_s[tokens[first]] = times[first]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    words = []
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        score = float(np.mean(probabilities[low:high])) if high > low else 0.0
        words.append(TimedWord(start_s + float(onset_s[low]), start_s + float(onset_s[high]), score))
    return words


def _with_space(word: str, language: str) -> str:
    return word if language in ("zh", "ja", "th", "yue") else " " + word
