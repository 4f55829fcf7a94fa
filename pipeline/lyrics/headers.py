"""Section headers and repeat marks as people write them in lyrics, in the languages that lyric sites use.

Names are compared without case, accents, blanks and hyphens, so "Pre-Chorus", "pre chorus" and "PRECHORUS" are one.
Input lines are tidy already (see pipeline.lyrics_text): half-width forms, single blanks, no time stamps.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

MAX_REPEATS = 8  # "x99" is a joke or an attack; no chorus is sung more often in a row
MAX_HEADER_CHARS = 80

Style = Literal["square", "round", "markup", "colon", "bare"]

# Names by how far they are believed. The merged labels are SongBloom's own: start, intro -> intro; end, outro -> outro;
# solo, inst, break -> inst. It has no pre- and post-chorus.
_ANYWHERE = {  # no one sings this word as a whole line
    "verse": "verse verso vers strophe strofa strofe estrofa couplet stanza zwrotka sloka 主歌 aメロ bメロ куплет 벌스",
    "prechorus": "prechorus prehook prerefrain prerefrao precoro preestribillo preritornello 导歌 導歌 预副歌 前副歌 "
    "предприпев 프리코러스",
    "chorus": "chorus refrain refrao refren refrang refreng ritornello estribillo coro hook nakarat omkvæd 副歌 サビ "
    "припев 후렴 후렴구 코러스",
    "postchorus": "postchorus posthook postrefrain",
    "bridge": "bridge middle8 middleeight puente zwischenteil cメロ 桥段 橋段 间桥 бридж 브릿지",
    "intro": "intro introduction introduccion introducao introduzione 前奏 导奏 引子 イントロ интро 인트로",
    "outro": "outro 尾奏 尾声 アウトロ аутро 아웃트로",
    "inst": "inst instrumental instrumentals instrumentalbreak instrumentalsolo instrumentalinterlude interlude "
    "musicbreak musicalinterlude interludio intermezzo zwischenspiel проигрыш 间奏 間奏 过门 過門 간주",
}
_IN_ANY_BRACKETS = {
    "verse": "rap spoken spokenword narration 说唱 說唱 念白 独白 獨白",
    "chorus": "高潮 合唱",
    "outro": "ending fadeout 结尾 結尾",
    "inst": "solo music musicplays musicplaying musique musik 独奏 獨奏 音乐 音樂",
}
_IN_SQUARE_BRACKETS = {  # round ones hold ad-libs
    "verse": "v part parte partie teil",
    "chorus": "ref reff ch",
    "bridge": "ponte pont brucke most мост 桥 橋 过渡",
    "intro": "start opening",
    "outro": "end ende fin final coda finale finish 结束",
    "inst": "break breakdown dancebreak build buildup drop riff",
    "silence": "silence pause 静音",
}
_STYLES: tuple[tuple[dict[str, str], frozenset[Style]], ...] = (
    (_ANYWHERE, frozenset({"square", "round", "markup", "colon", "bare"})),
    (_IN_ANY_BRACKETS, frozenset({"square", "round", "markup", "colon"})),
    (_IN_SQUARE_BRACKETS, frozenset({"square", "markup", "colon"})),
)
_NAMES = {name: (kind, styles) for table, styles in _STYLES for kind, names in table.items() for name in names.split()}
ALL_NAMES = frozenset(_NAMES)
BARE_NAMES = frozenset(name for name, (_, styles) in _NAMES.items() if "bare" in styles)
_PARTS = frozenset("v part parte partie teil stanza".split())  # sections only with a number
_LABELS = {"prechorus": "verse", "postchorus": "chorus"}
_NUMBERS = {
    name: number
    for number, names in enumerate(
        ("1 i one a first 1st 一", "2 ii two b second 2nd 二", "3 iii three c third 3rd 三"), 1
    )
    for name in names.split()
} | {
    "4": 4,
    "iv": 4,
    "four": 4,
    "d": 4,
    "四": 4,
    "5": 5,
    "v": 5,
    "five": 5,
    "五": 5,
    "6": 6,
    "vi": 6,
    "six": 6,
    "六": 6,
}
_ORDER = re.compile(
    r"(?:the )?(?P<order>final|last|first|second|third|1st|2nd|3rd|double|half|main|short|long|opening|closing|"
    r"letzter|letzte) "
)
ORDER_WORDS = frozenset(  # the first words of `_ORDER`
    "the final last first second third 1st 2nd 3rd double half main short long opening closing letzter letzte".split()
)
NUMBER_WORDS = frozenset(name for name in _NUMBERS if name.isalpha())
SOLO_ENDS = ("solo", "break", "interlude", "riff", "instrumental", "独奏", "间奏", "間奏")
_SOLO = re.compile(
    r"(?:acoustic|bass|beat|brass|cello|drums?|electric|fiddle|flute|guitar|harmonica|horns?|keyboard|organ|orchestral|"
    r"percussion|piano|sax|saxophone|strings?|synth|trumpet|violin|吉他|钢琴|贝斯|鼓|小提琴)+"
    r"(?:solo|break|interlude|riff|instrumental|独奏|间奏|間奏)"
)
_NUMBERED = re.compile(
    r"(?P<name>.*?[^\d\s])[\s\-_#.]*(?P<digits>\d{1,2}|[一二三四五六]|(?<=[\u3040-\u9fff])[a-d]\d?)|"
    r"(?P<words>.+?)[\s\-_#.]+(?P<number>[a-z]+)"
)
_LEADING_NUMBER = re.compile(r"(?P<digits>\d{1,2})[.)]\s*(?=[^\W\d])")  # "1. Strophe"
MAX_DESCRIBED_WORDS = 4  # "[Short Instrumental Intro]"
_STANZA = re.compile(r"第([一二三四五六1-6])[段节節](?:主歌|歌词)?")
_PERFORMER = re.compile(r"\s*:\s*|\s+[-–—|]\s+|\s*[(/,+]|\s+by\s+|-(?=(?:short|medium|long)$)")  # and manner, length
_PERFORMER_AFTER = re.compile(r"\s*\([^()]*\)$")

_DIGIT = re.compile(r"\d")
_LETTERS = re.compile("[a-z]+")

_COUNT = (
    r"(?:[x×*]\s*(?P<after>\d{1,4})|(?P<before>\d{1,4})\s*(?:[x×]|times|veces|fois|mal|vezes|volte|次|遍)"
    r"|(?P<word>twice|thrice|bis|ter|zweimal|dreimal|两次|两遍))"
)
_BRACKETED_COUNT = re.compile(rf"[(\[【]\s*(?:repeat\s+)?{_COUNT}\s*[)\]】]$", re.IGNORECASE)
_PLAIN_COUNT = re.compile(r"(?<=[\s,.!?])(?:[x×*]\s?(?P<after>\d{1,4})|(?P<before>\d{1,4})\s?[x×])$", re.IGNORECASE)
_COUNT_AT_END = re.compile(rf"(?:^|[\s(\[,]){_COUNT}[)\]]?$", re.IGNORECASE)
_COUNT_ALONE = re.compile(_COUNT, re.IGNORECASE)
_COUNT_WORDS = {"thrice": 3, "ter": 3, "dreimal": 3}  # the others mean 2
_REPEAT = re.compile(
    r"(?:repeat|rpt|(?:se )?repite|repetir|répéter|répète|wiederholen|wiederholung|wdh|reprise|"
    r"重复|重複|反复|反覆|重唱)(?:\b|(?<=[\u4e00-\u9fff]))\.?:?\s*(?P<what>.*)",
    re.IGNORECASE,
)
_REPEATED = re.compile(r"(?P<what>.+?)\s*[(\[-]?\s*(?:repeats?|repeated|again|重复)[)\]]?", re.IGNORECASE)
_MAY_REPEAT = re.compile(r"r[eé]p|rpt|wiederh|wdh|again|[重反]", re.IGNORECASE)
_FADE = re.compile(r"[\s,]*(?:\b(?:until|till?|to|and|ad lib)\b.*\bfade\b.*|一次|一遍)$", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|el|la|le|il|den|der|das|o) ", re.IGNORECASE)
_BEFORE = frozenset({"", "all", "above", "previous", "again"})

_BRACKETED = re.compile(
    r"\[(?P<square>[^\[\]]*)\]|【(?P<lens>[^【】]*)】|〔(?P<shell>[^〔〕]*)〕|「(?P<corner>[^「」]*)」|\{(?P<curly>[^{}]*)\}"
    r"|<+(?P<angle>[^<>]*)>+|\((?P<round>[^()]*)\)"
)
_COMMENT = re.compile(
    r"^(?:c|comment)\s*:\s*|^start_of_(?=\w)", re.IGNORECASE
)  # ChordPro: {c: Verse}, {start_of_chorus}
_MARKUP = re.compile(
    r"(?:#{1,6}|={2,}|-{2,}|\*{1,3}|_{2,}|~+|\||[◆●■◎▶♪♫♬♩])\s*(?P<inner>[^#=*~]+?)[\s:]*"
    r"(?:#+|=+|-+|\*+|_+|~+|\||[◆●■◎♪♫♬♩])?|[-–—]\s(?P<dashed>.+)\s[-–—]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A section header; `name` tells pre-chorus from verse, `rest` is lyrics that follow on the same line."""

    label: str
    name: str
    number: int | None = None
    repeats: int = 1
    rest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatMark:
    """A line that stands for lines sung again: of a named section, or (None) what stands right before it."""

    name: str | None
    number: int | None = None
    repeats: int = 1  # how often they are sung once more


