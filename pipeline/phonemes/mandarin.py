"""Mandarin as initials and finals with tones: segmentation, readings in context, tone sandhi.

The symbols are those of the released vocabulary: 23 initials, AA, EE or OO before a syllable that begins with a vowel,
and finals with tone 1 to 5 (5 is neutral).
"""

from functools import cache

from pipeline.lyrics.line_text import simplify
from pipeline.phonemes.segments import tag_words
from pipeline.phonemes.tones import apply_sandhi, merge_words

_HUMMED = str.maketrans({"嗯": "恩", "呣": "母"})  # have no vowel in the syllable table
_AFTER_INITIAL = {"iou": "iu", "uei": "ui", "uen": "un"}
_FLAT, _CURLED = frozenset({"z", "c", "s"}), frozenset({"zh", "ch", "sh", "r"})
_ALONE = {  # finals without an initial
    "i": "y i", "ia": "y a", "iao": "y ao", "ie": "y E", "iou": "y ou", "ian": "y En", "in": "y in", "iang": "y ang",
    "ing": "y ing", "iong": "y ong", "u": "w u", "ua": "w a", "uo": "w o", "uai": "w ai", "uei": "w ei", "uan": "w an",
    "uen": "w en", "uang": "w ang", "ueng": "w eng", "v": "y v", "ve": "y ve", "van": "y van", "vn": "y vn",
}  # fmt: skip
_FINALS = frozenset(
    "a ai an ang ao e ei en eng er i ia ian iang iao ie in ing iong iou o ong ou u ua uai uan uang uei uen ueng uo "
    "v van ve vn".split()
)
_TAGS_ALONE = {"过": "ug"}  # of all characters the only one that is read otherwise by its part of speech
_UNUSED_SYLLABLES = frozenset({("f", "iao")})  # of dialect characters; the reference's table lacks them


def read_chinese(text: str) -> tuple[list[str], list[str]]:
    """Return the symbols of a run of Chinese characters, and the characters that have no reading."""
    text = simplify(text).translate(_HUMMED)
    unknown = [char for char in text if not _has_reading(char)]
    return read_simplified("".join(char for char in text if char not in unknown)), unknown


def read_simplified(text: str) -> list[str]:
    """Return the symbols of simplified characters.

    Raises:
        ValueError: a character whose syllable is not in the symbol table.
    """
    text = text.translate(_HUMMED)
    # A character by itself is a word: jieba need not load its 350,000 to say so. The aligner asks for nothing else.
    tagged = [(text, _TAGS_ALONE.get(text, ""))] if len(text) == 1 else merge_words(tag_words(text), find_finals)
    symbols: list[str] = []
    for word, tag in tagged:
        finals = apply_sandhi(word, tag, find_finals(word))
        for char, initial, final in zip(word, find_initials(word), finals, strict=True):
            symbols += _write_syllable(char, initial, final)
    return symbols


def find_finals(word: str) -> list[str]:
    """Finals with tones of a word, one per character, read in the context of the word."""
    from pypinyin import Style, lazy_pinyin  # loads 300 MB of readings; only Chinese songs pay for it

    return lazy_pinyin(word, neutral_tone_with_five=True, style=Style.FINALS_TONE3)


def find_initials(word: str) -> list[str]:
    """Initials of a word, one per character; empty for a syllable that begins with a vowel."""
    from pypinyin import Style, lazy_pinyin

    return lazy_pinyin(word, neutral_tone_with_five=True, style=Style.INITIALS)


@cache
def _has_reading(char: str) -> bool:
    try:
        return bool(_write_syllable(char, find_initials(char)[0], find_finals(char)[0]))
    except ValueError:
        return False


def _write_syllable(char: str, initial: str, final: str) -> list[str]:
    vowel, tone = final[:-1], final[-1:]
    if vowel not in _FINALS or (initial, vowel) in _UNUSED_SYLLABLES:
        raise ValueError(f"{char!r} has no Mandarin syllable in the symbol table; write another character")
    if not initial:
        return ((_ALONE.get(vowel) or f"{vowel[0].upper() * 2} {vowel}") + tone).split()
    vowel = _AFTER_INITIAL.get(vowel, vowel)
    if vowel == "i":
        vowel = "i0" if initial in _FLAT else "ir" if initial in _CURLED else "i"
    return [initial, vowel + tone]
