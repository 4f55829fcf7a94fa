"""Encodings from before UTF-8: which of them makes words of the bytes of a text.

A reading (codec, language) costs what its letters cost beside each other in that language (`letter_costs`);
the cheapest is right. ASCII letters, which all codecs share, tell the language, the others the codec.
"""

import codecs
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from pipeline.lyrics.letter_costs import CYRILLIC, cost_ascii, cost_others, count_ascii, spell, spelt_like

MIN_LEAD = 3.0  # nats of the best reading over one with another text: closer ones are equally good
MAX_MEAN_COST = 10.0  # nats a character beyond ASCII; right readings have 3 to 8, random bytes 12 and more
_FEW = 2.0  # characters more are allowed for: one or two odd ones decide nothing
_MAX_LEAD = 50.0  # nats; readings that are worse by more are not compared to the end
_HINT = 10.0  # nats for the language that a manifest names

_WEST = (
    "en",
    "fr",
    "es",
    "pt",
    "it",
    "de",
    "nl",
    "ca",
    "da",
    "no",
    "sv",
    "fi",
    "is",
    "ga",
    "af",
    "eu",
    "gl",
    "sq",
    "id",
)
_CENTRAL = ("pl", "cs", "sk", "hu", "ro", "hr", "sl", "sq", "de")
_BALTIC = ("lt", "lv", "et")
_CODECS: dict[str, tuple[tuple[str, ...], float]] = {  # languages, and how much rarer it is than others, in nats; other
    # scripts than Latin first: they end a comparison sooner; of equal readings the first is taken
    "cp1251": (CYRILLIC, 0.0),
    "koi8_r": (CYRILLIC, 1.0),
    "koi8_u": (CYRILLIC, 1.0),
    "cp866": (CYRILLIC, 1.0),
    "iso8859_5": (CYRILLIC, 2.0),
    "mac_cyrillic": (CYRILLIC, 2.0),
    "cp855": (CYRILLIC, 3.0),
    "cp1253": (("el",), 0.0),
    "iso8859_7": (("el",), 1.0),
    "mac_greek": (("el",), 2.0),
    "cp737": (("el",), 2.0),
    "cp1255": (("he",), 0.0),
    "iso8859_8": (("he",), 1.0),
    "cp862": (("he",), 2.0),
    "cp1256": (("ar", "fa", "ur"), 0.0),
    "iso8859_6": (("ar",), 1.0),
    "cp720": (("ar",), 2.0),
    "cp874": (("th",), 0.0),
    "cp1258": (("vi",), 0.0),
    "cp932": (("ja",), 0.0),
    "euc_jp": (("ja",), 0.0),
    "cp949": (("ko",), 0.0),
    "johab": (("ko",), 3.0),
    "gb18030": (("zh", "zh-hant"), 0.0),
    "big5hkscs": (("zh-hant",), 0.0),
    "cp1252": (_WEST, 0.0),
    "iso8859_15": (_WEST, 2.0),
    "mac_roman": (_WEST, 2.0),
    "cp850": (_WEST, 2.0),
    "cp1250": (_CENTRAL, 0.0),
    "iso8859_2": (_CENTRAL, 1.0),
    "mac_latin2": (_CENTRAL, 2.0),
    "cp852": (_CENTRAL, 2.0),
    "mac_romanian": (("ro",), 3.0),
    "mac_croatian": (("hr", "sl"), 3.0),
    "cp1257": (_BALTIC, 0.0),
    "iso8859_13": (_BALTIC, 1.0),
    "iso8859_4": (_BALTIC, 2.0),
    "cp775": (_BALTIC, 2.0),
    "cp1254": (("tr",), 0.0),
    "mac_turkish": (("tr",), 2.0),
    "cp857": (("tr",), 2.0),
}
_ESCAPED = (  # seven-bit codecs, and what is in no other text
    ("iso2022_jp_ext", re.compile(rb"\x1b\$[@B(]")),
    ("iso2022_kr", re.compile(rb"\x1b\$\)C")),
    ("hz", re.compile(rb"~\{(?:[!-~]{2}){1,500}~\}")),
)
_LINE_ENDS = frozenset("\r\n\t")
_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})
_MAX_SCRIPTS = 3  # punctuation, the language's, and English
_MIN_USUAL_SHARE = 0.9  # of the characters, in these scripts


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the bytes: the codec, what it makes of them, and what that costs, in nats; least is best."""

    encoding: str
    text: str
    cost: float


def read_legacy(data: bytes, language: str = "") -> list[Reading]:
    """Return the readings of a text that may be one, best first.

    Args:
        data: no UTF-8, and not empty; the first lines are enough, and the last one may be cut.
        language: ISO 639-1 where it is known.
    """
    ascii_pairs: dict[str, dict[str, int]] = {}
    ascii_costs: dict[tuple[str, str], float] = {}
    readings = []
    least = math.inf
    for codec, (languages, rarity) in _CODECS.items():
        text = _decode_start(data, codec)
        spelling = spell(text) if text is not None else None
        if text is None or spelling is None or not spelling.num_others:
            continue
        if spelling.ascii not in ascii_pairs:
            ascii_pairs[spelling.ascii] = count_ascii(spelling.ascii)
        costs = []
        for name in languages:
            key = spelt_like(name), spelling.ascii
            if key not in ascii_costs:
                ascii_costs[key] = cost_ascii(ascii_pairs[spelling.ascii], name)
            hint = _HINT if language and name.split("-")[0] == language else 0.0
            base = ascii_costs[key] + spelling.signs + rarity - hint
            limit = least + _MAX_LEAD - base
            others = cost_others(spelling.pairs, name, limit)
            least = min(least, base + others)
            if others <= limit and others + spelling.signs - hint <= MAX_MEAN_COST * (spelling.num_others + _FEW):
                costs.append(base + others)
        if costs:
            readings.append(Reading(codec, text, min(costs)))
    return sorted(readings, key=lambda reading: reading.cost)


def decode(data: bytes, codec: str) -> str | None:
    """Return what a codec makes of the bytes, composed; None where they are none of its."""
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    return unicodedata.normalize("NFC", text) if codec == "cp1258" else text


def _decode_start(data: bytes, codec: str) -> str | None:
    """Decode as `decode` does what may end within a character."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(data)
    except UnicodeDecodeError:
        return None
    return unicodedata.normalize("NFC", text) if codec == "cp1258" else text


