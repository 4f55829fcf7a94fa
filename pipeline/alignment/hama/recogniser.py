"""The small phoneme recogniser of the package hama (Apache-2.0, 4.7 MB): a CTC model over IPA symbols.

It was trained on English and Korean speech, not on singing, and still places words of other languages, because a word
need not be recognised to be placed: its sounds only have to come in this order (figures in pipeline/README.md).
English and Mandarin are read by the project's phonemes, other languages in Latin script by their letters.
"""

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.alignment.acoustic_model import count_frames, listen_in_windows
from pipeline.alignment.ctc import Spelling
from pipeline.alignment.hama import letter_sounds
from pipeline.alignment.hama.network import load_phone_conformer
from pipeline.gpu import ieee_float32
from pipeline.lyrics.sounds import is_han
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.phonemes.english import read_phrase
from pipeline.phonemes.mandarin import read_chinese
from pipeline.phonemes.numbers import expand_chinese

WINDOW_S = 20.0
MARGIN_S = 2.0
GPU_BATCH_SIZE = 8  # windows; on a CPU one after the other is as fast
# It is sure of a sound 50 to 100 ms after its onset. Mean onset error on ../shared/songs/dev and songs_real without
# this: 0.125 and 0.116 s, with it 0.076 and 0.115 s.
ONSET_LEAD_S = 0.08
LANGUAGES = letter_sounds.LANGUAGES | {"en", "zh"}

_ARPABET = dict(
    pair.split(":")
    for pair in (
        "AA:ɑ AE:æ AH:ʌ AO:ɔ AW:aʊ AY:aɪ B:b CH:t͡ʃ D:d DH:ð EH:ɛ ER:ɝ EY:eɪ F:f G:g HH:h IH:ɪ IY:i JH:d͡ʒ K:k L:l M:m "
        "N:n NG:ŋ OW:oʊ OY:ɔɪ P:p R:ɹ S:s SH:ʃ T:t TH:θ UH:ʊ UW:u V:v W:w Y:j Z:z ZH:ʒ"
    ).split()
)
# What a Mandarin initial or part of a final may be heard as by a model that knows no Mandarin.
_INITIALS = {
    "b": "b p", "p": "p", "m": "m", "f": "f", "d": "d t", "t": "t", "n": "n", "l": "l", "g": "g k", "k": "k",
    "h": "h x", "j": "d͡ʒ t͡ʃ", "q": "t͡ʃ", "x": "ʃ s", "zh": "d͡ʒ t͡ʃ z", "ch": "t͡ʃ", "sh": "ʃ", "r": "ɹ ʒ",
    "z": "z d s", "c": "s t", "s": "s", "y": "j i", "w": "w u v",
}  # fmt: skip
_FINALS = {
    "a": "ɑ", "ai": "aɪ", "an": "æ n", "ang": "ɑ ŋ", "ao": "aʊ", "e": "ʌ", "ei": "eɪ", "en": "ʌ n", "eng": "ʌ ŋ",
    "er": "ɑ ɹ", "i": "i", "i0": "ɪ", "ir": "ɝ", "ia": "i ɑ", "iao": "i aʊ", "ie": "i ɛ", "iu": "i oʊ", "ian": "i ɛ n",
    "iang": "i ɑ ŋ", "in": "i n", "ing": "i ŋ", "iong": "i oʊ ŋ", "o": "ɔ", "ong": "oʊ ŋ", "ou": "oʊ", "u": "u",
    "ua": "u ɑ", "uo": "u ɔ", "uai": "u aɪ", "ui": "u eɪ", "uan": "u ɑ n", "un": "u ʌ n", "uang": "u ɑ ŋ", "v": "u",
    "ve": "u ɛ", "van": "u ɛ n", "vn": "u n", "E": "ɛ", "En": "ɛ n",
}  # fmt: skip
_VOWELS = {
    "ɑ": "ɑ ɔ ɒ a", "æ": "æ a ɛ", "ʌ": "ʌ ə ɐ", "ɔ": "ɔ oʊ o", "ɝ": "ɝ ɚ ɜ", "eɪ": "eɪ e ɛ", "i": "i ɪ", "u": "u ʊ",
    "ɹ": "ɹ r ɾ",
}  # fmt: skip
_DIGITS = re.compile(r"[0-9]+")