@lru_cache(maxsize=2000)  # most files share theirs
def match_header(line: str) -> Header | None:
    """Return the section header that `line` is or begins with, or None."""
    if bracket := _BRACKETED.match(line):
        style: Style = "round" if bracket.lastgroup == "round" else "square"
        header = _parse_header(_inner(bracket), style)
        return _add_rest(header, line[bracket.end() :].strip(), style) if header else None
    if markup := _MARKUP.fullmatch(line):
        return _parse_header(markup["inner"] or markup["dashed"], "markup")
    head, colon, tail = line.partition(":")
    if colon and (header := _parse_header(head, "bare" if tail.strip() else "colon")):  # "End: of the road" is a lyric
        return _add_rest(header, tail.strip(), "colon")
    return _parse_header(line.rstrip(" -–—"), "bare") if _may_be_bare(line) else None


def _may_be_bare(line: str) -> bool:
    """Whether a line without any mark may be a header; errs to yes."""
    if not line.isascii() or _DIGIT.search(line):
        return True
    words = _LETTERS.findall(_PERFORMER_AFTER.sub("", line).lower())
    if not words:
        return False
    compact = "".join(words)
    return words[0] in ORDER_WORDS or words[-1] in NUMBER_WORDS or compact in BARE_NAMES or compact.endswith(SOLO_ENDS)