def read_escaped(data: bytes) -> tuple[str, str] | None:
    """Return the codec and text of Japanese, Korean or Chinese in seven bits, which looks like ASCII; else None."""
    if not data.isascii():
        return None
    for codec, sign in _ESCAPED:
        if sign.search(data) and (text := decode(data, codec)) is not None and not text.isascii():
            return codec, text
    return None


def read_utf16(data: bytes) -> tuple[str, str] | None:
    """Return codec and text of UTF-16 without a mark: the byte order with more ASCII blanks and few scripts."""
    if len(data) % 2 or b"\x00" not in data:
        return None
    found: list[tuple[int, str, str]] = []
    for codec in ("utf-16-le", "utf-16-be"):
        text = decode(data, codec)
        if text is None or any(unicodedata.category(char) in _NO_TEXT for char in {*text} - _LINE_ENDS):
            continue
        scripts = Counter(_script(char) for char in text if unicodedata.category(char) != "Cf")
        usual = sum(count for _, count in scripts.most_common(_MAX_SCRIPTS))
        if usual >= _MIN_USUAL_SHARE * len(text) and (blanks := sum(map(text.count, " \n"))):
            found.append((blanks, codec, text))
    return max(found)[1:] if found else None


def _script(char: str) -> str:
    """Return the script of a character as its name has it, one for all that is Japanese and for all punctuation."""
    if char.isascii():
        return "LATIN" if char.isalpha() else "COMMON"
    if not char.isalpha():
        return "COMMON" if unicodedata.category(char)[0] in "PSZ" else unicodedata.name(char, "?").split()[0]
    name = unicodedata.name(char, "?").split()[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name
