"""The short way for whole files: lines in one script, rising stamps, one meaning a line.

Most files of a catalogue are of this kind, and reading them with every rule takes twice as long. The result is the
same; whatever the short way is not sure of goes the long way.
"""

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.lyrics.bilingual import MAX_STAMP_GAP_S, count_scripts
from pipeline.lyrics.headers import Header
from pipeline.lyrics.language import stated_language
from pipeline.lyrics.line_text import fix_case, has_odd_case, is_chinese, is_same_line, simplify
from pipeline.lyrics.metadata import find_names, fold_name, is_name_head, is_title_line, may_be_title_line
from pipeline.lyrics.parsed import LyricHeader, LyricLine, ParsedLyrics
from pipeline.lyrics.plain import is_plain, split_aside
from pipeline.lyrics.repeats import REFERABLE, Token
from pipeline.song import DroppedLine
from shards.schema import VOCAL_LABELS

MAX_CHARS = 20_000
MAX_SIMPLE_LINES = 500
MAX_LINE_CHARS = 300
FIRST_SUNG_S = 1.0  # what stands earlier may be a title

_ASCII = frozenset(string.ascii_letters)
_STAMPED = re.compile(r"\[(\d\d):(\d\d\.\d\d\d?)\]([^\[]*)")
_TAG = re.compile(r"\[(ti|ar|al|by|length):([^\[\]]*)\]")
_SPECIAL = re.compile(  # marks of other formats, of stamps for words, of escapes
    r"[{}\\\t\u3010\uff3b]|<\s*\d|\A\s*<|Dialogue:|^[#\"“]|^\s*\(?\d{1,3}:\d|\Astart,|\[(?:offset|la|lang|language|tt|tr|bg)\b",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a manifest or a tag says of the song."""

    title: str | None
    artist: str | None
    language: str | None


class FinishLine(Protocol):
    """Writes a line of a token; see pipeline.lyrics.parse."""

    def __call__(  # noqa: D102 - the class says it
        self, token: Token, label: str | None, section_index: int, stanza: int, before: str, /
    ) -> LyricLine: ...


Classify = Callable[[str], tuple[list[Token], DroppedLine | None] | None]


def _begin_apart(one: str, other: str) -> bool:
    """Whether two lines have other first letters, both of them ASCII."""
    return one != other and one in _ASCII and other in _ASCII and one.lower() != other.lower()


class _Reader:
    """The lines of a file while they are read; `add` returns whether a line is simple."""

    def __init__(
        self, classify: Classify, finish: FinishLine, *, language: str | None, mends_case: bool, is_ascii: bool
    ) -> None:
        self.lines: list[LyricLine] = []
        self.headers: list[LyricHeader] = []
        self.dropped: list[DroppedLine] = []
        self.unsung: list[str] = []  # dropped lines without their stamps
        self.tags: dict[str, str] = {}
        self._classify, self._finish = classify, finish
        self._plains: dict[str, str] = {}  # as sung, empty for those that are not plain
        self._language, self._mends_case, self._is_ascii = language, mends_case, is_ascii
        self._label: str | None = None
        self._is_vocal = True
        self._stanza, self._is_new_stanza = -1, True
        self._before = ""
        self._last_s = -1.0

    def add(self, raw: str, number: int) -> bool:
        if not raw:
            self._is_new_stanza = True
            return True
        words, time_s = raw, None
        if raw[0] == "[":
            stamped = _STAMPED.fullmatch(raw)
            if stamped is None:
                is_stamp = raw[1:2].isdigit() or raw[-1] != "]"
                return not is_stamp and (self._add_tag(raw, number) or self._add_other(raw, raw, None, number))
            minutes, seconds, words = stamped.groups()
            words = words.strip()
            time_s = round(int(minutes) * 60 + float(seconds), 6)
            if time_s <= self._last_s + MAX_STAMP_GAP_S or not words:
                return False
            self._last_s = time_s
        text = self._plains.get(words)
        if text is None:
            text = ""
            if len(words) < MAX_LINE_CHARS and is_plain(words):
                text = words.rstrip(" ,.")
                if not self._is_ascii:
                    text = text.replace("\u2019", "'")
                text = fix_case(text, self._language) if self._mends_case else text
            self._plains[words] = text
        full_text = text
        adlibs: tuple[str, ...] = ()
        if not text:
            parts = split_aside(words) if words[-1] == ")" and len(words) < MAX_LINE_CHARS else None
            if parts is None:
                return self._add_other(raw, words, time_s, number)
            text, full_text, adlibs = parts[0], words, (parts[1].rstrip(" ,."),)
            if self._mends_case:
                text, full_text = fix_case(text, self._language), fix_case(full_text, self._language)
                adlibs = (fix_case(adlibs[0], self._language),)
        if not self._is_vocal:
            return False
        before = self._before
        self._stanza += self._is_new_stanza
        is_copy = before != "" and not _begin_apart(before[0], text[0]) and is_same_line(before, text)
        label, index = self._label, len(self.headers) - 1
        self.lines.append(
            LyricLine(
                *(text, full_text, label, index, time_s, raw.strip(), number, 1, "kept", adlibs, False, is_copy, False),
                *(self._stanza, None, (), ""),
            )
        )
        self._before, self._is_new_stanza = text, False
        return True

    def _add_tag(self, raw: str, number: int) -> bool:
        tag = _TAG.fullmatch(raw)
        if tag is None:
            return False
        self.dropped.append(DroppedLine(raw, "metadata", number))
        self.unsung.append(raw)
        self.tags[tag[1]] = tag[2].strip()
        return True

    def _add_other(self, raw: str, text: str, time_s: float | None, number: int) -> bool:
        """Add a line that needs the rules: a header, an ad-lib behind words, a credit."""
        if len(text) >= MAX_LINE_CHARS or "[" in raw[1:] or _SPECIAL.search(raw):
            return False
        found = self._classify(text)
        if found is None or len(found[0]) > 1:
            return False
        tokens, drop = found
        if drop is not None:
            mark = tokens[0].mark if tokens else None
            if mark is not None and (mark.name is None or self.headers):
                return False  # it names nothing where no section has a name
            self.dropped.append(DroppedLine(raw.strip(), drop.reason, number))
            self.unsung.append(drop.text)
            self._is_new_stanza = self._is_new_stanza or bool(tokens)
            return True
        if not tokens:
            return not raw.strip()
        token = tokens[0]
        if token.header is not None:
            return time_s is None and self._add_header(raw, token.header, number)
        if not token.text or token.repeats > 1 or token.singer or ":" in token.text or not self._is_vocal:
            return False
        if may_be_title_line(token.text):
            return False
        self._stanza += self._is_new_stanza
        times_s = () if time_s is None else (time_s,)
        token = token._replace(raw=raw, times_s=times_s, line_number=number)
        line = self._finish(token, self._label, len(self.headers) - 1, self._stanza, self._before)
        self.lines.append(line)
        self._before, self._is_new_stanza = line.text, False
        return True

    def _add_header(self, raw: str, header: Header, number: int) -> bool:
        if header.rest or header.repeats > 1 or not self._may_close() or (self.lines and not self.headers):
            return False  # what stands before the first header may be a heading
        self.headers.append(
            LyricHeader(
                label=header.label,
                name=header.name,
                number=header.number,
                raw=raw,
                time_s=None,
                line_number=number,
                edit="kept",
            )
        )
        self._label, self._before, self._is_new_stanza = header.label, "", True
        self._is_vocal = header.label in VOCAL_LABELS
        return True

    def _may_close(self) -> bool:
        """Whether the open section has lines, or means none: an empty chorus stands for the one before."""
        is_empty = bool(self.headers) and (not self.lines or self.lines[-1].section_index < len(self.headers) - 1)
        return not is_empty or self.headers[-1].name not in REFERABLE

    @property
    def is_timed(self) -> bool:
        return self._last_s >= 0

    def is_complete(self) -> bool:
        return bool(self.lines) and self._may_close()


def parse_simple(
    text: str, known: Known, classify: Classify, finish: FinishLine, *, keep_traditional: bool, keep_case: bool
) -> ParsedLyrics | None:
    """Read a simple file; None where it is not one. See pipeline.lyrics.parse.parse_lyrics.

    Args:
        text: of the file.
        known: what else is known of the song.
        classify: returns what one piece of text stands for and what of it is dropped, None where it is several pieces.
        finish: writes a line that is not plain.
        keep_traditional: leave traditional Chinese as it is.
        keep_case: leave wrong capitals as they are.
    """
    if len(text) > MAX_CHARS or text.count("\n") > MAX_SIMPLE_LINES:
        return None
    language = stated_language(known.language) or None
    mends_case = not keep_case and has_odd_case(text)
    reader = _Reader(classify, finish, language=language, mends_case=mends_case, is_ascii=text.isascii())
    for number, raw in enumerate(text.split("\n"), start=1):
        if not reader.add(raw, number):
            return None
    lines = reader.lines
    if not reader.is_complete() or not _starts_with_words(reader, known):
        return None
    if not text.isascii():
        sung = "\n".join(line.full_text for line in lines)
        if count_scripts(sung) > 1:
            return None
        if not keep_traditional and language in (None, "zh") and is_chinese(sung):
            simple = simplify(sung).split("\n")
            if any(line.adlibs for line in lines):
                return None
            lines = [
                line if line.text == words else line._replace(text=words, full_text=words)
                for line, words in zip(lines, simple, strict=True)
            ]
    has_times = any(line.time_s is not None for line in lines)
    return ParsedLyrics(
        lines=tuple(lines),
        headers=tuple(reader.headers),
        dropped=tuple(reader.dropped),
        has_times=has_times,
        has_headers=bool(reader.headers),
        is_marked_instrumental=False,
        format_name="lrc" if reader.is_timed else "plain",
        title=reader.tags.get("ti", ""),
        artist=reader.tags.get("ar", ""),
    )


def _starts_with_words(reader: _Reader, known: Known) -> bool:
    """Whether the first two lines are none of the names that are known, and no line says who a title is by."""
    given = {fold_name(name) for name in (known.title, known.artist) if name}
    names = given.union(*map(find_names, reader.unsung))
    names |= {fold_name(value) for key, value in reader.tags.items() if key in ("ti", "ar")}
    for index, line in enumerate(reader.lines[:2]):
        is_early = line.time_s is not None and line.time_s <= FIRST_SUNG_S
        if is_early and fold_name(line.full_text) in names:
            return False
        if given and is_name_head(line.full_text, given, is_first=index == 0):
            return False
    return not any(" by " in line.full_text and is_title_line(line.full_text, names) for line in reader.lines)