class PhoneRecogniser:
    """hama's ASR model as an acoustic model; the sum of its blank and its word boundary is the blank.

    Args:
        path: of the weights, with the package's vocabulary beside them; what `resolve_model` returns for "miniature".
        device: "cpu" or "cuda".

    Raises:
        ModelFileError: files that are damaged, or of another version of the package.
    """

    onset_lead_s = ONSET_LEAD_S

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        """Load the weights."""
        self.name, self._device = "hama", device
        self._batch_size = 1 if device == "cpu" else GPU_BATCH_SIZE
        self._model = load_phone_conformer(path).to(device)
        tokens = _read_tokens(path.with_name("g2p_vocab.json"), self._model.proj.out_channels)
        self._ids = {token: index for index, token in enumerate(tokens)}
        self.blank = self._ids["<blank>"]
        known = {symbol for table in (_INITIALS, _VOWELS) for row in table.values() for symbol in row.split()}
        unknown = sorted((known | set(_ARPABET.values()) | letter_sounds.SOUNDS) - set(self._ids))
        if unknown:
            raise ModelFileError(
                f"{path}: no symbol {unknown[0]!r}, expected those of hama 1.7.0; install that version"
            )
        self._spell = lru_cache(maxsize=50_000)(self._read)

    def listen(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log probabilities, float32 [T, V], a frame per 20 ms of 16 kHz mono [L]."""
        peak = float(np.abs(samples).max(initial=0.0))
        log_probs = listen_in_windows(
            samples / max(peak, 1e-6), self._run, window_s=WINDOW_S, margin_s=MARGIN_S, batch_size=self._batch_size
        )
        boundary = self._ids["<wb>"]
        log_probs[:, self.blank] = np.logaddexp(log_probs[:, self.blank], log_probs[:, boundary])
        log_probs[:, boundary] = -np.inf
        return log_probs[: count_frames(len(samples))]

    def spell(self, word: str, language: str) -> Spelling:
        """Return the sounds of a word: phonemes for English and Mandarin, letters for other languages."""
        return self._spell(word, language)

    def _read(self, word: str, language: str) -> Spelling:
        if language == "zh":
            word = _DIGITS.sub(lambda match: expand_chinese(match[0]), word)
        sounds: list[str] = []
        if any(map(is_han, word)):
            sounds = _read_han("".join(filter(is_han, word)))
        elif language in ("en", "zh"):
            sounds = [_ARPABET[symbol.rstrip("012")] for symbol in read_phrase(word)]
        else:
            sounds = letter_sounds.read_letters(word, language)
        return tuple(tuple(self._ids[symbol] for symbol in sound.split()) for sound in sounds)

    def _run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), ieee_float32():
            log_probs = self._model(torch.from_numpy(windows).to(self._device))
        result: NDArray[np.float32] = log_probs.cpu().numpy()
        return result


def _read_tokens(path: Path, num_outputs: int) -> list[str]:
    """Return the token of every output of the network: phonemes, the word boundary and the blank."""
    phonemes = read_config(path).get("decoder")
    if not isinstance(phonemes, list) or len(phonemes) + 2 != num_outputs:
        raise ModelFileError(f"{path}: expected a list 'decoder' of {num_outputs - 2} phonemes, as of hama 1.7.0")
    return [*map(str, phonemes), "<wb>", "<blank>"]


def _read_han(text: str) -> list[str]:
    sounds = []
    for symbol in read_chinese(text)[0]:
        if symbol in _INITIALS:
            sounds.append(_INITIALS[symbol])
        elif symbol[:-1] in _FINALS:  # without its tone; the marks of an absent initial have none
            sounds += [_VOWELS.get(part, part) for part in _FINALS[symbol[:-1]].split()]
    return sounds
