"""What a word sounds like, by its letters: Han characters apart, and a key that spellings share."""

import functools
import unicodedata

_HAN_FIRST, _HAN_LAST = "\u3400", "\u9fff"


def is_han(character: str) -> bool:
    """Whether a character is a Chinese ideograph of the basic planes."""
    return _HAN_FIRST <= character <= _HAN_LAST


@functools.lru_cache(maxsize=100_000)
def sound_key(word: str) -> str:
    """Return a spelling in which words that sound alike look alike: toneless pinyin for Han, else plain letters."""
    key = []
    for char in unicodedata.normalize("NFKD", word.casefold()):
        if is_han(char):
            from pypinyin import Style, lazy_pinyin  # its dictionary takes a second to load

            key += lazy_pinyin(char, style=Style.NORMAL)
        elif char.isalnum():
            key.append(char)
    return "".join(key)
