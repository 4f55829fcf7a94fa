"""Where given words are sung: one interface over forced aligners, and which of them serves a language."""

import gc
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.acoustic_model import FRAME_S, AcousticModel
from pipeline.alignment.ctc import CtcSong
from pipeline.model_files.errors import ModelNotFoundError
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.hub_repositories import ALIGNER_REPOSITORIES
from pipeline.model_files.names import MINIATURE, resolve_model
from pipeline.song import TimedWord

logger = logging.getLogger(__name__)

ATTENTION = "whisper"  # no second model: the verifier's cross-attention
BY_LANGUAGE = "wav2vec2"  # the wav2vec 2.0 model of the song's language, attention where there is none
# Names that stand for no files of their own, or for those of several models: `locate_models` leaves them as they are.
AUTOMATIC = (ATTENTION, BY_LANGUAGE, MINIATURE)
# Of the models of languages, in each worker: two are 2.6 GB, 7.8 GB for those of 1 billion parameters. Songs of one
# language often follow each other, and a model loads in seconds.
MAX_LOADED = 2


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

    The verifier's own cross-attention serves every language and needs none of them; verification asks both.

    Args:
        name: "whisper", "wav2vec2" (a model per language), "miniature" (the packaged phoneme recogniser), or one
            Wav2Vec2ForCTC for all songs: a local path or a hub id.
        device: "cpu" or "cuda".
    """

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        """Load nothing yet."""
        self._name, self._device = name, device
        self._loaded: OrderedDict[str, CtcAligner] = OrderedDict()  # by model, that of the last song last

    def for_language(self, language: str) -> Aligner | None:
        """Return the CTC aligner of an ISO 639-1 code; None where attention works alone. Nothing is downloaded.

        Raises:
            ModelNotFoundError: the language has a model that is not on this machine.
            ModelFileError: the model's files are damaged or of another model.
        """
        model_name = choose_model(self._name, language)
        if model_name is None:
            logger.info("language %s: words are placed by Whisper's cross-attention alone", language)
            return None
        if model_name not in self._loaded:
            path = _resolve(model_name, language, may_download=False)
            self._make_room()
            self._loaded[model_name] = aligner = CtcAligner(load_acoustic_model(path, model_name, device=self._device))
            logger.info("language %s: words are placed by Whisper's cross-attention and %s", language, aligner.name)
        self._loaded.move_to_end(model_name)
        return self._loaded[model_name]

    def _make_room(self) -> None:
        """Drop the models that were used longest ago, so that one more fits in."""
        while len(self._loaded) >= MAX_LOADED:
            name, _ = self._loaded.popitem(last=False)
            logger.info("aligner %s is dropped for that of another language", name)
            gc.collect()  # a model refers to itself
            if self._device != "cpu":
                import torch

                torch.cuda.empty_cache()


def choose_model(name: str, language: str) -> str | None:
    """Return the model that `resolve_model` shall find for a language, or None for Whisper's cross-attention."""
    if name == ATTENTION:
        return None
    if name == BY_LANGUAGE:
        model_name = f"{BY_LANGUAGE}-{language}"
        return model_name if model_name in ALIGNER_REPOSITORIES else None
    if name == MINIATURE:
        from pipeline.alignment.hama.recogniser import LANGUAGES

        return name if language in LANGUAGES else None
    return name


def check_aligners(name: str, languages: Iterable[str]) -> None:
    """Make sure, on the driver and before any work, that the aligner of every language is on this machine.

    What is not here is downloaded where a hub may be asked. Workers on other machines download nothing.

    Args:
        name: as for `Aligners`.
        languages: ISO 639-1 codes that occur, each once or more.

    Raises:
        ModelNotFoundError: the first model that cannot be had.
    """
    for language in sorted(set(languages)):
        if (model_name := choose_model(name, language)) is not None:
            _resolve(model_name, language, may_download=True)


def check_aligner(name: str, language: str) -> str:
    """Return what identifies the aligner that serves a language, downloaded first where it is not here.

    Args:
        name: as for `Aligners`.
        language: of all songs, or "auto": then the models of "wav2vec2" are looked for when their first song comes.

    Raises:
        ModelNotFoundError: says which model, for which stage, where it was looked for, and how to provide it.
        ModelFileError: the model's files cannot be read.
    """
    if name == ATTENTION:
        return ATTENTION
    if name == BY_LANGUAGE:
        model_name = None if language == "auto" else choose_model(name, language)
        return fingerprint_model(_resolve(model_name, language), "aligner") if model_name else BY_LANGUAGE
    return fingerprint_model(resolve_model(name, "aligner"), "aligner")


def load_acoustic_model(path: Path, name: str, *, device: str = "cpu") -> AcousticModel:
    """Load the CTC model of a name that `choose_model` returns, from where `resolve_model` finds it."""
    if name == MINIATURE:
        from pipeline.alignment.hama.recogniser import PhoneRecogniser

        return PhoneRecogniser(path, device=device)
    from pipeline.alignment.wav2vec2 import Wav2Vec2

    return Wav2Vec2(path, name=name, device=device)


def _resolve(model_name: str, language: str, *, may_download: bool = True) -> Path:
    try:
        return resolve_model(model_name, "aligner", may_download=may_download)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"aligner of language {language!r}: {error}") from error
