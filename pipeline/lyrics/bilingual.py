"""Lines that say a sung line once more for readers: translations, and romanisations such as pinyin, romaji, romaja.

Lyric sites export them merged into the lyrics: under the stamp of the sung line or a few milliseconds beside it, line
by line, as a second block with the same stamps, or on the same line behind a slash. They are not sung, and they would
double what the song is measured against. Taken out only where the whole file shows the pattern, so that a song in two
languages keeps its lines.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import fmean
from typing import Literal

from rapidfuzz.fuzz import ratio

from pipeline.lyrics.language import identify_text, scripts_of_language
from pipeline.lyrics.line_text import HAN
from pipeline.lyrics.repeats import Token

MIN_PAIRS = 3  # lines with one stamp and two scripts; two can be a duet
MIN_PAIRED_SHARE = 0.5  # of the stamps: credits and interjections are not translated
MIN_SURE_SHARE = 0.8  # of the stamps with several lines, for the others to be read like them
MIN_ALTERNATING_PAIRS = 6  # without stamps the order alone speaks
MIN_ALTERNATING_SHARE = 0.9
MIN_BLOCK_LINES = 12  # of one stanza, for the next in another script to be taken for its translation
MIN_SLASHED_SHARE = 0.8  # of the lines with a slash that have the commonest order of scripts
MIN_BRACKETED_SHARE = 0.8  # of all lines: in parentheses stand ad-libs, too, and many songs shout in English
MAX_STAMP_GAP_S = 0.05  # stamps of one line; sung lines are ten times as far apart
MIN_PINYIN_SIMILARITY = 85  # percent of the letters; people misspell pinyin, other lines stay under 50
MIN_ROMAJI_SHARE = 0.8  # of the Latin lines of the pairs
MIN_SOUND_SIMILARITY = 50.0  # percent of the consonants of a line and its romanisation; made samples have 60 to 95
MIN_SOUND_LEAD = 15.0  # over the same lines paired wrongly; translations have under 8
MAX_COMPARED_PAIRS = 60
MAX_LATIN_LINES = 2  # of one stamp: a romanisation and a translation

_SCRIPT_RANGES = {
    "kana": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "hangul": "\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f",
    "han": HAN.pattern[1:-1],
    "cyrillic": "\u0400-\u052f",
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    "hebrew": "\u0590-\u05ff",
    "thai": "\u0e00-\u0e7f",
    "lao": "\u0e80-\u0eff",
    "burmese": "\u1000-\u109f",
    "khmer": "\u1780-\u17ff",
    "devanagari": "\u0900-\u097f",
    "bengali": "\u0980-\u09ff",
    "gurmukhi": "\u0a00-\u0a7f",
    "gujarati": "\u0a80-\u0aff",
    "tamil": "\u0b80-\u0bff",
    "telugu": "\u0c00-\u0c7f",
    "kannada": "\u0c80-\u0cff",
    "malayalam": "\u0d00-\u0d7f",
    "sinhala": "\u0d80-\u0dff",
    "tibetan": "\u0f00-\u0fff",
    "georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "armenian": "\u0530-\u058f",
    "ethiopic": "\u1200-\u139f",
}
_RUNS = re.compile("|".join(f"(?P<{name}>[{ranges}]+)" for name, ranges in _SCRIPT_RANGES.items()))
_SEPARATOR = re.compile(r"\s*/\s*|\s*\|\s*")
_BRACKETED = re.compile(r"(?P<sung>[^()]+?)\s*\((?P<read>[^()]+)\)")
_ROMAJI = re.compile(
    r"(?:(?:[kstpcgzdbhj](?=[kstpcgzdbhj])|)(?:[kgsztdnhfbpmrwj]?y?|sh|ch|ts|ky)[aeiouâêîôû]|n|m(?=[bp])|[\s'~-])+"
)
_NAME_FILLERS = frozenset(
    "LETTER SMALL CAPITAL SYLLABLE CHARACTER SIGN VOWEL FINAL SARA FARSI SHORT HARD SOFT INDEPENDENT CONSONANT".split()
)
_SOUND_BY_FIRST_LETTER = frozenset({"greek", "arabic", "hebrew", "thai", "lao", "georgian", "armenian"})
_SOUND_CLASS = str.maketrans("cqgbvfdzjxr", "kkkppptsssl", "aeiouyhw")

Reason = Literal["translation", "romanisation"]


def split_sides(tokens: Sequence[Token]) -> list[Token]:
    """Cut "original / translation" lines into their sides, where the file has them throughout; others stay whole."""
    lyrics = [index for index, token in enumerate(tokens) if token.is_lyric]
    texts = [tokens[index].text for index in lyrics]
    if not any("/" in text or "|" in text or "(" in text for text in texts):
        return list(tokens)
    slashed = {index: parts for index in lyrics if len(parts := _cut_at_slash(tokens[index].text)) > 1}
    kinds = Counter(tuple(script_of(part) for part in parts) for parts in slashed.values())
    common = kinds.most_common(1)[0][1] if kinds else 0
    num_different = len({tokens[index].text for index in slashed})
    is_slashed = num_different >= MIN_PAIRS and common >= MIN_SLASHED_SHARE * len(slashed)
    if not is_slashed or len(slashed) < MIN_PAIRED_SHARE * len(lyrics):
        slashed = {index: parts for index in lyrics if len(parts := _cut_bracket(tokens[index].text)) > 1}
        num_different = len({tokens[index].text for index in slashed})
        if num_different < MIN_PAIRS or len(slashed) < MIN_BRACKETED_SHARE * len(lyrics):
            return list(tokens)
    cut: list[Token] = []
    for index, token in enumerate(tokens):
        parts = slashed.get(index, [])
        cut += [token._replace(text=part, raw=part, side=n, words=()) for n, part in enumerate(parts, 1)] or [token]
    return cut


def _cut_at_slash(text: str) -> list[str]:
    parts = [part for part in _SEPARATOR.split(text) if part] if "/" in text or "|" in text else []
    scripts = [script_of(part) for part in parts]
    return parts if len(set(scripts)) > 1 and "" not in scripts and len(parts) <= 3 else []


def _cut_bracket(text: str) -> list[str]:
    found = _BRACKETED.fullmatch(text) if text.endswith(")") else None
    if found is None:
        return []
    sung, read = script_of(found["sung"]), script_of(found["read"])
    return [found["sung"], found["read"]] if sung and read and sung != read else []


def find_translations(
    tokens: Sequence[Token], language: str | None = None, names: Iterable[str] = ()
) -> dict[int, Reason]:
    """Return the lines that repeat a sung line for readers, by index, and as what.

    Args:
        tokens: of the whole song in the order of the file; those without text are left alone.
        language: ISO 639-1 of the singing, if known.
        names: title and artist, if known: in a script other than Latin they say which one is sung. Without both the
            first line of a pair is the sung one, unless it is a romanisation of the other.
    """
    lyrics = [index for index, token in enumerate(tokens) if token.is_lyric]
    letters = set().union(*(tokens[index].text for index in lyrics))
    if count_scripts(letters) < 2 and not _share_stamps(tokens, lyrics):
        return {}
    scripts = {index: script_of(tokens[index].text) for index in lyrics}
    pinyin = {
        latin
        for pair in (zip(lyrics, lyrics[1:], strict=False) if "han" in scripts.values() else ())
        for latin, other in (pair, pair[::-1])
        if scripts[latin] == "latin" and scripts[other] == "han" and _is_pinyin(tokens[latin].text, tokens[other].text)
    }
    found: dict[int, Reason] = dict.fromkeys(pinyin, "romanisation")
    groups = [[i for i in group if i not in pinyin] for group in _group_by_stamp(tokens, lyrics, scripts)]
    if not groups:
        rest = [index for index in lyrics if index not in pinyin]
        groups = _group_alternating(tokens, rest, scripts) or _group_blocks(tokens, rest, scripts)
    if groups:
        return found | _judge_scripts(tokens, groups, scripts, language, names)
    return found | _judge_columns(tokens, lyrics, scripts, language)


def _share_stamps(tokens: Sequence[Token], lyrics: Sequence[int]) -> bool:
    times = [tokens[index].times_s[0] for index in lyrics if tokens[index].times_s]
    return len({round(time_s / MAX_STAMP_GAP_S) for time_s in times}) <= len(times) - MIN_PAIRS


def _gather_by_stamp(tokens: Sequence[Token], lyrics: Sequence[int]) -> list[list[int]]:
    """Lines with one stamp or nearly one; sides of a line are together, and a line without a stamp stays behind."""
    entries: list[tuple[float, int]] = []
    last_s: tuple[float, ...] = ()
    last_number = -1
    for index in lyrics:
        token = tokens[index]
        if token.side:
            times_s = token.times_s or (1e6 + token.line_number,)
        else:
            times_s = token.times_s or (last_s if last_number + 1 == token.line_number else ())
        entries += [(time_s, index) for time_s in times_s]
        last_s, last_number = times_s, token.line_number
    groups: list[tuple[float, list[int]]] = []
    for time_s, index in sorted(entries):
        if groups and time_s - groups[-1][0] <= MAX_STAMP_GAP_S:
            groups[-1][1].append(index)
        else:
            groups.append((time_s, [index]))
    return [sorted(set(group)) for _, group in groups]


def _group_by_stamp(tokens: Sequence[Token], lyrics: Sequence[int], scripts: dict[int, str]) -> list[list[int]]:
    """Groups of lines with one stamp and different scripts, if the file has them throughout."""
    groups = _gather_by_stamp(tokens, lyrics)
    paired = [group for group in groups if len({scripts[index] for index in group} - {""}) > 1]
    if len(paired) < MIN_PAIRS or len(paired) < MIN_PAIRED_SHARE * len(groups):
        return []
    several = [group for group in groups if len(group) > 1]  # also a hook that is in the language of the translation
    return several if len(paired) >= MIN_SURE_SHARE * len(several) else paired


def _group_alternating(tokens: Sequence[Token], lyrics: Sequence[int], scripts: dict[int, str]) -> list[list[int]]:
    """Pairs (or threes) of lines without stamps, if the scripts alternate through nearly all of the file."""
    if any(tokens[index].times_s for index in lyrics):
        return []
    for size in (2, 3):
        kinds = [tuple(scripts[index] for index in lyrics[k : k + size]) for k in range(0, len(lyrics), size)]
        kinds = kinds if len(lyrics) % size == 0 or size == 2 else kinds[:-1]
        kinds = [kind for kind in kinds if len(kind) == size]
        if not kinds:
            continue
        common, count = Counter(kinds).most_common(1)[0]
        if len(set(common)) < 2 or "" in common or count < MIN_ALTERNATING_SHARE * len(kinds):
            continue
        groups = [lyrics[size * k : size * (k + 1)] for k, kind in enumerate(kinds) if kind == common]
        num_different = len({tuple(tokens[index].text for index in group) for group in groups})  # a hook repeats, too
        if num_different >= MIN_ALTERNATING_PAIRS:
            return [list(group) for group in groups]
    return []


def _group_blocks(tokens: Sequence[Token], lyrics: Sequence[int], scripts: dict[int, str]) -> list[list[int]]:
    """Lines of the same place in blocks without stamps that follow each other, of equal stanzas and different scripts.

    A song may change its language once; so equal stanzas are asked for, several of them, many lines, or a bar between.
    """
    if any(tokens[index].times_s for index in lyrics):
        return []
    for num_blocks in (2, 3):
        size, rest = divmod(len(lyrics), num_blocks)
        if rest or size < MIN_ALTERNATING_PAIRS:
            continue
        blocks = [lyrics[size * k : size * (k + 1)] for k in range(num_blocks)]
        counts = [Counter(scripts[index].replace("kana", "han") for index in block) for block in blocks]
        common = [count.most_common(1)[0] for count in counts]
        stanzas = [list(Counter(tokens[index].stanza for index in block).values()) for block in blocks]
        breaks = [(one[-1], other[0]) for one, other in pairwise(blocks)]
        has_bars = all(any(tokens[k].raw.strip() for k in range(last + 1, first)) for last, first in breaks)
        if (
            len({script for script, _ in common}) > 1
            and all(script and count >= MIN_ALTERNATING_SHARE * size for script, count in common)
            and common[0][0] != common[1][0]
            and all(sizes == stanzas[0] for sizes in stanzas)
            and all(tokens[last].stanza != tokens[first].stanza for last, first in breaks)
            and (len(stanzas[0]) > 1 or size >= MIN_BLOCK_LINES or has_bars)
        ):
            return [list(group) for group in zip(*blocks, strict=True)]
    return []


def _judge_scripts(
    tokens: Sequence[Token],
    groups: Sequence[Sequence[int]],
    scripts: dict[int, str],
    language: str | None,
    names: Iterable[str],
) -> dict[int, Reason]:
    """Name what is not sung in groups of lines in different scripts."""
    found = {scripts[index] for group in groups for index in group}
    romanised = {
        (script, rank)
        for script in found - {"latin", ""}
        for rank in range(MAX_LATIN_LINES)
        if _is_romanised(tokens, groups, scripts, script, rank)
    }
    sung = _choose_script(tokens, groups, scripts, found, {script for script, _ in romanised}, language, names)
    if not sung:
        return {}
    positions = Counter(k for group in groups for k, index in enumerate(group) if scripts[index] == sung)
    usual = positions.most_common(1)[0][0] if positions else 0
    judged: dict[int, Reason] = {}
    for group in groups:
        kept = {index for index in group if scripts[index] == sung}
        if not kept and sung == "kana":  # a Japanese line may have no kana
            kept = {index for index in group if scripts[index] == "han"}
        if not kept:  # a line in another language within the song: what stands where the sung lines stand
            kept = {group[min(usual, len(group) - 1)]}
        latins = [index for index in group if scripts[index] == "latin"]
        spelled = {latins[rank] for script, rank in romanised if rank < len(latins) and _has(group, scripts, script)}
        for index in group:
            if index not in kept:
                judged[index] = "romanisation" if index in spelled else "translation"
    return judged


def _has(group: Sequence[int], scripts: dict[int, str], script: str) -> bool:
    return any(scripts[index] == script for index in group)


def _choose_script(
    tokens: Sequence[Token],
    groups: Sequence[Sequence[int]],
    scripts: dict[int, str],
    found: set[str],
    romanised: set[str],
    language: str | None,
    names: Iterable[str],
) -> str:
    """Return the script of the sung lines; empty if the language has none of their scripts."""
    if language is not None:
        named = [script for script in scripts_of_language(language) if script in found]
        return named[0] if named else ""
    if romanised:
        return "kana" if "kana" in romanised else min(romanised)
    titled = [script for name in names if (script := script_of(name)) in found and script != "latin"]
    if titled:
        return titled[0]
    firsts = Counter(scripts[group[0]] for group in groups if group)
    return firsts.most_common(1)[0][0] if firsts else ""


def _judge_columns(
    tokens: Sequence[Token], lyrics: Sequence[int], scripts: dict[int, str], language: str | None
) -> dict[int, Reason]:
    """Name the second lines of pairs with one stamp and one script, where they are in another language throughout."""
    groups = _gather_by_stamp(tokens, lyrics)
    pairs = [group for group in groups if len(group) == 2 and len({scripts[index] for index in group}) == 1]
    if len(pairs) < MIN_PAIRS or len(pairs) < MIN_PAIRED_SHARE * len(groups):
        return {}
    columns = [[pair[k] for pair in pairs] for k in (0, 1)]
    first, second = (identify_text("\n".join(tokens[index].text for index in column)) for column in columns)
    if not first or not second or first == second or language not in (None, first, second):
        return {}
    return dict.fromkeys(columns[0] if language == second else columns[1], "translation")


@lru_cache(maxsize=50_000)
def _script_of_letter(char: str) -> str:
    run = _RUNS.match(char)
    return run.lastgroup or "" if run else ""


def count_scripts(letters: Iterable[str]) -> int:
    """Return how many scripts letters are of."""
    return len(set(map(_script_of_letter, set(letters))) - {""})


def script_of(text: str) -> str:
    """Name the script of a line: kana or hangul if there is any, else that of most letters; empty without letters."""
    if text.isascii():
        return "latin" if any(char.isalpha() for char in text) else ""
    counts: Counter[str] = Counter()
    for run in _RUNS.finditer(text):
        counts[run.lastgroup or ""] += run.end() - run.start()
    if counts["kana"] or counts["hangul"]:
        return "kana" if counts["kana"] >= counts["hangul"] else "hangul"
    return counts.most_common(1)[0][0] if counts else ""


def _is_romanised(
    tokens: Sequence[Token], groups: Sequence[Sequence[int]], scripts: dict[int, str], script: str, rank: int
) -> bool:
    """Whether the first (second, ...) Latin lines of the groups spell the lines of a script.

    They do if they sound like their partners, and more so than like the lines of other groups.
    """
    pairs = []
    for group in groups:
        latins = [tokens[index].text for index in group if scripts[index] == "latin"]
        others = [tokens[index].text for index in group if scripts[index] == script]
        pairs += [(latins[rank], other) for other in others[:1] if rank < len(latins)]
    pairs = list(dict.fromkeys(pairs))[:MAX_COMPARED_PAIRS]
    if len(pairs) < MIN_PAIRS:
        return False
    if script == "kana" and sum(_is_romaji(latin) for latin, _ in pairs) >= MIN_ROMAJI_SHARE * len(pairs):
        return True
    latins = [_consonants(latin) for latin, _ in pairs]
    others = [_consonants(_spell(other, script)) for _, other in pairs]
    matched = fmean(ratio(a, b) for a, b in zip(latins, others, strict=True))
    shifted = [fmean(map(ratio, latins, others[n:] + others[:n])) for n in (1, 2)]
    return matched >= MIN_SOUND_SIMILARITY and matched - max(shifted) >= MIN_SOUND_LEAD


def _spell(text: str, script: str) -> str:
    """Write a line in Latin letters, roughly: Han by pinyin, others by the Unicode names of their letters."""
    if script == "han":
        return _pinyin(text)
    return "".join(_spell_letter(char, script) for char in text)


@lru_cache(maxsize=20_000)
def _spell_letter(char: str, script: str) -> str:
    if not (char.isalpha() or unicodedata.category(char)[0] == "M"):
        return " "
    words = [word for word in unicodedata.name(char, "").split()[1:] if word not in _NAME_FILLERS]
    name = words[0].lower() if words else ""
    if script in _SOUND_BY_FIRST_LETTER:
        is_double = name[:2] in ("sh", "ch", "th", "kh", "gh", "ph", "ts", "ng", "ps")
        return name[: 2 if is_double else 1]
    return name


def _consonants(text: str) -> str:
    return _letters(text).translate(_SOUND_CLASS)


def _is_pinyin(latin: str, han: str) -> bool:
    """Whether one line spells the other in pinyin, with or without tones."""
    spelled = _pinyin(han)
    return len(spelled) > 3 and ratio(_letters(latin), spelled) >= MIN_PINYIN_SIMILARITY


@lru_cache(maxsize=1000)
def _pinyin(han: str) -> str:
    from pypinyin import lazy_pinyin  # loads its tables; only bilingual files pay for it

    return "".join(lazy_pinyin("".join(HAN.findall(han))))


def _is_romaji(text: str) -> bool:
    folded = unicodedata.normalize("NFKD", re.sub(r"[^\w\s'~-]", " ", text.casefold()))
    return _ROMAJI.fullmatch("".join(char for char in folded if not unicodedata.combining(char))) is not None


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.casefold().replace("ü", "v"))
    return "".join(char for char in folded if "a" <= char <= "z")
