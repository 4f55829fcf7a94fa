"""Encodings from before UTF-8: which of them makes words of the bytes of a text.

A reading is scored by what a language would write: letters of one alphabet, capitals where words begin, kana in
Japanese, blanks between Korean words, Thai vowels on consonants. The numbers are ours: what is right scores 0.9 to 1 on
lyrics of two lines and more, what is wrong rarely more than 0.5.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

MIN_SCORE = 0.75  # of 1; below it no reading is a text
MIN_LEAD = 0.05  # of the best reading over another: closer ones are equally good
_HINT_BONUS = 0.3  # for the language that a manifest names
_MIN_KANA_SHARE = 0.2  # of the characters beyond ASCII: Japanese lyrics have a half and more, Chinese have none
_MIN_HANGUL, _MIN_COMMON_HANGUL_SHARE = 4, 0.9
_MAX_SYLLABLES_PER_WORD = 6.0  # Korean words have 2 to 4; Chinese, read as Korean, has a line of them
_MIN_LETTERS, _MIN_LETTER_SHARE = 4, 0.2  # of another script; fewer are a sign of a Western text, misread
_COMMON_SHARE = 0.5  # of the letters that a language's ten commonest make up; 0.6 and more in Russian and Greek

# Lower case; what is written in several languages' codecs is tried in each.
_LATIN = {
    "en": "éèêëïñçáàâäóöôüí",
    "fr": "àâæçéèêëîïôœùûüÿ",
    "es": "áéíñóúüªº",
    "pt": "ãõáâàçéêíóôúüªº",
    "it": "àèéìíîòóùú",
    "de": "äöüßé",
    "nl": "éèëïóöüáàêí",
    "ca": "àçèéíïòóúü",
    "da": "æøåéó",
    "no": "æøåéòóô",
    "sv": "åäöéàü",
    "fi": "åäöšž",
    "is": "áðéíóúýþæö",
    "ga": "áéíóú",
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "hu": "áéíóöőúüű",
    "ro": "ăâîşţ",
    "hr": "čćđšž",
    "tr": "çğıöşüâîû",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "et": "äõöüšž",
}
_COMMON = {  # of the first of a codec's languages: script, and the commonest letters
    "ru": ("CYRILLIC", "оеаинтсрвл"),
    "el": ("GREEK", "αοιετσνηρπςάίόέή"),
    "he": ("HEBREW", "יוהלאמרתבש"),
    "ar": ("ARABIC", "اليمونرتبةدع"),
    "th": ("THAI", "านรอกเงยมลวทสตดป่้ีัิ"),
}
_CODECS = {  # in the order in which equal readings are preferred
    "cp1252": ("en", "fr", "es", "pt", "it", "de", "nl", "ca", "da", "no", "sv", "fi", "is", "ga"),
    "cp1250": ("pl", "cs", "sk", "hu", "ro", "hr", "de"),
    "cp1254": ("tr",),
    "cp1257": ("lt", "lv", "et"),
    "iso8859_2": ("pl", "cs", "sk", "hu", "ro", "hr"),
    "mac_roman": ("en", "fr", "es", "pt", "it", "de", "nl", "ca", "da", "no", "sv"),
    "cp850": ("en", "fr", "es", "pt", "it", "de", "nl", "ca", "da", "no", "sv"),
    "cp852": ("pl", "cs", "sk", "hu", "hr"),
    "cp1251": ("ru", "uk", "be", "bg", "mk", "sr"),
    "koi8_r": ("ru", "uk", "be", "bg", "mk", "sr"),
    "cp866": ("ru", "uk", "be", "bg", "mk", "sr"),
    "cp1253": ("el",),
    "cp1255": ("he",),
    "cp1256": ("ar",),
    "cp874": ("th",),
}
# Letters, marks and digits that stand together; digits, since misread letters become some.
_WORD = re.compile("[^\\W_]+(?:[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0591-\u05c7\u064b-\u0652]+[^\\W_]*)*")
_HANGUL_WORD = re.compile("[0-9A-Za-z]*[\uac00-\ud7a3\u3131-\u3163]+|[0-9]+[\uac00-\ud7a3]+")
_THAI_WORD = re.compile(
    "(?:[\u0e40-\u0e44]?[\u0e01-\u0e2e][\u0e31\u0e34-\u0e3a\u0e47]?[\u0e48-\u0e4e]?[\u0e30\u0e32\u0e33\u0e45]*[\u0e2f\u0e46]?)+"
)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_LINE_ENDS = {ord(char): None for char in "\r\n\t"}
_MAX_SCRIPTS = 3  # punctuation, the language's, and English
_SIGNS = frozenset("’‘“”„‚«»‹›´–—…•·¿¡°♪\u00a0©®™§")


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the bytes: the codec, what it makes of them, and how much that looks like words, up to 1."""

    encoding: str
    text: str
    score: float


def read_scripts(data: bytes, language: str = "") -> list[Reading]:
    """Return readings in Japanese, Korean, Cyrillic, Greek, Hebrew, Arabic or Thai, best first.

    Args:
        data: no UTF-8, and not empty.
        language: ISO 639-1 where it is known.
    """
    readings = [*_read_japanese(data, language), *_read_korean(data, language)]
    for codec, languages in _CODECS.items():
        if languages[0] in _COMMON and (text := _decode(data, codec)) is not None:
            hint = _HINT_BONUS if language in languages else 0.0
            readings.append(Reading(codec, text, _script_score(text, languages[0]) + hint))
    return _best_first(readings)


