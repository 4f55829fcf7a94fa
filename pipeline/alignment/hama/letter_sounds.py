"""What the letters of a word may sound like, for languages in Latin script: loose sets of IPA, not a pronunciation.

Enough to place a word that is known to be sung: its sounds only have to come in this order. Letters stand for all
sounds that they commonly have; French and German have rules for groups of letters besides.
"""

import re
import unicodedata
from functools import cache

# Languages whose letters sound roughly as below; measured are es, fr and de (figures in pipeline/README.md).
LANGUAGES = frozenset("ca da de es fi fr gl id it ms nl no pt ro sv sw tl".split())
_SILENT_H = frozenset("ca es fr gl it pt".split())
_LETTERS = {
    "a": "ɑ æ a ʌ", "b": "b", "c": "k s t͡ʃ", "d": "d", "e": "ɛ e ə eɪ ʌ", "f": "f", "g": "g ʒ d͡ʒ h", "h": "h",
    "i": "i ɪ", "j": "j ʒ h", "k": "k", "l": "l", "m": "m", "n": "n ŋ", "o": "o oʊ ɔ u", "p": "p", "q": "k",
    "r": "ɹ h d", "s": "s z ʃ", "t": "t", "u": "u ʊ y w", "v": "v f b", "w": "w v", "x": "k s", "y": "j i", "z": "z s",
}  # fmt: skip
_ALONE = "(?![aeiouyn])"  # a vowel and n before one of these are two sounds, else a nasal vowel
# Group of letters (a regular expression) and its sounds, divided by "+"; the first that fits is taken.
_GROUPS = {
    "fr": (
        ("eaux?|aux?", "o oʊ ɔ"), ("oin", "w+æ ɛ ɑ"), ("ou", "u ʊ w"), ("oi", "w+ɑ a"), ("œu|eu", "ə ɝ ʌ u ʊ"),
        ("ain", "æ ɛ ʌ"), ("ai|ei", "ɛ e eɪ æ"), ("ch", "ʃ"), ("gn", "n ɲ"), ("qu", "k"), ("ph", "f"),
        ("ill", "i ɪ j"), ("(?<=.)ent$", ""), (f"an{_ALONE}|am(?=[bp])", "ɑ ɔ ʌ æ oʊ"),
        (f"en{_ALONE}|em(?=[bp])", "ɑ ɔ ʌ æ ɛ"), (f"on{_ALONE}|om(?=[bp])", "ɔ oʊ o"), (f"[iu]n{_ALONE}", "æ ɛ ʌ"),
        ("c(?=[eiy])", "s"), ("c", "k g"), ("g(?=[eiy])", "ʒ"), ("g", "g"), ("j", "ʒ"),
        ("(?<=..)(?:es|[estxdpz])$", ""),
    ),
    "de": (
        ("tsch", "t͡ʃ"), ("sch", "ʃ"), ("ch", "h k ʃ g"), ("ei|ai", "aɪ"), ("ie", "i ɪ"), ("eu|äu", "ɔɪ"), ("au", "aʊ"),
        ("z", "t+s"), ("sp", "ʃ+p"), ("ck", "k"), ("v", "f v"),
    ),
}  # fmt: skip
_KEPT = {"fr": "œé", "de": "ä"}  # letters whose accent counts: a final é is not silent
SOUNDS = frozenset(
    sound
    for row in (*_LETTERS.values(), *(sounds for groups in _GROUPS.values() for _, sounds in groups))
    for sound in row.replace("+", " ").split()
)


def read_letters(word: str, language: str) -> list[str]:
    """Return the sounds of a display word: each a string of the IPA symbols, divided by spaces, that it may be."""
    letters = "".join(char for char in unicodedata.normalize("NFC", word.casefold()) if char.isalpha())
    kept = _KEPT.get(language, "")
    plain = "".join(char if char in kept else unicodedata.normalize("NFD", char)[0] for char in letters)
    groups = _GROUPS.get(language, ())
    sounds: list[str] = []
    for match in _pattern(language).finditer(plain):
        if match.lastindex is None:
            letter = unicodedata.normalize("NFD", match[0])[0]
            is_silent = letter == "h" and language in _SILENT_H
            sounds += [_LETTERS[letter]] if letter in _LETTERS and not is_silent else []
        else:
            sounds += [sound for sound in groups[match.lastindex - 1][1].split("+") if sound]
    return sounds


@cache
def _pattern(language: str) -> re.Pattern[str]:
    """Return a pattern with a capturing group per rule; letters that no rule takes match outside of any group."""
    return re.compile("|".join([*(f"({group})" for group, _ in _GROUPS.get(language, ())), "."]))
