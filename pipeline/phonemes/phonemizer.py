"""Lyrics as ids of the released 330-symbol vocabulary, for English and Mandarin.

Two modes. `reference` does what the reference implementation does, oddities included: for the released weights.
`plain` mends them for models trained from scratch: "I", "a" and "my" are English words and not symbols of another
language, a word keeps its neighbours, digits beside Chinese are read in Chinese, words joined by hyphens stay together,
and no empty symbol appears. The vocabulary knows no third language: in `plain` mode other Latin text is read by the
rules of English, and every other script is reported as unknown.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.lyric_formats.songbloom import clean_line
from pipeline.lyrics.line_text import HAN
from pipeline.phonemes.english import read_phrase, strip_accents
from pipeline.phonemes.mandarin import read_chinese
from pipeline.phonemes.numbers import expand_chinese
from pipeline.phonemes.reference import read_chunk
from shards.schema import SECTION_LABELS
from shards.vocabulary import COMMA_ID, PERIOD_ID, SYMBOLS, TAG_IDS

_IDS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
_SECTION_BREAK = re.compile(r"\s*,\s*(?=\[)|\s,\s*$")
_TAGS = re.compile(rf"\s*\[({'|'.join(SECTION_LABELS)})\](?=\s|$)")
_PIECES = re.compile(rf"(?:{HAN.pattern})+|(?:(?!{HAN.pattern}).)+", re.DOTALL)
_LIGATURES = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "ð": "th", "þ": "th"}
)

Mode = Literal["plain", "reference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PhonemeResult:
    """Ids in the vocabulary, and what has none there (characters, words or symbols, in order)."""

    ids: list[int]
    unknown: tuple[str, ...] = ()


class Phonemizer:
    """Text to ids; the same text always gives the same ids."""

    def __init__(self, mode: Mode = "plain") -> None:
        """Choose between the mended and the faithful reading."""
        if mode not in ("plain", "reference"):
            raise ValueError(f"phoneme mode {mode!r} is unknown; expected 'plain' or 'reference'")
        self.mode = mode

    def line_ids(self, text: str, language: str | None = None) -> PhonemeResult:
        """Return the ids of a lyric line in SongBloom's format: periods between its phrases, none at its end.

        Args:
            text: a line as sung.
            language: ISO 639-1; decides how digits are read where no letter does. Only used in plain mode.
        """
        cleaned = clean_line(text)
        return _read_reference(cleaned) if self.mode == "reference" else _join_phrases(cleaned.split("."), language)

    def lyric_ids(self, text: str, language: str | None = None) -> PhonemeResult:
        """Return the ids of a whole song in SongBloom's format, tags and separators included.

        They equal what shards.vocabulary.compose_lyric_ids makes of the lines, if every line has a sound.
        """
        if self.mode == "reference":
            return _read_reference(text)
        ids: list[int] = []
        unknown: list[str] = []
        for section in _SECTION_BREAK.split(text):
            if ids and section.strip():
                ids.append(COMMA_ID)
            while tag := _TAGS.match(section):
                ids.append(TAG_IDS[tag[1]])
                section = section[tag.end() :]
            phrases = [phrase for part in section.split(".") for phrase in clean_line(part).split(".")]
            read = _join_phrases(phrases, language)
            ids += read.ids
            unknown += read.unknown
        return PhonemeResult(ids=ids, unknown=tuple(unknown))


def _join_phrases(phrases: Iterable[str], language: str | None) -> PhonemeResult:
    ids: list[int] = []
    unknown: list[str] = []
    for phrase in phrases:
        symbols, missed = _read_plain(phrase, language)
        if ids and symbols:
            ids.append(PERIOD_ID)
        ids += [_IDS[symbol] for symbol in symbols]
        unknown += missed
    return PhonemeResult(ids=ids, unknown=tuple(unknown))


def _read_plain(phrase: str, language: str | None) -> tuple[list[str], list[str]]:
    """Return the symbols of a phrase, and the words that have none."""
    phrase = unicodedata.normalize("NFKC", phrase)
    if language == "zh" or HAN.search(phrase):
        phrase = re.sub("[0-9]+", lambda digits: expand_chinese(digits[0]), phrase)
    symbols: list[str] = []
    unknown: list[str] = []
    for piece in _PIECES.findall(phrase):
        if HAN.match(piece):
            found, missed = read_chinese(piece)
        else:
            piece = piece.lower().translate(_LIGATURES)
            found, missed = read_phrase(piece), _find_unread(piece)
        symbols += found
        unknown += missed
    return symbols, unknown


def _find_unread(piece: str) -> list[str]:
    """Words of other scripts, which read_phrase does not read."""
    return [word for word in re.findall(r"[^\W_]+", piece) if re.search(r"[^a-z0-9]", strip_accents(word))]


def _read_reference(text: str) -> PhonemeResult:
    ids: list[int] = []
    unknown: list[str] = []
    for chunk in text.split(" "):
        try:
            symbols = read_chunk(chunk)
        except ValueError:  # a character on which the reference itself stops
            symbols = [chunk]
        ids += [_IDS[symbol] for symbol in symbols if symbol in _IDS]
        unknown += [symbol for symbol in symbols if symbol not in _IDS]
    return PhonemeResult(ids=ids, unknown=tuple(unknown))
