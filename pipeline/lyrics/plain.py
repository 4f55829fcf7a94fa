"""The short way for lines that no rule of the reader can match: most lines of most files.

A line is plain if it has letters, single blanks and sentence marks only, and none of the words that a rule looks for.
The answer errs to "no": such a line only takes the long way.
"""

import re
import unicodedata
from itertools import product

from pipeline.lyrics.headers import ALL_NAMES, BARE_NAMES, NUMBER_WORDS, ORDER_WORDS, SOLO_ENDS
from pipeline.lyrics.line_text import HAN
from pipeline.lyrics.metadata import ROLE_WORDS

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_OTHER = (
    "\u0386-\u03ff\u0400-\u052f\u05d0-\u05ea\u0621-\u064a\u066e-\u06d3\u0e01-\u0e4e\u3041-\u3096\u30a1-\u30fa\u30fc"
)
_LETTER = f"[{_LATIN}{_OTHER}{HAN.pattern[1:-1]}\uac00-\ud7a3]"
_FORM = re.compile(rf"{_LETTER}++(?:(?:['’-]|[,.!?]*+['’]? ['’]?){_LETTER}++)*+['’]?[,.!?]*+")
_ASCII_FORM = re.compile(r"[A-Za-z]++(?:(?:['-]|[,.!?]*+'? '?)[A-Za-z]++)*+'?[,.!?]*+")
_LATIN_LETTER = re.compile("[a-z]")
_OTHER_LETTER = re.compile("[\u0370-\u1cff\u1f00-\uffff]")
_EAST_ASIAN = re.compile(f"[{HAN.pattern[1:-1]}\u3041-\u30ff\uac00-\ud7a3]")
_CHINESE_SIGNS = re.compile(  # of credits, rights, providers, repeats; headers are looked up whole
    "[词詞权權版翻作谱譜编編制製监監混母原伴拼授使转许提纯暂暫歌音静第重反两]"
    "(?:(?<=[词詞权權版翻])|(?<=[作谱譜编編])曲|(?<=[制製])作|(?<=[监監])[制製]|(?<=混)音|(?<=母)[带帶]|(?<=原)唱|(?<=伴)奏|(?<=拼)音|"
    "(?<=[授使])[权權用]|(?<=转)载|(?<=许)可|(?<=提)供|(?<=纯)音乐|(?<=[暂暫])[无無]|(?<=歌)曲|(?<=音)乐|(?<=静)听|(?<=第).[段节節]|"
    "(?<=重)[复複唱]|(?<=反)[复覆]|(?<=两)[次遍])"
)
_MARKS = str.maketrans({"-": " ", "'": " ", "’": " ", ",": "", ".": "", "!": "", "?": ""})
_CHORDS = frozenset(
    "".join(parts).lower()
    for parts in product("ABCDEFG", ("", "b"), ("", "m", "min", "maj", "dim", "aug", "sus", "add"))
)
_ANYWHERE = frozenset(
    "lyrics lyric copyright copyrighted rights commercial permission unauthorized unauthorised courtesy feat ft also "
    "tickets musixmatch lyricfind azlyrics metrolyrics songmeanings gracenote petitlyrics kkbox utamap genius repeat "
    "repeats repeated rpt repite repetir répéter répète wiederholen wiederholung wdh reprise embed".split()
)
_FIRST = frozenset(
    "share submit get read more sign how english chinese romanized romanised romanization romanisation romaji pinyin "
    "add save report correct request print edit copy rate view download translate song songtext liedtext testo letra "
    "letras paroles advertisement see show log login uploaded submitted synced subbed lrc posted timed thanks".split()
)
_MEANT_ASIDES = frozenset(  # who sings, how often
    "both all together male female boy boys girl girls man woman men women him her he she group choir duet solo "
    "everyone rap twice thrice bis ter zweimal dreimal again".split()
)
_ENDS = (*SOLO_ENDS, "embed")
_MAYBE_NAMED = ALL_NAMES | frozenset(
    "pre post middle fade music spoken dance zwischen all above previous bis ter twice thrice zweimal dreimal".split()
)


def is_plain(text: str) -> bool:
    """Whether a stripped line is sung as it stands, whatever rules there are; False where that takes a closer look."""
    is_ascii = text.isascii()
    if not (_ASCII_FORM if is_ascii else _FORM).fullmatch(text):
        return False
    lower = text.lower()
    words = lower.translate(_MARKS).split()
    first = words[0]
    last = words[-1]
    if first in _FIRST or not _ANYWHERE.isdisjoint(words):
        return False
    if last == "again" and not _MAYBE_NAMED.isdisjoint(words):
        return False
    if first in ROLE_WORDS and ("by" in words or "at" in words):
        return False
    if first in _CHORDS and (len(words) == 1 or words[1] in _CHORDS):
        return False
    compact = "".join(words)
    if is_ascii and first not in ORDER_WORDS and last not in NUMBER_WORDS:  # nearly all lines
        return compact not in BARE_NAMES and not compact.endswith(_ENDS) and not first.startswith("translation")
    if not is_ascii:
        if _OTHER_LETTER.search(compact) and _LATIN_LETTER.search(compact):
            return False  # headers in two languages
        if _EAST_ASIAN.search(compact):
            if _CHINESE_SIGNS.search(compact):
                return False
        else:
            parts = unicodedata.normalize("NFKD", compact.casefold())
            compact = "".join(char for char in parts if not "\u0300" <= char <= "\u036f")
            compact = unicodedata.normalize("NFC", compact)
    if not is_ascii and (first in ORDER_WORDS or last in NUMBER_WORDS or last == "again"):
        return False
    if first in ORDER_WORDS or last in NUMBER_WORDS:  # "the final chorus", "verse two"
        middles = [words[a:b] for a in range(3) for b in (len(words), len(words) - 1)]
        if any("".join(middle) in BARE_NAMES for middle in middles) or (
            last in NUMBER_WORDS and "".join(words[:-1]).endswith(_ENDS)
        ):
            return False
    return compact not in BARE_NAMES and not compact.endswith(_ENDS) and not first.startswith("translation")


def split_aside(text: str) -> tuple[str, str] | None:
    """Split "plain words (plain ad-lib)"; None for anything else, and for parentheses that may mean more."""
    head, gap, aside = text.partition(" (")
    if not gap or not aside.endswith(")") or not text.isascii() or head[-1:] in (" ", ",", "."):
        return None
    aside = aside[:-1]
    if not is_plain(head) or not is_plain(aside) or not _MEANT_ASIDES.isdisjoint(aside.lower().split()):
        return None
    return (head, aside) if head.split(None, 1)[0].lower() not in ROLE_WORDS else None