def match_repeat(line: str) -> RepeatMark | None:
    """Return what a whole-line mark such as "(Repeat chorus)", "(x2)" or "repeat 2x" asks for, or None."""
    bracket = _BRACKETED.fullmatch(line)
    inner = (_inner(bracket) if bracket else line).strip(" .:*~=#_-")
    if len(inner) > MAX_HEADER_CHARS:
        return None
    count = _COUNT_ALONE.fullmatch(inner)
    if count and (bracket or not count["word"]):
        return RepeatMark(name=None, repeats=max(_count(count) - 1, 1))
    command = (_REPEAT.fullmatch(inner) or _REPEATED.fullmatch(inner)) if _MAY_REPEAT.search(inner) else None
    if command is None:
        return None
    what, repeats = _FADE.sub("", command["what"]), 1
    count = _COUNT_AT_END.search(what)
    if count:
        what, repeats = what[: count.start()].rstrip(" ,("), _count(count)
    if what.lower() in _BEFORE:  # "repeat" alone is a word that can be sung
        return RepeatMark(name=None, repeats=repeats) if bracket or count else None
    header = _parse_header(_ARTICLE.sub("", what), "square")
    return RepeatMark(name=header.name, number=header.number, repeats=repeats) if header else None


def split_count(line: str) -> tuple[str, int]:
    """Split a trailing "(x2)", "x3" or "[2 times]" off; return the words and how often they are sung."""
    count = _BRACKETED_COUNT.search(line) or _PLAIN_COUNT.search(line)
    words = line[: count.start()].rstrip(" ,") if count else ""
    if count is None or not any(char.isalpha() for char in words):
        return line, 1
    return words, _count(count)


