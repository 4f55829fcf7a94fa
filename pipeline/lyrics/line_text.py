"""One lyric line as text: web leftovers off, one form for every mark, sane capitals, words."""

import html
import re
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Protocol

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer: no blanks between words
HAN = re.compile(f"[{_HAN}]")
_HAN_RUN = re.compile(f"[{_HAN}]+")
KANA_OR_HANGUL = re.compile(f"[{KANA}\uac00-\ud7a3\u1100-\u11ff]")

_TAGS = re.compile(
    r"</?(?:a|abbr|article|b|big|body|blockquote|center|code|div|em|font|h[1-6]|head|hr|html|i|img|label|li|link|mark|ol|p|pre|s|section|small|"
    r"span|strike|strong|style|sub|sup|table|tbody|td|tr|tt|u|ul)(?:\s[^<>]{0,300})?/?>",
    re.IGNORECASE,
)
_SCRIPTS = re.compile(
    r"<(?P<tag>script|style|iframe)\b[^<>]{0,300}>.*?(?:</(?P=tag)\s*>|$)|<!--.*?(?:-->|$)", re.IGNORECASE
)
LINE_BREAK_TAGS = re.compile(r"<\s?/?\s?(?:br|p|div|li)\b[^<>]{0,300}>", re.IGNORECASE)
_FORMS = str.maketrans(
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    | {0x3000: " ", 0x2018: "'", 0x2019: "'", 0x201A: "'", 0x2032: "'", 0x00B4: "'", 0x0060: "'", 0x02BC: "'"}
    | {
        0x201C: '"',
        0x201D: '"',
        0x201E: '"',
        0x2033: '"',
        0x00AB: '"',
        0x00BB: '"',
        0x2010: "-",
        0x2011: "-",
        0x2212: "-",
    }
)
KEPT_MARKS = frozenset("\t\n\u200c\u200d")
_JOINING = "\u0600-\u07ff\u0860-\u0dff\u0f00-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc"
_IDLE_JOINER = re.compile(f"(?<![{_JOINING}])[\u200c\u200d]+|[\u200c\u200d]+(?![{_JOINING}\u200c\u200d])")
_NO_BLANKS = f"{_HAN}{KANA}{UNSPACED}"
_ZERO_WIDTH_SPACE = re.compile(f"(?<=[^\\W{_NO_BLANKS}])\u200b+(?=[^\\W{_NO_BLANKS}])")
_MARKERS = re.compile(r"^(?:[>•·∙♪♫♬♩★☆*#|\-–—~]+\s+|[♪♫♬♩★☆•>*~]+)+|[\s♪♫♬♩★☆*#|~]+$")
_EMPHASIS = re.compile(r"(?<!\w)\*{1,3}([^*]+)\*{1,3}(?!\w)")
_QUOTED = re.compile(r'["「『《](?P<inner>[^"「」『』《》]+)["」』》]')  # not "'": it also marks dropped letters
_END_MARKS = " ,;:.，、；：。…-–—\\/|"

_WORD = re.compile(rf"[{_HAN}{KANA}][^\w\s]*|(?:(?![{_HAN}{KANA}])[^\s—–/…])+(?:[—–/…]+)?|[—–/…]+")
_CLUSTER = re.compile(r"[^\W\d_][\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ecd]*|[^\s]")
_UNSPACED_LANGUAGES = frozenset({"th", "lo"})  # their words have no blanks between, and Han rules do not apply
_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_STABLE = re.compile(
    "[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]"
)  # folding leaves their first letter
_ASIDE_MARKS = re.compile(r"[\W_]+")
_LOW_HIGH = re.compile("[a-z][A-Z]")
_CAPITALS = re.compile("[A-Z]{2}")
_NAMED_CAPITALS = re.compile(r"(?:Mc|Mac|Di|De|Le|La|O'|D'|L')[A-Z][a-z]+|i[A-Z][a-z]+|[A-Z]{2,}s")
_PARENTHESES = re.compile(r"\(([^()]*)\)")
MIN_ODD_WORDS_SHARE = 0.34  # of the cased words in a line, to call its capitals random


class _Converter(Protocol):
    def convert(self, text: str) -> str: ...


def tidy_line(line: str) -> str:
    """Decode entities, drop HTML tags, use half-width forms and plain quotes, and single blanks."""
    if "&" in line:
        line = html.unescape(html.unescape(line))
    if "<" in line:
        line = _TAGS.sub("", _SCRIPTS.sub(" ", line))
    if not line.isascii() or not line.isprintable():
        line = "".join(
            char for char in mend_joiners(line) if char in KEPT_MARKS or unicodedata.category(char) not in ("Cc", "Cf")
        )
        line = line.translate(_FORMS)
    return " ".join(line.replace("`", "'").split())


def mend_joiners(text: str) -> str:
    """Make blanks of zero-width spaces between words, and leave out joiners that spell nothing.

    U+200B parts words where a script has blanks; Thai, Khmer and Chinese have none. U+200C and U+200D stay between
    letters of scripts that join: there they spell ("می\u200cخواهم").
    """
    if "\u200b" in text:
        text = _ZERO_WIDTH_SPACE.sub(" ", text.replace("\ufeff", "")).replace("\u200b", "")
    return _IDLE_JOINER.sub("", text) if "\u200c" in text or "\u200d" in text else text


