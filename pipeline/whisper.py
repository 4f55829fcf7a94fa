"""One Whisper model for two uses: transcription through WhisperX, and word times from its cross-attention."""

import functools
import itertools
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ
from pipeline.models import resolve_model
from pipeline.song import Transcript, Word

logger = logging.getLogger(__name__)

MAX_WINDOW_S = 30.0  # Whisper's receptive field
TOKEN_STEP_S = 0.02  # one encoder position
MIN_WORD_S = 0.04
VOICE_STEP_S = 0.016875  # of the voice activity model bundled with WhisperX (270 samples at 16 kHz)
SILENCE_S = 5.0
MIN_TOKEN_PROBABILITY = 1e-6  # below it the logarithm is noise
MAX_ALIGN_TOKENS = 440  # of the decoder's 448 positions, the start sequence taken off

# A segment beyond these is a hallucination or a loop: the thresholds of Whisper's own decoding (arXiv:2212.04356, 4.5).
MIN_SEGMENT_LOGPROB = -1.0
MAX_COMPRESSION_RATIO = 2.4


class LanguageError(ValueError):
    """The recogniser does not know the song's language."""


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word of given text with its place in the audio; `score` is the mean probability of its tokens."""

    start_s: float
    end_s: float
    score: float


class Whisper:
    """A CTranslate2 Whisper with WhisperX's batched decoding and its bundled voice activity model.

    Args:
        name: any name that `resolve_model` knows for the stage "asr".
        device: "cpu" or "cuda".
        threads: CPU threads of one call.
    """

    def __init__(self, name: str, *, device: str = "cpu", threads: int = 1, batch_size: int = 8) -> None:
        """Load the weights."""
        path = resolve_model(name, "asr")
        with warnings.catch_warnings():  # of packages that miss a system FFmpeg, which nothing here needs
            warnings.simplefilter("ignore")
            from whisperx.asr import load_model

            for talkative in ("whisperx", "lightning.pytorch", "pytorch_lightning"):
                logging.getLogger(talkative).setLevel(logging.ERROR)
            self._batch_size = batch_size
            self._pipeline = load_model(
                str(path),
                device,
                compute_type="float16" if device == "cuda" else "int8",
                vad_method="pyannote",
                threads=threads,
                local_files_only=True,
            )
        self._model = self._pipeline.model
        self._pipeline.vad_model = self._voice_model = _RememberedVoice(self._pipeline.vad_model)
        self._last_window: tuple[NDArray[np.float32], int, int, Any] | None = None
        self.is_multilingual = bool(self._model.model.is_multilingual)
        self.languages = tuple(self._model.supported_languages)

    def detect_language(self, samples: NDArray[np.float32]) -> str:
        """Return the ISO 639-1 code that most 30 s windows of 16 kHz mono [L] speak for."""
        if not self.is_multilingual:
            return "en"
        votes: dict[str, float] = {}
        step = int(MAX_WINDOW_S * SPEECH_SAMPLE_RATE_HZ)
        starts = range(0, max(len(samples) - step // 4, 1), step)
        for start in starts:
            for token, probability in self._model.model.detect_language(self._encode(samples[start : start + step]))[0]:
                votes[token[2:-2]] = votes.get(token[2:-2], 0.0) + probability
        return max(votes, key=lambda code: votes[code])

    def transcribe(self, samples: NDArray[np.float32], language: str) -> Transcript:
        """Transcribe 16 kHz mono [L] and time every word.

        Raises:
            LanguageError: a language that the model does not know.
        """
        if language not in self.languages:
            raise LanguageError(f"language is {language!r}, this Whisper model knows {', '.join(self.languages)}")
        try:
            segments = self._pipeline.transcribe(samples, batch_size=self._batch_size, language=language)["segments"]
        except IndexError:  # WhisperX on audio in which its voice activity model finds nothing
            segments = []
        words: list[Word] = []
        logprobs, durations = [0.0], [1e-9]
        for index, segment in enumerate(segments):
            duration = segment["end"] - segment["start"]
            if _is_hallucination(segment["text"], segment["avg_logprob"]):
                logger.debug("segment %.1f-%.1f s left out: %r", segment["start"], segment["end"], segment["text"])
                continue
            texts = split_asr_text(segment["text"])
            timed = self.align(samples, segment["start"], segment["end"], texts, language)
            words += [Word(t, w.start_s, w.end_s, w.score, index) for t, w in zip(texts, timed, strict=True)]
            logprobs.append(segment["avg_logprob"] * duration)
            durations.append(duration)
        return Transcript(words, language, sum(logprobs) / sum(durations), self._voice_model.probability)

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
        result = self._model.model.align(encoded, tokenizer.sot_sequence, [sum(per_word, [])], num_frames)[0]
        return _words_from_path(result.alignments, result.text_token_probs, [len(t) for t in per_word], start_s, end_s)

    def measure_support(
        self, samples: NDArray[np.float32], start_s: float, end_s: float, lines: Sequence[Sequence[str]], language: str
    ) -> NDArray[np.float64]:
        """Return how much more probable the window makes each line than silence does, in nats per token [lines].

        log p(line | window, lines before it) - log p(line | silence, lines before it), mean over the line's tokens:
        what the language model knows without listening cancels out. Lines that are sung in the window reach 1 to 5,
        others stay within 1 of zero (pipeline/README.md has the experiment).
        """
        support: list[float] = []
        encoded, num_frames = self._encode_window(samples, start_s, end_s)
        for group in self._token_groups(lines, language):
            heard = self._token_logprobs(encoded, num_frames, group, language)
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

    def _token_logprobs(
        self, encoded: Any, num_frames: int, lines: Sequence[Sequence[int]], language: str
    ) -> NDArray[np.float64]:
        text = [token for tokens in lines for token in tokens]
        result = self._model.model.align(encoded, self._tokenizer(language).sot_sequence, [text], num_frames)[0]
        return np.log(np.maximum(np.array(result.text_token_probs), MIN_TOKEN_PROBABILITY))

    @functools.lru_cache(maxsize=64)  # noqa: B019  # one Whisper lives as long as its process
    def _silent_logprobs(self, lines: tuple[tuple[int, ...], ...], language: str) -> NDArray[np.float64]:
        silence = np.zeros(int(SILENCE_S * SPEECH_SAMPLE_RATE_HZ), dtype=np.float32)
        return self._token_logprobs(self._encode(silence), _num_frames(silence), lines, language)

    def _encode_window(self, samples: NDArray[np.float32], start_s: float, end_s: float) -> tuple[Any, int]:
        """Return a window encoded, with its length in feature frames; the last one is remembered."""
        first, last = int(start_s * SPEECH_SAMPLE_RATE_HZ), int(end_s * SPEECH_SAMPLE_RATE_HZ)
        if self._last_window is None or self._last_window[0] is not samples or self._last_window[1:3] != (first, last):
            self._last_window = samples, first, last, self._encode(samples[first:last])
        return self._last_window[3], _num_frames(samples[first:last])

    def _encode(self, window: NDArray[np.float32]) -> Any:  # a ctranslate2.StorageView
        from faster_whisper.audio import pad_or_trim

        features = self._model.feature_extractor(window, padding=True)[..., :-1]
        return self._model.encode(pad_or_trim(features))

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._model.hf_tokenizer, self.is_multilingual, task="transcribe", language=language)


@functools.lru_cache(maxsize=2)
def load_whisper(name: str, device: str, threads: int) -> Whisper:
    """Return the one Whisper of this process for these settings: transcription and alignment share its weights."""
    return Whisper(name, device=device, threads=threads)


class _RememberedVoice:
    """WhisperX's voice activity model, whose last answer is kept."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.probability = np.zeros(0, dtype=np.float32)  # of a voice, in frames of VOICE_STEP_S

    def __call__(self, audio: dict[str, Any]) -> Any:
        scores = self._model(audio)
        self.probability = scores.data[:, 0].astype(np.float32)
        assert abs(scores.sliding_window.step - VOICE_STEP_S) < 1e-6
        return scores


def _num_frames(window: NDArray[np.float32]) -> int:
    return min(int(len(window) / SPEECH_SAMPLE_RATE_HZ / 0.01), 3000)


def _is_hallucination(text: str, mean_logprob: float) -> bool:
    data = text.encode()
    ratio = len(data) / max(len(zlib.compress(data)), 1)
    return not text.strip() or mean_logprob < MIN_SEGMENT_LOGPROB or ratio > MAX_COMPRESSION_RATIO


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


def split_asr_text(text: str) -> list[str]:
    """Split what a recogniser wrote into words as lyrics are split: by spaces, Han characters one by one."""
    from pipeline.lyrics import split_words

    return split_words(text, "")
