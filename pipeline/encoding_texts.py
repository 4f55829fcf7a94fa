"""Made texts of eight lines in many languages and encodings, from the data of other packages.

From translations of Django (whole sentences; one half of them makes the table of `pipeline.lyrics.letter_costs`, files
come from the other) and from wordfreq's words (drawn as often as they are used).
"""

import gettext
import importlib
import importlib.util
import itertools
import random
import re
import unicodedata
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.lyrics.encoding import clean_text

NUM_LINES = 8
NUM_WORDS = 20_000  # the commonest of a language
MAX_TRIES = 40  # for each file that is wanted: texts without a letter beyond ASCII tell nothing
SOURCES = ("translations", "words")
WORDS_PACKAGE = "wordfreq"

_DJANGO_NAMES = {"no": "nb", "zh": "zh_Hans", "zh-hant": "zh_Hant", "sr-latn": "sr_Latn"}
_WORDFREQ_NAMES = {"no": "nb", "hr": "sh", "bs": "sh", "sr-latn": "sh"}
CEDILLAS = str.maketrans("șțȘȚ", "şţŞŢ")  # Romanian before its own letters had codes
_TONES = frozenset("\u0300\u0301\u0303\u0309\u0323")  # which Windows-1258 writes after their letters
_FILLERS = re.compile(r"%\(\w+\)[sdr]|%[sd]|\{\w*\}|<[^<>]*>|&\w+;")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u4e00-\u9fff]")


class SourceMissingError(Exception):
    """A package that texts are taken from is not installed."""


@cache
def read_translations(language: str, *, for_table: bool) -> list[str]:
    """Return the lines of Django's translations into a language (its messages for "en"), one half of them."""
    spec = importlib.util.find_spec("django")
    if spec is None or spec.origin is None:
        raise SourceMissingError("django is not installed")
    name = "fr" if language == "en" else _DJANGO_NAMES.get(language, language)
    lines: dict[str, None] = {}
    for path in sorted(Path(spec.origin).parent.glob(f"**/locale/{name}/LC_MESSAGES/django.mo")):
        with path.open("rb") as file:
            catalog: dict[Any, str] = vars(gettext.GNUTranslations(file))["_catalog"]
        for key, message in catalog.items():
            source = key[0] if isinstance(key, tuple) else key
            text = source if language == "en" else message
            if source and (language == "en" or text != source):
                lines |= dict.fromkeys(" ".join(_FILLERS.sub(" ", line).split()) for line in text.split("\n"))
    kept = [line for line in lines if len(line) > 1 and any(map(str.isalpha, line))]
    return [line for line in kept if (zlib.crc32(line.encode()) % 2 == 0) == for_table]


@cache
def read_words(language: str) -> tuple[list[str], list[float]]:
    """Return wordfreq's commonest words of a language and the running sum of their shares; empty for others."""
    if importlib.util.find_spec(WORDS_PACKAGE) is None:
        raise SourceMissingError("wordfreq is not installed")
    wordfreq: Any = importlib.import_module(WORDS_PACKAGE)  # no part of any environment of ours
    name = _WORDFREQ_NAMES.get(language, language)
    if name not in wordfreq.available_languages() or language == "sr":  # which it has in Latin letters
        return [], []
    shares = wordfreq.get_frequency_dict(name, wordlist="best")
    words = sorted((word for word in shares if word.isalpha()), key=lambda word: -shares[word])[:NUM_WORDS]
    return words, list(itertools.accumulate(shares[word] for word in words))


def _make_text(source: str, language: str, rng: random.Random) -> str:
    """Return eight lines; empty where the source has none in this language."""
    if source == "translations":
        lines = read_translations(language, for_table=False)
        return "\n".join(_cut(rng.choice(lines), rng) for _ in range(NUM_LINES)) if lines else ""
    words, shares = read_words(language)
    if not words:
        return ""
    gap = "" if language in ("ja", "zh") else " "
    made = (gap.join(rng.choices(words, cum_weights=shares, k=rng.randint(4, 7))) for _ in range(NUM_LINES))
    return "\n".join(line[0].upper() + line[1:] for line in made)


def _cut(line: str, rng: random.Random) -> str:
    """Return as much of a sentence as a lyric line holds."""
    if _UNSPACED.search(line):
        size = rng.randint(6, 16)
        start = rng.randrange(max(1, len(line) - size + 1))
        return re.sub(r"^\W+", "", line[start : start + size])
    words, size = line.split(), rng.randint(4, 8)
    start = rng.randrange(max(1, len(words) - size + 1))
    return " ".join(words[start : start + size])


def encode(text: str, encoding: str) -> bytes:
    """Encode as programs of the time did; what the encoding has no code for is left out."""
    if encoding == "utf_16_be_sig":
        return b"\xfe\xff" + text.encode("utf_16_be")
    if encoding == "cp1258":
        text = "".join(map(_split_tone, text))
    return text.encode(encoding, "ignore")


def _split_tone(char: str) -> str:
    if len(char.encode("cp1258", "ignore")) == 1:
        return char
    parts = unicodedata.normalize("NFD", char)
    tones = "".join(part for part in parts if part in _TONES)
    return unicodedata.normalize("NFC", "".join(part for part in parts if part not in _TONES)) + tones


def make_files(encoding: str, language: str, source: str, num_files: int) -> Iterator[tuple[str, bytes]]:
    """Yield texts and their bytes, the same ones every time; fewer where a source has few that are not ASCII."""
    rng = random.Random(f"{encoding} {language} {source}")
    made = 0
    for _ in range(num_files * MAX_TRIES):
        text = unicodedata.normalize("NFC", _make_text(source, language, rng)).translate(CEDILLAS)
        data = encode(text, encoding) if text else b""
        kept = data.decode(encoding.removesuffix("_be_sig")) if data else ""
        if not kept.isascii():
            yield clean_text(kept), data
            made += 1
        if made == num_files or not text:
            return