def strip_marks(line: str) -> str:
    """Take bullets, notes, enclosing quotes and closing marks off a lyric; `?` and `!` stay."""
    line = _MARKERS.sub("", _EMPHASIS.sub(r"\1", line))
    if quoted := _QUOTED.fullmatch(line.rstrip(_END_MARKS)):
        line = quoted["inner"]
    if line.count('"') % 2:
        line = line.strip('"')
    return line.rstrip(_END_MARKS).lstrip(" ,;:.，、；：。…")


def is_chinese(text: str) -> bool:
    """Whether the Han characters of `text` are Chinese: no Japanese or Korean letters beside them."""
    return HAN.search(text) is not None and KANA_OR_HANGUL.search(text) is None


def simplify(text: str) -> str:
    """Write traditional Chinese in simplified characters; anything but Han characters stays as it is.

    Source: OpenCC's table t2s. The converter sees Han characters only: of other text it would take a NUL for the end,
    and it stops at a lone surrogate.
    """
    runs = _HAN_RUN.findall(text)
    if not runs:
        return text
    converted = iter(_load_converter().convert("\n".join(runs)).split("\n"))  # no phrase goes over a line break
    return _HAN_RUN.sub(lambda _: next(converted), text)


@cache
def _load_converter() -> _Converter:
    from opencc import OpenCC  # loads its tables; only Chinese songs pay for it

    converter: _Converter = OpenCC("t2s")
    return converter


def fix_case(line: str, language: str | None) -> str:
    """Write a line as a sentence if its capitals are random or everywhere; else leave it."""
    if not line.isupper() and (line == line.lower() or line.isascii() and not _LOW_HIGH.search(line)):
        return line
    words = _LETTERS.findall(line)
    cased = [word for word in words if word.lower() != word.upper() and len(word) > 1]
    if not cased or not (_is_shouted(words) or _is_random(cased)):
        return line
    line = line.lower()
    if language in (None, "en"):
        line = re.sub(r"(?<![\w'])i(?=$|'|[^\w'])", "I", line)
    first = re.search(r"[^\W\d_]", line)
    return line if first is None else line[: first.start()] + line[first.start()].upper() + line[first.end() :]


def has_odd_case(text: str) -> bool:
    """Whether any line of a text may have capitals to mend; errs to yes."""
    return not text.isascii() or _LOW_HIGH.search(text) is not None or _CAPITALS.search(text) is not None


def _is_shouted(words: list[str]) -> bool:
    letters = "".join(words)
    return letters.isupper() and sum(len(word) > 1 for word in words) > 1 and len(letters) > 5


def _is_random(words: list[str]) -> bool:
    """Whether many words have a capital after a small letter, or are capitals among words that do."""
    odd = [word for word in words if any(a.islower() and b.isupper() for a, b in pairwise(word))]
    odd = [word for word in odd if not _NAMED_CAPITALS.fullmatch(word)]
    inverted = sum(word[0].islower() and word[1:].isupper() for word in words)
    shouted = sum(word.isupper() for word in words) if odd else 0
    return bool(odd) and (len(odd) + shouted >= MIN_ODD_WORDS_SHARE * len(words) and len(words) > 1 or inverted > 0)


def split_words(text: str, language: str | None = None) -> list[str]:
    """Split a line into display words: at blanks, and around every Han or kana character (Thai and Lao: every letter).

    Marks stay with the word before them, leading ones with the word after; a text of marks alone has no words.
    """
    words: list[str] = []
    lead = ""
    for match in (_CLUSTER if language in _UNSPACED_LANGUAGES else _WORD).finditer(text):
        if not any(char.isalnum() for char in match[0]):
            if words:
                words[-1] += match[0]
            else:
                lead += match[0]
            continue
        words.append(lead + match[0])
        lead = ""
    return words


def normalize_word(word: str) -> str:
    """Reduce a word to what is compared: case folded, letters, digits and inner apostrophes only."""
    folded = unicodedata.normalize("NFKC", word).translate(_FORMS).casefold()
    return re.sub(r"[^\w']|_", "", folded).strip("'")


def is_same_line(one: str, other: str) -> bool:
    """Whether two lines have the same words, whatever their case and marks."""
    if one == other:
        return True
    first, second = one[:1], other[:1]
    if first != second and first.lower() != second.lower() and _STABLE.match(first) and _STABLE.match(second):
        return False  # the usual case, and quick
    if one.isascii() and other.isascii():
        letters, others = (_ASIDE_MARKS.sub("", line).lower() for line in (one, other))
        if letters != others:
            return False
    return [*map(normalize_word, split_words(one))] == [*map(normalize_word, split_words(other))]


def split_adlibs(line: str) -> tuple[str, tuple[str, ...]]:
    """Take the parts in parentheses out of a line; return what remains and those parts."""
    adlibs: list[str] = []
    while inner := _PARENTHESES.search(line):
        adlibs.append(strip_marks(inner[1]))
        line = f"{line[: inner.start()].rstrip()} {line[inner.end() :].lstrip()}"
    line = re.sub(r"\s+([,.!?;:])", r"\1", re.sub(r"\s*[()]\s*", " ", line))
    return strip_marks(line.strip()), tuple(part for part in adlibs if part)
