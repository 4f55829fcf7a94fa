"""How the reference implementation turns lyric text into symbols, oddities included: what the released weights heard.

Text is cut at single blanks; a chunk that equals a symbol passes; any other chunk is read alone, so no word has a
context. What differs from pipeline.phonemes.english is said at each rule.
"""

import re
from functools import cache

from pipeline.lyrics.line_text import simplify
from pipeline.phonemes.english import (
    Dictionary,
    add_possessive,
    load_dictionary,
    read_table,
    split_compound,
    strip_accents,
)
from pipeline.phonemes.mandarin import read_simplified
from pipeline.phonemes.numbers import expand_english
from pipeline.phonemes.spelling_model import load_spelling_model
from shards.schema import SECTION_LABELS
from shards.vocabulary import SYMBOLS

_SYMBOLS = frozenset(SYMBOLS)
_MARKS = str.maketrans(
    {char: "," for char in ":;：；，、·/"}
    | {char: "." for char in "。\n$"}
    | {"！": "!", "？": "?", "—": "-", "~": "…", "～": "…", "“": None, "”": None, "‘": None, "’": "'", '"': "'"}
)
_PUNCTUATION = frozenset(",.!?…-")
_PIECE = re.compile(r"[,.!?…-]|[\u4e00-\u9fa5]+|[^,.!?…\-\u4e00-\u9fa5]+")
_NOT_READ = re.compile(r"[^ A-Za-z'.,?!\-]")
_REPEATED = re.compile(r"([^a-zA-Z0-9])\1{3,}")  # shortened by its tokenizer
_TOKEN = re.compile(r"[A-Za-z](?:[A-Za-z]|['\-])+[A-Za-z]|[A-Za-z]+|[^\sA-Za-z]")
_SPELLED = ("ae", "ai", "ar", "hud", "ios", "os")  # taken out of its dictionary, so read letter by letter
MAX_SPELLED_LETTERS = 3

_ANY_TAG = re.compile(r"\[\s*([A-Za-z]+)\s*\]\s*")
_KNOWN_TAG = re.compile(rf"(\[(?:{'|'.join(SECTION_LABELS)})\])")
_SECTION_COMMA = re.compile(r"\s*,\s*(?=\[)")
_BRACKETS = str.maketrans(dict.fromkeys("“”‘’\"'(){}«»《》【】「」<>（）"))
_PHRASE_END = re.compile(r"[.!?;:,…！？；：，]+")
_HAN_GAP = re.compile(r"([\u4e00-\u9fa5]) +([\u4e00-\u9fa5])")


class _NoReadingError(ValueError):
    """A piece that the reference cannot read; it passes the raw text on instead."""


def read_symbols(text: str) -> list[str]:
    """Return the symbols of lyric text; items that are no symbol stand where the reference drops them.

    Raises:
        ValueError: a Chinese character on which the reference itself stops.
    """
    return [symbol for chunk in text.split(" ") for symbol in read_chunk(chunk)]


def read_chunk(chunk: str) -> list[str]:
    """Read what stands between two blanks; a chunk without any sound is one empty symbol."""
    if chunk in _SYMBOLS:
        return [chunk]
    symbols: list[str] = []
    for piece in _PIECE.findall(chunk.replace("...", "…").translate(_MARKS)):
        if piece in _PUNCTUATION:
            symbols.append(piece)
        elif "\u4e00" <= piece[0] <= "\u9fa5":
            symbols += read_simplified("".join(map(_simplify, piece)))
        else:
            symbols += _read_english(piece)
    return symbols or [""]


@cache
def _simplify(char: str) -> str:
    """Simplify one character by its table; a few become nothing."""
    table = read_table("mandarin_reference_characters.tsv")
    simplified = "".join(table[char].split()) if char in table else simplify(char)
    return simplified if simplified <= "\u9fa5" else char


def _read_english(piece: str) -> list[str]:
    text = _REPEATED.sub(r"\1\1\1", _NOT_READ.sub("", strip_accents(expand_english(piece))))
    tokens = ["", *_TOKEN.findall(text), ""]
    sounds: list[str] = []
    try:
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            sounds += _read_token(token, before, after)
    except _NoReadingError:
        return [piece]
    return ["-" if sound == "'" else sound for sound in sounds]


def _read_token(token: str, before: str, after: str) -> tuple[str, ...]:
    word = token.lower()
    words = _load_words()
    if not word[0].isalpha():
        return (token,)
    if len(word) == 1:
        return ("EY1",) if token == "A" else tuple(words[word].split())
    homographs = _load_homographs()
    if word in homographs:
        quoted = ("'" if before == "'" else "") + token + ("'" if after == "'" else "")
        return tuple(homographs.get(quoted, homographs[word]).split())
    return _look_up(word)


def _look_up(word: str) -> tuple[str, ...]:
    """Dictionary, letters, possessive, compound, model: in this order."""
    words = _load_words()
    if len(word) > 1 and word in words:
        return tuple(words[word].split())
    if len(word) <= MAX_SPELLED_LETTERS:
        return tuple(sound for letter in word for sound in _spell_letter(letter))
    if re.fullmatch(r"[a-z]+'s", word):
        return add_possessive(_look_up(word[:-2]))
    parts = split_compound(word)
    if len(parts) == 1:
        return tuple(load_spelling_model().predict(word))
    return tuple(sound for part in parts for sound in _look_up(part))


def _spell_letter(letter: str) -> tuple[str, ...]:
    if letter == "a":
        return ("EY1",)
    if letter not in _load_words():
        raise _NoReadingError(letter)
    return tuple(_load_words()[letter].split())


@cache
def _load_words() -> Dictionary:
    words = load_dictionary() | read_table("english_reference_words.tsv")
    return {word: sounds for word, sounds in words.items() if sounds and word not in _SPELLED}


@cache
def _load_homographs() -> Dictionary:
    return read_table("english_homographs.tsv")


def clean_lyrics(text: str) -> str:
    """Rewrite lyrics as the reference's optional cleaner does: tags in lower case, phrases ended by periods.

    A comma stands between sections; a period before a tag becomes that comma. Quotes and brackets go, apostrophes too.
    """
    text = _ANY_TAG.sub(lambda tag: f"[{tag[1].lower()}]", re.sub(r"\s+", " ", text).strip())
    parts = _KNOWN_TAG.split(_SECTION_COMMA.sub("\0", text.translate(_BRACKETS)))
    cleaned = _clean_words(parts[0])
    for before, tag, words in zip([None, *parts[1::2]], parts[1::2], parts[2::2], strict=False):
        if cleaned.endswith("."):
            cleaned = cleaned[:-1] + ", "
        elif cleaned and not cleaned.endswith(" , "):
            cleaned += " " if tag == before and cleaned.endswith("]") else " , "
        words = _clean_words(words)
        cleaned += f"{tag} {words}" if words.strip("\0 ,") else tag + words
    return cleaned.rstrip()


def _clean_words(words: str) -> str:
    words = _PHRASE_END.sub(".", words)
    return _HAN_GAP.sub(r"\1.\2", words).strip(" ").replace("\0", " , ")
