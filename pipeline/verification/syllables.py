"""How many syllables a word is sung on, from its spelling."""

import re
import unicodedata

from pipeline.lyrics.sounds import is_han

_MARKS = ".,!?;:'\"()"
_SILENT_E = ("en", "fr")
_VOWELS = re.compile("[aeiouyæœø]+")


def count_syllables(word: str, language: str) -> int:
    """Return the number of vowel groups of a word in Latin letters plus its Han characters; at least 1.

    Where `language` (ISO 639-1) is English or French, a silent final e does not count. Other scripts count as one
    syllable.
    """
    letters = [c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c)]
    spelling = "".join(letters).strip(_MARKS)
    vowels = len(_VOWELS.findall(spelling))
    is_silent = language in _SILENT_E and word.casefold().strip(_MARKS).endswith("e")  # not é
    if vowels > 1 and is_silent and not spelling.endswith("le"):
        vowels -= 1
    return max(vowels + sum(map(is_han, spelling)), 1)