def _count(match: re.Match[str]) -> int:
    groups = match.groupdict()
    number = groups["after"] or groups["before"]
    count = int(number) if number else _COUNT_WORDS.get(groups["word"].lower(), 2)
    return min(max(count, 1), MAX_REPEATS)


def _inner(bracket: re.Match[str]) -> str:
    return _COMMENT.sub("", bracket[bracket.lastgroup or 0].strip())


def _add_rest(header: Header, rest: str, style: Style) -> Header | None:
    """Read what follows a header on its line: a count, a performer in brackets, or lyrics."""
    if count := _COUNT_ALONE.fullmatch(rest.strip(" ()[]:")):
        return replace(header, repeats=_count(count))
    if style == "round" and rest and not rest.startswith(":"):
        return None  # "(Chorus) of angels" is a lyric
    if style != "colon" and _BRACKETED.fullmatch(rest) and match_header(rest) is None:
        return header  # "[Verse 1] (Ada Merrow)"
    return replace(header, rest=rest.lstrip(": "))


def _parse_header(text: str, style: Style) -> Header | None:
    """Read "Final Chorus 2 - whispered (x2)", its decoration taken off already."""
    text, repeats = split_count(text.strip()) if len(text) <= MAX_HEADER_CHARS else ("", 1)
    if not text:
        return None
    text = _PERFORMER_AFTER.sub("", text) if style in ("bare", "colon") else _PERFORMER.split(text)[0]
    folded = _fold(text.strip(" :.*!"))
    order = _LEADING_NUMBER.match(folded) or _ORDER.match(folded)
    name, number = _split_number(folded[order.end() :] if order else folded)
    if order and number is None:
        number = _NUMBERS.get(order[1])
    kind = _find_kind(name, number, style) or (_find_described(folded) if style == "square" else None)
    if not kind:
        return None
    return Header(label=_LABELS.get(kind, kind), name=kind, number=number, repeats=repeats)


def _find_kind(name: str, number: int | None, style: Style) -> str | None:
    """Return what a compact name stands for, if it is believed in this style."""
    if _SOLO.fullmatch(name):
        return "inst"
    kind, styles = _NAMES.get(name, ("", frozenset[Style]()))
    is_numbered_part = number is not None or name not in _PARTS
    is_believed = style in styles or (style == "round" and bool(kind) and number is not None)
    return kind if is_believed and is_numbered_part else None


def _find_described(folded: str) -> str | None:
    """Return the kind of a described section: "[Sad Verse]", "[Epic guitar solo]", "[Couplet unique]"."""
    words = folded.split()
    if not 1 < len(words) <= MAX_DESCRIBED_WORDS or _REPEAT.match(folded):
        return None
    last, first = (_NAMES.get(name, ("", frozenset[Style]())) for name in (words[-1], words[0]))
    if last[0] and words[-1] not in _PARTS:
        return last[0]
    return first[0] if "bare" in first[1] else None


def _split_number(folded: str) -> tuple[str, int | None]:
    """Split "pre chorus two" into ("prechorus", 2)."""
    compact = _compact(folded)
    if stanza := _STANZA.fullmatch(compact):
        return "verse", _NUMBERS[stanza[1]]
    numbered = _NUMBERED.fullmatch(folded)
    if compact in _NAMES or numbered is None:
        return _name_of_one_script(compact), None
    number = _NUMBERS.get(numbered["digits"] or numbered["number"])
    if number is None and numbered["digits"] is None:
        return _name_of_one_script(compact), None
    return _name_of_one_script(_compact(numbered["name"] or numbered["words"])), number


def _name_of_one_script(compact: str) -> str:
    """Reduce a name in two scripts ("副歌 Chorus") to one of them if both mean the same."""
    parts = [part for part in re.split(r"([a-z]+)", compact) if part.strip("/|")]
    kinds = {_NAMES[part.strip("/|")][0] if part.strip("/|") in _NAMES else None for part in parts}
    return parts[0].strip("/|") if len(parts) == 2 and len(kinds) == 1 and None not in kinds else compact


def _compact(text: str) -> str:
    return re.sub(r"[\s\-_'.#]+", "", text)


def _fold(text: str) -> str:
    """Lower case without Latin accents; the voicing marks of kana stay."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(char for char in parts if not "\u0300" <= char <= "\u036f"))
