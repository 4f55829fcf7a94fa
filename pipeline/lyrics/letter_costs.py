"""How likely letters are beside each other in a language: what tells a right decoding from a wrong one.

Costs are -ln of a probability, in nats: in an alphabet that of a letter after the one before it, in Chinese, Japanese
and Korean that of a single character. Capitals count as small letters, what is neither letter nor mark as a blank.
Source: data/letter_pairs.tsv, made by `python -m pipeline.letter_table` from half of the translations of
Django (BSD) and, for Chinese, jieba's word counts (MIT).
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

TABLE_PATH = Path(__file__).with_name("data") / "letter_pairs.tsv"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of costs in the table
NATS_PER_STEP = 0.25
CYRILLIC = ("ru", "uk", "be", "bg", "mk", "sr")
CHARACTERS = ("ja", "ko", "zh", "zh-hant")  # languages of which single characters are counted
OTHER_SCRIPTS = frozenset((*CYRILLIC, *CHARACTERS, "el", "he", "ar", "fa", "ur", "th"))  # than Latin

# In nats, for what the table has not; ours, found by trial.
_UNSEEN_PAIR = 3.0  # over the letter alone
_BORROWED = 3.0  # over the letter in all languages together: "é" in an English song
_NO_LETTER = 13.0  # a letter that no such text has
_SCRIPT_ENDS = 6.0  # a letter of another script beside a blank or an ASCII letter
_ASCII_IN_WORD = 9.0  # a letter that the language has not
_TWO_SCRIPTS = 14.0  # in a word; over the letter alone
_CHARACTER_COSTS: tuple[
    tuple[int, int, dict[str, float], float], ...
] = (  # of a character that its language's texts have not: range, its language's cost, the others' cost
    (0x3041, 0x30FF, {"ja": 8.0}, 11.0),
    (0x4E00, 0x9FFF, {}, 11.0),
    (0xAC00, 0xD7A3, {"ko": 10.0}, 13.0),
)
_NO_CHARACTER = 14.0
_FREE = 1e-9  # a blank after a character says nothing
_ASCII_BESIDE = 6.0  # an ASCII letter beside a character
_MAX_UNSEEN = 20_000  # of a language
# Costs of signs: behind a blank, behind a letter, before a blank, before a letter.
_SIGN_COSTS: dict[str, tuple[float, float, float, float]] = {
    "’": (5.0, 2.0, 4.0, 2.0),
    **dict.fromkeys("‘“„«¿¡‹", (3.0, 9.0, 6.0, 3.0)),
    **dict.fromkeys("”»›", (5.0, 5.0, 4.0, 7.0)),
    "…": (5.0, 3.0, 3.0, 5.0),
    **dict.fromkeys("—–", (2.5, 5.0, 2.5, 5.0)),
    **dict.fromkeys("♪•·´\u00a0", (4.0, 5.0, 4.0, 5.0)),
    **dict.fromkeys("、。「」！？，：（）《》・～『』；\u3000", (3.0, 3.0, 3.0, 3.0)),
}
_ODD_SIGN = (6.0, 9.0, 6.0, 9.0)
_UNBALANCED = 3.0  # for each quotation mark without its partner
_OPENING, _CLOSING = "“„«‹", "”»›"
_CAPITAL_INSIDE = 9.0

_NO_TEXT = frozenset({"Cc", "Co", "Cs", "Cn"})
_OTHERS = re.compile("[^\x00-\x7f]+")
_ASCII_LETTER = re.compile("[a-z]")
_NO_LETTERS = re.compile("[^a-z\0]+")


@dataclass(frozen=True, slots=True)
class _Costs:
    letters: dict[str, float]
    pairs: dict[str, float]
    unseen: dict[str, float]  # pairs that texts had so far and the table has not


@dataclass(frozen=True, slots=True)
class Spelling:
    """What of a text is scored."""

    ascii: str  # the text with a NUL for every run of other characters; the same in all codecs of 8 bits
    pairs: dict[str, int]  # of letters, one of them at least beyond ASCII, and how often they are there
    signs: float  # cost of what is no letter, and of capitals where none stand
    num_others: int  # characters beyond ASCII


def spell(text: str) -> Spelling | None:
    """Count the pairs of letters of a text; None where it holds controls or characters that nobody has assigned."""
    pairs: dict[str, int] = defaultdict(int)
    marks = abs(sum(map(text.count, _OPENING)) - sum(map(text.count, _CLOSING)))
    signs = _UNBALANCED * marks
    counts = Counter(map("".join, zip(f" {text}", f"{text} ", strict=True)))
    for raw, count in counts.items():
        if not raw.isascii():
            pair, cost = _read_pair(raw)
            if not pair:
                return None
            signs += count * cost
            pairs[pair] += count
    pairs.pop("  ", None)
    return Spelling(_OTHERS.sub("\0", text), pairs, signs, len(text) - len(text.encode("ascii", "ignore")))


@lru_cache(maxsize=100_000)
def _read_pair(raw: str) -> tuple[str, float]:
    """Return a pair of characters as letters and blanks, empty for what is no text, and what is odd about it."""
    categories = [unicodedata.category(char) for char in raw]
    if any(char > "\x7f" and category in _NO_TEXT for char, category in zip(raw, categories, strict=True)):
        return "", 0.0
    are_letters = [category[0] in "LM" for category in categories]
    first, second = (char.lower() if is_letter else " " for char, is_letter in zip(raw, are_letters, strict=True))
    cost = 0.0
    if raw[1] > "\x7f" and not are_letters[1]:
        cost += _SIGN_COSTS.get(raw[1], _ODD_SIGN)[are_letters[0]]
    if raw[0] > "\x7f" and not are_letters[0]:
        cost += _SIGN_COSTS.get(raw[0], _ODD_SIGN)[2 + are_letters[1]]
    if raw[1].isupper() and raw[0].islower():
        cost += _CAPITAL_INSIDE
    return first[-1:] + second[:1], cost


def count_ascii(text: str) -> dict[str, int]:
    """Count the pairs of ASCII letters and blanks in `Spelling.ascii`."""
    letters = _NO_LETTERS.sub(" ", text.lower())
    pairs = Counter(map("".join, zip(letters, letters[1:], strict=False)))
    return {pair: count for pair, count in pairs.items() if "\0" not in pair}


def cost_ascii(pairs: dict[str, int], language: str) -> float:
    """Return the cost of pairs of ASCII letters; a language of another script has English words."""
    costs = _load()[spelt_like(language)]
    pair_costs, letter_costs = costs.pairs, costs.letters
    total = 0.0
    for pair, count in pairs.items():
        cost = pair_costs.get(pair)
        if cost is None:
            cost = min(letter_costs.get(pair[1], _NO_LETTER) + _UNSEEN_PAIR, _NO_LETTER)
        total += count * cost
    return total


def spelt_like(language: str) -> str:
    """Return the language whose ASCII letters stand in a language's texts."""
    return "en" if language in OTHER_SCRIPTS else language


