"""A Whisper model: what is sung (transcription.py), how likely given lines are, where their words are."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.gpu import run_in_parts
from pipeline.song import TimedWord
from pipeline.transcription.whisper_files import open_whisper

MAX_WINDOW_S = 30.0  # Whisper's receptive field
FRAME_S, MAX_FRAMES = 0.01, 3000  # of the encoder's input
TOKEN_STEP_S = 0.02  # one encoder position
SILENCE_S = 5.0
# Of the encoder's positions for silence the decoder reads every sixth: a pass takes half the time, and the mean log
# probability of 168 lines' words is the same, to 0.01 nats in the mean and 0.08 in the deviation (base).
SILENCE_STRIDE = 6
NUM_SILENT = 50  # positions that end what is cut out of an encoded window
NO_PATH_FRAMES = 2  # to warp time through where only probabilities are asked: they do not depend on it
MIN_TOKEN_PROBABILITY = 1e-6  # below it the logarithm is noise
_UNSPACED = ("zh", "ja", "th", "yue")  # languages without blanks between words
# large-v3 knows Cantonese, the others take it for Chinese; Whisper's own code of Javanese is none of ISO 639-1.
_RELATED = {"yue": "zh", "jv": "jw"}
MAX_ALIGN_TOKENS = 440  # of the decoder's 448 positions, the start sequence taken off


class LanguageError(ValueError):
    """The recogniser does not know the song's language."""


