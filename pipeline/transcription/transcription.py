"""What a recogniser hears in a song: voice activity, then language and words of every window from one encoding."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.gpu import run_in_parts
from pipeline.lyrics.language_names import language_code
from pipeline.lyrics.line_text import split_words
from pipeline.lyrics.sounds import sound_key
from pipeline.song import TimedWord
from pipeline.transcription.encoded_song import EncodedSong, in_batches
from pipeline.transcription.hallucinations import MIN_SEGMENT_LOGPROB, is_stuck
from pipeline.transcription.voice_detector import VoiceDetector
from pipeline.transcription.whisper import MAX_WINDOW_S, Whisper, pick

# In a row; ours. Whisper's own way out of a loop is to draw at random, which is no two times alike.
NO_REPEAT_TOKENS = 3
BEAM_SIZE = 5  # WhisperX's default, as Whisper's own


@dataclass(frozen=True, slots=True)
class Segment:
    """What was heard in one window, word by word; `no_speech` is the model's probability that nobody speaks in it."""

    start_s: float
    end_s: float
    text: str
    mean_logprob: float
    no_speech: float
    words: list[TimedWord]  # of split_words(text)


class Listening:
    """One song, encoded once: its language is asked of all windows before any of them is transcribed.

    Args:
        whisper: the recogniser.
        detector: finds the windows that it listens to.
        samples: float32 [L], 16 kHz mono.
    """

    def __init__(self, whisper: Whisper, detector: VoiceDetector, samples: NDArray[np.float32]) -> None:
        """Find the voice and encode every window of it."""
        self._whisper = whisper
        self.voice_probability, self.windows = detector.find(samples, MAX_WINDOW_S)
        self.encoded = EncodedSong(whisper, samples, [(w.start_s, w.end_s) for w in self.windows])

    def identify_language(self) -> dict[str, float]:
        """Return the probability of every language (ISO 639-1) over the song, windows weighted by their voice.

        Empty for a model of one language, and where nobody sings.
        """
        totals: dict[str, float] = {}
        if not self._whisper.is_multilingual:
            return totals
        total_s = sum(w.voiced_s for w in self.windows)
        for batch, encoded in zip(in_batches(self.windows), self.encoded.batches, strict=True):
            results = run_in_parts(functools.partial(self._ask_language, encoded), [range(len(batch))])
            for window, found in zip(batch, results, strict=True):
                for token, probability in found:
                    code = language_code(token[2:-2])  # <|en|>; Whisper has some codes of its own
                    totals[code] = totals.get(code, 0.0) + probability * window.voiced_s / total_s
        return totals

    def _ask_language(self, encoded: Any, rows: Sequence[int]) -> Any:
        return self._whisper.model.detect_language(pick(encoded, rows))

    def transcribe(self, language: str) -> list[Segment]:
        """Return what is heard in every window, taken as `language`, every word timed.

        Raises:
            LanguageError: a language that the model does not know.
        """
        self._whisper.require_language(language)
        segments = []
        for batch, encoded in zip(in_batches(self.windows), self.encoded.batches, strict=True):
            results, texts = self._decode(encoded, len(batch), language)
            stuck = [k for k, text in enumerate(texts) if is_stuck(text)]
            if stuck:
                again, other_texts = self._decode(encoded, len(batch), language, no_repeat_ngram_size=NO_REPEAT_TOKENS)
                for k in stuck:
                    if _is_better(other_texts[k], texts[k]) and _mean_logprob(again[k]) >= MIN_SEGMENT_LOGPROB:
                        results[k], texts[k] = again[k], other_texts[k]
            spans = [(window.start_s, window.end_s) for window in batch]
            timed = self._whisper.align_encoded(encoded, spans, [split_words(text, "") for text in texts], language)
            for window, result, text, words in zip(batch, results, texts, timed, strict=True):
                logprob = _mean_logprob(result)
                segments.append(Segment(window.start_s, window.end_s, text, logprob, result.no_speech_prob, words))
        return segments

    def _decode(self, encoded: Any, num_windows: int, language: str, **settings: int) -> tuple[list[Any], list[str]]:
        prompt = self._whisper.prompt(language)

        def decode(rows: Sequence[int]) -> Any:
            return self._whisper.model.generate(
                pick(encoded, rows),
                [prompt] * len(rows),
                beam_size=BEAM_SIZE,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_blank=True,
                **settings,
            )

        results = list(run_in_parts(decode, [range(num_windows)]))
        return results, [self._whisper.decode(result.sequences_ids[0]) for result in results]


def _mean_logprob(result: Any) -> float:
    # CTranslate2's score is a mean over the tokens; Whisper's thresholds are for one over the tokens and the end.
    num_tokens = len(result.sequences_ids[0])
    return float(result.scores[0] * num_tokens / (num_tokens + 1))


def _is_better(text: str, stuck_text: str) -> bool:
    """Whether a text that was forbidden to repeat itself says more: a chorus that is sung three times has no more."""
    new, old = (set(map(sound_key, split_words(each, ""))) for each in (text, stuck_text))
    return not is_stuck(text) and len(new) > len(old)


def weigh_no_speech(segments: Sequence[Segment]) -> float:
    """Return the mean of `no_speech` over the segments, weighted by their length; 1 where there are none."""
    total_s = sum(s.end_s - s.start_s for s in segments)
    return sum(s.no_speech * (s.end_s - s.start_s) for s in segments) / total_s if total_s else 1.0