def cost_others(pairs: dict[str, int], language: str, limit: float) -> float:
    """Return the cost of pairs of which one letter at least is beyond ASCII; more than `limit` means just that."""
    costs = _load()[language]
    known, unseen = costs.pairs, costs.unseen
    total = 0.0
    for pair, count in pairs.items():
        cost = known.get(pair) or unseen.get(pair)
        if cost is None:
            if len(unseen) > _MAX_UNSEEN:
                unseen.clear()
            cost = unseen[pair] = _cost_unseen(pair, language, costs.letters)
        total += count * cost
        if total > limit:
            break
    return total


def _cost_unseen(pair: str, language: str, letters: dict[str, float]) -> float:
    char = pair[1]
    if language in CHARACTERS:
        beside = _ASCII_BESIDE if _ASCII_LETTER.search(pair) else _FREE
        return beside + (letters.get(char) or _cost_character(char, language) if char > "\x7f" else 0.0)
    if pair.isascii():  # around a sign
        return cost_ascii({pair: 1}, language)
    if language in OTHER_SCRIPTS and _ASCII_LETTER.search(pair):
        return _TWO_SCRIPTS + letters.get(char, 0.0)
    if char in letters:
        return min(letters[char] + _UNSEEN_PAIR, _NO_LETTER)
    if language in OTHER_SCRIPTS:
        return _SCRIPT_ENDS if char == " " else _NO_LETTER
    if char < "\x80":
        return _ASCII_IN_WORD
    return min(_cost_anywhere().get(char, _NO_LETTER) + _BORROWED, _NO_LETTER)


def _cost_character(char: str, language: str) -> float:
    for first, last, own, others in _CHARACTER_COSTS:
        if first <= ord(char) <= last:
            return own.get(language, others)
    return _NO_CHARACTER


@cache
def _cost_anywhere() -> dict[str, float]:
    """Return the cost of a letter in the languages in Latin letters together."""
    latin = [costs.letters for language, costs in _load().items() if language not in OTHER_SCRIPTS]
    shares: dict[str, float] = defaultdict(float)
    for letters in latin:
        for char, cost in letters.items():
            shares[char] += math.exp(-cost) / len(latin)
    return {char: -math.log(share) for char, share in shares.items()}


@cache
def _load() -> dict[str, _Costs]:
    found: dict[str, _Costs] = {}
    for row in TABLE_PATH.read_text(encoding="utf-8").splitlines():
        language, before, letters, digits = row.split("\t")
        costs = found.setdefault(language, _Costs({}, {}, {}))
        target = costs.pairs if before else costs.letters
        for letter, digit in zip(letters, digits, strict=True):
            target[before + letter] = DIGITS.index(digit) * NATS_PER_STEP
    return found