class Whisper:
    """A CTranslate2 Whisper through faster-whisper.

    Args:
        path: what `resolve_model` returns for the stages "asr" and "verifier".
        device: "cpu", or "cuda": the first GPU that the process sees.
        threads: CPU threads of one call.

    Raises:
        ModelFileError: the folder's files are damaged, or not those of one Whisper.
    """

    def __init__(self, path: Path, *, device: str = "cpu", threads: int = 1) -> None:
        """Load the weights."""
        self._model = open_whisper(path, device, threads)
        self._device = device
        self.model = self._model.model  # the ctranslate2.models.Whisper itself
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
        from faster_whisper.audio import pad_or_trim

        extract = self._model.feature_extractor
        features = [pad_or_trim(extract(w, padding=True)[..., :-1], num_frames) for w in windows]
        # One by one is as fast on a CPU, and the scores of attention take 72 MB a window (180 MB with large-v3).
        batches = [[window] for window in features] if self._device == "cpu" else [features]
        rows = list(run_in_parts(self._encode_batch, batches))
        first = rows[0][0]
        if all(view is first for view, _ in rows):
            return first
        return storage_view(np.concatenate([states(view)[row : row + 1] for view, row in rows]))

    def _encode_batch(self, features: Sequence[NDArray[np.float32]]) -> list[tuple[Any, int]]:
        """Return where each window's output is: in which StorageView, and in which row of it."""
        view = self._model.encode(np.stack(features))
        return [(view, row) for row in range(len(features))]

    def prompt(self, language: str) -> list[int]:
        """Return the tokens that ask for a transcription without time stamps."""
        tokenizer = self._tokenizer(language)
        return [*tokenizer.sot_sequence, tokenizer.no_timestamps]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens."""
        first_special = self._model.hf_tokenizer.token_to_id("<|endoftext|>")
        return str(self._model.hf_tokenizer.decode([token for token in tokens if token < first_special]))

    def align_encoded(
        self, encoded: Any, spans: Sequence[tuple[float, float]], words: Sequence[Sequence[str]], language: str
    ) -> list[list[TimedWord]]:
        """Place the words of several windows in one call on what `encode` returned for them.

        By dynamic time warping over Whisper's alignment heads.

        Args:
            encoded: the encoder's output, one entry per window.
            spans: start and end of every window in seconds of the song.
            words: display words of every window; more than the decoder holds are cut off, and stand at its end.
        """
        tokens = [self.tokenize(window, language) for window in words]
        flat: list[list[int]] = [sum(window, [])[:MAX_ALIGN_TOKENS] for window in tokens]
        num_frames = [min(int((end_s - start_s) / FRAME_S), MAX_FRAMES) for start_s, end_s in spans]
        sequence = self._tokenizer(language).sot_sequence

        def place(rows: Sequence[int]) -> Any:
            texts, frames = [flat[k] for k in rows], [num_frames[k] for k in rows]
            return self.model.align(pick(encoded, rows), sequence, texts, frames)

        timed = []
        results = run_in_parts(place, [range(len(words))])
        for result, window, (start_s, end_s) in zip(results, tokens, spans, strict=True):
            lengths = np.diff(np.minimum(np.cumsum([0, *map(len, window)]), MAX_ALIGN_TOKENS)).tolist()
            timed.append(words_from_path(result.alignments, result.text_token_probs, lengths, start_s, end_s))
        return timed

    def tokenize(self, words: Sequence[str], language: str) -> list[list[int]]:
        """Return the tokens of every display word; a Chinese character is a word."""
        tokenizer = self._tokenizer(language)
        return [tokenizer.encode(word if language in _UNSPACED else f" {word}") for word in words]

    def read(self, encoded: NDArray[np.float32], text: Sequence[int], num_frames: int, language: str) -> Any:
        """Return the probabilities of a text's tokens in one encoded window, and their path through `num_frames`.

        Args:
            encoded: [1, T, D], the encoder's output (see `states`) or a part of it, with silence at its end.
            text: at most `MAX_ALIGN_TOKENS` tokens.
            num_frames: of the window, 100 a second; `NO_PATH_FRAMES` where the path is not asked for.
            language: an ISO 639-1 code.
        """
        # CTranslate2 takes states of so many positions for features, and encodes them again (its is_encoded looks at
        # the shape alone): every word would seem improbable. Of the silence one position less changes nothing.
        part = encoded[:, :-1] if encoded.shape[1] == self.model.n_mels else encoded
        sequence = self._tokenizer(language).sot_sequence
        return self.model.align(storage_view(part), sequence, [list(text)], num_frames)[0]

    @functools.lru_cache(maxsize=256)  # noqa: B019  # one Whisper lives as long as its process
    def silent_logprobs(self, text: tuple[int, ...], language: str) -> NDArray[np.float64]:
        """Return the log probability of every token of a text where nothing is heard."""
        return token_logprobs(self.read(self._silence, text, NO_PATH_FRAMES, language))

    @functools.cached_property
    def silence_after(self) -> NDArray[np.float32]:
        """The encoder's output, [1, T, D], for the last second of 30 s of silence.

        It holds positions at which the decoder looks when there is nothing to hear: as other transformers do, the
        encoder empties a few where nothing happens (arXiv:2309.16588, 2309.17453). In base these are 3 in 100,
        in tiny.en the last 25, with a sixth and half of the norm of the others.
        """
        return self._silent_states[:, -NUM_SILENT:]

    @functools.cached_property
    def _silent_states(self) -> NDArray[np.float32]:
        # Padded to 30 s: after a short silence all words are improbable, so any line would seem sung by comparison.
        return states(self.encode([np.zeros(int(SILENCE_S * SPEECH_SAMPLE_RATE_HZ), dtype=np.float32)]))

    @functools.cached_property
    def _silence(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._silent_states[:, ::SILENCE_STRIDE])

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        language = language if language in self.languages else _RELATED[language]
        return Tokenizer(self._model.hf_tokenizer, self.is_multilingual, task="transcribe", language=language)


@functools.lru_cache(maxsize=2)
def load_whisper(path: Path, device: str, threads: int) -> Whisper:
    """Return the Whisper of a folder; recogniser and verifier share the weights where they are one model."""
    return Whisper(path, device=device, threads=threads)


def token_logprobs(reading: Any) -> NDArray[np.float64]:
    """Return the log probabilities of what `Whisper.read` returned."""
    logprobs: NDArray[np.float64] = np.log(np.maximum(reading.text_token_probs, MIN_TOKEN_PROBABILITY))
    return logprobs


def pick(encoded: Any, rows: Sequence[int]) -> Any:
    """Return the encoder's output for some of its windows, in order; for all of them it is no copy."""
    return encoded if len(rows) == encoded.shape[0] else storage_view(states(encoded)[list(rows)])


def states(encoded: Any) -> NDArray[np.float32]:
    """Return an encoder's output as an array, [B, T, D]; on a CPU it is no copy.

    float16 on most GPUs: a type that NumPy has, unlike bfloat16, is one reason for `whisper_files.GPU_TYPES`.
    """
    import ctranslate2

    array: NDArray[np.float32] = np.asarray(
        encoded if encoded.device == "cpu" else encoded.to_device(ctranslate2.Device.cpu)
    )
    return array


def storage_view(array: NDArray[np.float32]) -> Any:
    """Return states as the decoder takes them."""
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))


def words_from_path(
    path: Sequence[tuple[int, int]],
    probabilities: Sequence[float],
    lengths: Sequence[int],
    start_s: float,
    end_s: float,
) -> list[TimedWord]:
    """Return words with the places of their tokens on a path, and the mean probability of these.

    Args:
        path: steps, each a token and a position of the encoder.
        probabilities: of the tokens.
        lengths: tokens of every word.
        start_s, end_s: of the window, in seconds of the song.
    """
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
