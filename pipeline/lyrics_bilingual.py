"""Lines that say a sung line once more for readers: translations, pinyin, romaji.

Chinese and Japanese lyric sites export them merged into the lyrics: with the same stamp as the sung line, or line by
line. They are not sung, and they would double what the song is measured against. Taken out only where the whole file
shows the pattern, so that a song in two languages keeps its lines.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rapidfuzz.fuzz import ratio

from pipeline.lyrics_repeats import Token
from pipeline.lyrics_text import HAN

MIN_PAIRS = 3  # lines with one stamp and two scripts; two can be a duet
MIN_PAIRED_SHARE = 0.5  # of the stamps: credits and interjections are not translated
MIN_ALTERNATING_PAIRS = 6  # without stamps the order alone speaks
MIN_ALTERNATING_SHARE = 0.9
MIN_PINYIN_SIMILARITY = 85  # percent of the letters; people misspell pinyin, other lines stay under 50
MIN_ROMAJI_SHARE = 0.8  # of the Latin lines of the pairs

_SCRIPTS = (
    ("kana", re.compile("[\u3040-\u30ff]")),
    ("hangul", re.compile("[\uac00-\ud7a3]")),
    ("han", HAN),
    ("cyrillic", re.compile("[\u0400-\u04ff]")),
    ("latin", re.compile("[A-Za-z\u00c0-\u024f]")),
)
_SCRIPT_OF_LANGUAGE = {"zh": "han", "yue": "han", "ja": "kana", "ko": "hangul", "ru": "cyrillic", "uk": "cyrillic"}
_LATIN_LANGUAGES = frozenset("en es fr de it pt nl pl sv da no fi tr vi id cs ro hu".split())
_ROMAJI = re.compile(
    r"(?:(?:[kstpcgzdbhj](?=[kstpcgzdbhj])|)(?:[kgsztdnhfbpmrwj]?y?|sh|ch|ts|ky)[aeiouâêîôû]|n|m(?=[bp])|[\s'~-])+"
)


def find_translations(tokens: Sequence[Token], language: str | None = None) -> set[int]:
    """Return the indices of the lines that repeat a sung line in another script.

    Args:
        tokens: of the whole song in the order of the file; those without text are left alone.
        language: ISO 639-1 of the singing, if known; without it the first line of a pair is the sung one, unless it is
            a romanisation of the other.
    """
    lyrics = [index for index, token in enumerate(tokens) if token.is_lyric]
    pinyin = {
        latin
        for pair in zip(lyrics, lyrics[1:], strict=False)
        for latin, other in (pair, pair[::-1])
        if _is_pinyin(tokens[latin].text, tokens[other].text)
    }
    rest = [index for index in lyrics if index not in pinyin]
    stamped = [[index for index in group if index not in pinyin] for group in _group_by_stamp(tokens, lyrics)]
    groups = stamped or _group_alternating(tokens, rest)
    sung = _choose_script(tokens, groups, language)
    read = {index for group in groups for index in group if sung and _script(tokens[index].text) != sung}
    return pinyin | read


def _group_by_stamp(tokens: Sequence[Token], lyrics: Sequence[int]) -> list[list[int]]:
    """Groups of lines with one stamp and different scripts, if the file has them throughout."""
    groups = [list(group) for _, group in groupby(lyrics, key=lambda index: tokens[index].times_s or index)]
    paired = [group for group in groups if len({_script(tokens[index].text) for index in group} - {""}) > 1]
    return paired if len(paired) >= MIN_PAIRS and len(paired) >= MIN_PAIRED_SHARE * len(groups) else []


def _group_alternating(tokens: Sequence[Token], lyrics: Sequence[int]) -> list[list[int]]:
    """Pairs of lines without stamps, if the scripts alternate through nearly all of the file."""
    if any(tokens[index].times_s for index in lyrics):
        return []
    scripts = [_script(tokens[index].text) for index in lyrics]
    pairs = [(scripts[k], scripts[k + 1]) for k in range(0, len(scripts) - 1, 2)]
    if not pairs:
        return []
    kind, count = Counter(pairs).most_common(1)[0]
    if kind[0] == kind[1] or "" in kind or count < MIN_ALTERNATING_SHARE * len(pairs):
        return []
    groups = [[lyrics[2 * k], lyrics[2 * k + 1]] for k, pair in enumerate(pairs) if pair == kind]
    num_different = len({tuple(tokens[index].text for index in group) for group in groups})  # a hook repeats, too
    return groups if num_different >= MIN_ALTERNATING_PAIRS else []


def _choose_script(tokens: Sequence[Token], groups: Sequence[Sequence[int]], language: str | None) -> str:
    """Return the script of the sung lines; empty if there are no groups or the language has none of their scripts."""
    found = {_script(tokens[index].text) for group in groups for index in group}
    if language is not None:
        named = _SCRIPT_OF_LANGUAGE.get(language, "latin" if language in _LATIN_LANGUAGES else "")
        return named if named in found else ""
    latin = [tokens[index].text for group in groups for index in group if _script(tokens[index].text) == "latin"]
    if "kana" in found and sum(map(_is_romaji, latin)) >= MIN_ROMAJI_SHARE * max(len(latin), 1):
        return "kana"
    firsts = Counter(_script(tokens[group[0]].text) for group in groups if group)
    return firsts.most_common(1)[0][0] if firsts else ""


def _script(text: str) -> str:
    """Name the script of a line: kana or hangul if there is any, else that of most letters."""
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
    if counts["kana"] or counts["hangul"]:
        return "kana" if counts["kana"] >= counts["hangul"] else "hangul"
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else ""


def _is_pinyin(latin: str, han: str) -> bool:
    """Whether one line spells the other in pinyin, with or without tones."""
    if _script(latin) != "latin" or _script(han) != "han":
        return False
    from pypinyin import lazy_pinyin  # loads its tables; only bilingual files pay for it

    spelled = "".join(lazy_pinyin("".join(HAN.findall(han))))
    return len(spelled) > 3 and ratio(_letters(latin), spelled) >= MIN_PINYIN_SIMILARITY


def _is_romaji(text: str) -> bool:
    folded = unicodedata.normalize("NFKD", re.sub(r"[^\w\s'~-]", " ", text.casefold()))
    return _ROMAJI.fullmatch("".join(char for char in folded if not unicodedata.combining(char))) is not None


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.casefold().replace("ü", "v"))
    return "".join(char for char in folded if "a" <= char <= "z")
