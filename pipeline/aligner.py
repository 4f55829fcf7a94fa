"""Where given words are sung: one interface over forced aligners, and which of them serves a language."""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.acoustic_model import FRAME_S, AcousticModel
from pipeline.aligner_models import ALIGNER_REPOSITORIES
from pipeline.ctc_aligner import CtcSong
from pipeline.models import MINIATURE, fingerprint_model, resolve_model
from pipeline.whisper import TimedWord

logger = logging.getLogger(__name__)

ATTENTION = "whisper"  # no second model: the verifier's cross-attention
BY_LANGUAGE = "wav2vec2"  # the wav2vec 2.0 model of the song's language, attention where there is none


class SongAligner(Protocol):
    """A song that has been listened to once; words are placed in any window of it."""

    def align(self, start_s: float, end_s: float, words: Sequence[str]) -> list[TimedWord]:
        """Place display words in order in a window.

        Returns:
            One TimedWord per word, times monotone, in seconds of the song.
        """

    def measure_evidence(self, words: Sequence[str], start_s: float = 0.0, end_s: float = float("inf")) -> float | None:
        """Return how much better the words fit a window in their order than shuffled; None: cannot tell."""


class Aligner(Protocol):
    """Makes a SongAligner of a song."""

    name: str

    def open_song(self, samples: NDArray[np.float32], language: str) -> SongAligner:
        """Listen to 16 kHz mono [L]."""


class _CtcSongOfWords:
    def __init__(self, song: CtcSong, model: AcousticModel, language: str) -> None:
        self._song, self._model, self._language = song, model, language

    def align(self, start_s: float, end_s: float, words: Sequence[str]) -> list[TimedWord]:
        return self._song.align(start_s, end_s, [self._model.spell(word, self._language) for word in words])

    def measure_evidence(self, words: Sequence[str], start_s: float = 0.0, end_s: float = float("inf")) -> float | None:
        return self._song.measure_evidence([self._model.spell(w, self._language) for w in words], start_s, end_s)


class CtcAligner:
    """Forced alignment to a CTC model: the model runs once per song, whatever the number of windows."""

    def __init__(self, model: AcousticModel) -> None:
        """Keep the model."""
        self._model = model
        self.name = model.name

    def open_song(self, samples: NDArray[np.float32], language: str) -> SongAligner:
        """Run the model over the song, in overlapping windows."""
        model = self._model
        song = CtcSong(model.listen(samples), blank=model.blank, frame_s=FRAME_S, onset_lead_s=model.onset_lead_s)
        return _CtcSongOfWords(song, model, language)


class Aligners:
    """The CTC aligner of every language under one name; a model loads when the first song needs it.

    The verifier's own cross-attention serves every language and needs none of them (`pipeline.sung_audio` asks both).

    Args:
        name: "whisper", "wav2vec2" (a model per language), "miniature" (the packaged phoneme recogniser), or one
            Wav2Vec2ForCTC for all songs: a hub id or a local folder.
        device: "cpu" or "cuda".
    """

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        """Load nothing yet."""
        self._name, self._device = name, device
        self._loaded: dict[str, CtcAligner] = {}

    def for_language(self, language: str) -> Aligner | None:
        """Return the CTC aligner of an ISO 639-1 code; None where attention works alone.

        Raises:
            ModelNotFoundError: the language has a model that cannot be had.
        """
        model_name = choose_model(self._name, language)
        if model_name is None:
            logger.info("language %s: words are placed by Whisper's cross-attention alone", language)
            return None
        if model_name not in self._loaded:
            self._loaded[model_name] = CtcAligner(load_acoustic_model(model_name, device=self._device))
            name = self._loaded[model_name].name
            logger.info("language %s: words are placed by Whisper's cross-attention and %s", language, name)
        return self._loaded[model_name]


def choose_model(name: str, language: str) -> str | None:
    """Return the model that `resolve_model` shall find for a language, or None for Whisper's cross-attention."""
    if name == ATTENTION:
        return None
    if name == BY_LANGUAGE:
        model_name = f"{BY_LANGUAGE}-{language}"
        return model_name if model_name in ALIGNER_REPOSITORIES else None
    if name == MINIATURE:
        from pipeline.phone_recogniser import LANGUAGES

        return name if language in LANGUAGES else None
    return name


def check_aligner(name: str, language: str) -> str:
    """Make sure before any work that the aligner can be had, and return what identifies it.

    Args:
        name: as for `Aligners`.
        language: of all songs, or "auto": then the models of "wav2vec2" are looked for when their first song comes.

    Raises:
        ModelNotFoundError: says which model, for which stage, where it was looked for, and how to provide it.
    """
    if name == ATTENTION:
        return ATTENTION
    if name == BY_LANGUAGE:
        model_name = None if language == "auto" else choose_model(name, language)
        return fingerprint_model(resolve_model(model_name, "aligner")) if model_name else BY_LANGUAGE
    return fingerprint_model(resolve_model(name, "aligner"))


def load_acoustic_model(name: str, *, device: str = "cpu") -> AcousticModel:
    """Load a CTC model by a name that `choose_model` returns."""
    if name == MINIATURE:
        from pipeline.phone_recogniser import PhoneRecogniser

        return PhoneRecogniser(name, device=device)
    from pipeline.wav2vec2 import Wav2Vec2

    return Wav2Vec2(name, device=device)
