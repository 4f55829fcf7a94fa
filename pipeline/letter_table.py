"""Make data/letter_pairs.tsv anew: `python -m pipeline.letter_table`, with django installed."""

import math
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.encoding_texts import CEDILLAS, SourceMissingError, read_translations
from pipeline.lyrics.letter_costs import CHARACTERS, DIGITS, NATS_PER_STEP, OTHER_SCRIPTS, TABLE_PATH

MIN_CHARACTER_SHARE = 3e-5  # of a language's characters; rarer ones cost what all rare ones do
MAX_CHARACTERS = 2_500
TABLE_LANGUAGES = (
    "en fr es pt it de nl ca da no sv fi is ga af eu gl sq id pl cs sk hu ro hr sl lt lv et tr ru uk be bg mk sr el he "
    "ar fa ur th vi ja ko zh zh-hant"
).split()


def write_table(path: Path) -> None:
    """Write the costs of letters in all languages of the table; raises SourceMissingError."""
    rows = [row for language in TABLE_LANGUAGES for row in _cost_letters(language)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def _cost_letters(language: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows of the table: language, letter before (empty: any), letters, a digit of cost for each of them."""
    texts = [_keep_letters(line) for line in read_translations(language, for_table=True)]
    alone = Counter(char for text in texts for char in text)
    if language in CHARACTERS:
        counts = _add_words(Counter({char: n for char, n in alone.items() if char > "\x7f"}), language)
        total = sum(counts.values())
        chars = sorted((c for c, n in counts.items() if n > MIN_CHARACTER_SHARE * total), key=lambda c: (-counts[c], c))
        chars = chars[:MAX_CHARACTERS]
        yield language, "", "".join(chars), "".join(_digit(counts[char] / total) for char in chars)
        return
    own = {char for char, n in alone.items() if n > 1 and (char > "\x7f" or language not in OTHER_SCRIPTS)} | {" "}
    total = sum(alone[char] for char in own)
    yield language, "", "".join(sorted(own)), "".join(_digit(alone[char] / total) for char in sorted(own))
    pairs = Counter(pair for text in texts for pair in zip(text, text[1:], strict=False) if {*pair} <= own)
    for before in sorted(own):
        after = {char: n for (first, char), n in pairs.items() if first == before}
        seen = sum(after.values()) + len(after)  # Witten and Bell: as much for the unseen as there are kinds
        if after:
            chars = sorted(after)
            yield language, before, "".join(chars), "".join(_digit(after[char] / seen) for char in chars)


def _keep_letters(line: str) -> str:
    line = unicodedata.normalize("NFC", line).translate(CEDILLAS)
    kept = (char.lower() if unicodedata.category(char)[0] in "LM" else " " for char in line)
    return f" {' '.join(''.join(char if len(char) == 1 else char[0] for char in kept).split())} "


def _digit(share: float) -> str:
    return DIGITS[min(max(round(-math.log(share) / NATS_PER_STEP), 1), len(DIGITS) - 1)]


def _add_words(counts: Counter[str], language: str) -> Counter[str]:
    """Add the characters of jieba's words to those of Chinese translations, ten to one; others stay as they are."""
    if not language.startswith("zh"):
        return counts
    import jieba
    from opencc import OpenCC

    added: Counter[str] = Counter()
    with Path(jieba.__file__).with_name("dict.txt").open(encoding="utf-8") as file:
        for row in file:
            word, count, _ = row.split(" ")
            for char in word:
                added[char] += int(count)
    if language == "zh-hant":
        convert = OpenCC("s2t").convert
        traditional: Counter[str] = Counter()
        for char, number in added.items():
            traditional[convert(char)[0]] += number
        added = traditional
    scale = 10 * sum(counts.values()) / sum(added.values())
    return counts + Counter({char: max(round(scale * n), 0) for char, n in added.items()})


if __name__ == "__main__":
    try:
        write_table(TABLE_PATH)
    except SourceMissingError as error:
        sys.exit(str(error))