def read_latin(data: bytes, language: str = "") -> list[Reading]:
    """Return readings in Latin letters, best first; arguments as for `read_scripts`."""
    readings = []
    for codec, languages in _CODECS.items():
        if languages[0] in _LATIN and (text := _decode(data, codec)) is not None:
            scores = (_latin_score(text, name) + _HINT_BONUS * (name == language) for name in languages)
            readings.append(Reading(codec, text, max(scores)))
    return _best_first(readings)


def read_utf16(data: bytes) -> Reading | None:
    """Return text in UTF-16 without a byte order mark: an ASCII blank or line break, and two scripts at most."""
    if len(data) % 2 or b"\x00" not in data:
        return None
    for codec in ("utf-16-le", "utf-16-be"):
        text = _decode(data, codec)
        if text is None or not text.translate(_LINE_ENDS).isprintable():
            continue
        scripts = Counter(map(_script, text))
        if len(scripts) <= _MAX_SCRIPTS and scripts["COMMON"]:
            return Reading(codec, text, 1.0)
    return None


def _script(char: str) -> str:
    """Return the script of a character as its name has it, one for all that is Japanese and for all punctuation."""
    if char.isascii():
        return "LATIN" if char.isalpha() else "COMMON"
    if not char.isalpha():
        return "COMMON" if unicodedata.category(char)[0] in "PSZ" else unicodedata.name(char, "?").split()[0]
    name = unicodedata.name(char, "?").split()[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name


def _best_first(readings: list[Reading]) -> list[Reading]:
    return sorted((reading for reading in readings if reading.score >= MIN_SCORE), key=lambda reading: -reading.score)


def _decode(data: bytes, codec: str) -> str | None:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    return None if any(unicodedata.category(char) in ("Cc", "Co") for char in text if char > "\x7f") else text


def _read_japanese(data: bytes, language: str) -> Iterator[Reading]:
    for codec in ("cp932", "euc_jp"):
        text = _decode(data, codec)
        chars = [char for char in text or "" if char > "\x7f"]
        if not text or not chars or any("\uff61" <= char <= "\uff9f" for char in chars):  # no text has half-width kana
            continue
        kana = sum("\u3041" <= char <= "\u30fe" for char in chars) / len(chars)
        if kana >= (0 if language == "ja" else _MIN_KANA_SHARE):
            yield Reading(codec, text, 1 + (_HINT_BONUS if language == "ja" else 0))


def _read_korean(data: bytes, language: str) -> Iterator[Reading]:
    text = _decode(data, "cp949")
    words = [word for word in _WORD.findall(text or "") if not word.isascii()]
    hangul = "".join(char for word in words for char in word if char > "\x7f")
    if not text or language == "zh" or len(hangul) < _MIN_HANGUL:
        return
    is_pure = all(_HANGUL_WORD.fullmatch(word) for word in words)  # with nothing Western in a word
    num_common = sum(_is_common_hangul(char) for char in hangul)
    is_spaced = len(hangul) <= _MAX_SYLLABLES_PER_WORD * len(words)
    if is_pure and num_common >= _MIN_COMMON_HANGUL_SHARE * len(hangul) and (is_spaced or language == "ko"):
        yield Reading("cp949", text, 1 + (_HINT_BONUS if language == "ko" else 0))


def _is_common_hangul(char: str) -> bool:
    """Whether a syllable or letter is among the 2350 that KS X 1001 has."""
    try:
        return len(char.encode("euc_kr")) == 2  # others are spelt in eight bytes
    except UnicodeEncodeError:
        return False


def _script_score(text: str, language: str) -> float:
    """Score a text in a script of its own by its commonest letters, its capitals, and its vowel marks."""
    script, common = _COMMON[language]
    points, num_common, num_letters = 0, 0, 0
    for word in _WORD.findall(text):
        letters = [char for char in word if char > "\x7f"]
        num_letters += len(letters)
        num_common += sum(char.lower() in common for char in letters)
        is_word = len(letters) == len(word) and all(unicodedata.name(char, "").startswith(script) for char in letters)
        if language == "th":
            is_word = is_word and _THAI_WORD.fullmatch(word) is not None
        has_capitals_inside = any(char.isupper() for char in word[1:]) and not word.isupper()
        points += len(letters) if is_word and not has_capitals_inside else -len(letters)
    others = [char for char in _BEYOND_ASCII.findall(_WORD.sub("", text)) if char not in _SIGNS]
    points, num_letters = points - len(others), num_letters + len(others)
    if num_letters < _MIN_LETTERS or num_letters < _MIN_LETTER_SHARE * sum(map(str.isalpha, text)):
        return 0.0
    return points / num_letters * min(1.0, num_common / num_letters / _COMMON_SHARE)


def _latin_score(text: str, language: str) -> float:
    """Score a text by whether its letters beyond ASCII are those of a language, and its signs where signs stand."""
    letters = _LATIN[language]
    points, count = 0, 0
    for found in _BEYOND_ASCII.finditer(text):
        char, place = found[0], found.start()
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        count += 1
        if char.lower() in letters or (char == "İ" and language == "tr"):
            points += -1 if char.isupper() and before.islower() else 1
        elif char == "’" or (char in _SIGNS and not (before.isalpha() and after.isalpha())):
            points += 1
        else:
            points -= 1
    return points / count if count else 0.0
