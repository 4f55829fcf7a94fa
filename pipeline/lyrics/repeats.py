"""Lyrics as a list of sections; what is written short ("Repeat chorus", "(x2)", an empty "[Chorus]") is spelled out."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from pipeline.lyrics.headers import Header, RepeatMark

REFERABLE = frozenset({"chorus", "prechorus", "postchorus"})  # an empty section of this name means the earlier one


class Token(NamedTuple):  # not a dataclass, for speed: there is one for every input line
    """One meaningful input line: a header, a repeat mark, a blank (none of both and no text) or a lyric."""

    raw: str
    text: str = ""
    times_s: tuple[float, ...] = ()
    header: Header | None = None
    mark: RepeatMark | None = None
    repeats: int = 1
    is_expanded: bool = False
    is_doubtful: bool = False
    stanza: int = 0  # counts blank lines and headers before it
    line_number: int = 0  # of the input line, from 1
    end_s: float | None = None
    words: tuple[tuple[str, float], ...] = ()
    singer: str = ""
    side: int = 0  # of a line that holds its translation, too: 1 the first, 2 the second
    is_plain: bool = False  # see lyrics_plain

    @property
    def is_lyric(self) -> bool:
        """Whether this is a line to sing."""
        return self.header is None and self.mark is None and bool(self.text)

    @property
    def time_s(self) -> float | None:
        """When the line is sung first."""
        return self.times_s[0] if self.times_s else None


@dataclass(slots=True)
class Block:
    """One section: its header token (None before the first header) and its lyric tokens."""

    header: Token | None = None
    lines: list[Token] = field(default_factory=list)
    stanza_start: int = 0  # index of the first line after the last blank

    def matches(self, name: str) -> bool:
        """Whether this is a section of that name with words."""
        return (
            bool(self.lines)
            and self.header is not None
            and self.header.header is not None
            and self.header.header.name == name
        )


def order_by_time(tokens: list[Token]) -> list[Token]:
    """Put lines in the order of their stamps; a line with several stamps is sung several times.

    Each line keeps its header: where neighbours after sorting come from different sections, the header is repeated.
    Lines without a stamp stay behind the line before them. Lyrics whose stamps rise already are returned as they are.
    """
    times = [token.times_s for token in tokens if token.is_lyric and token.times_s]
    if all(len(time) == 1 for time in times) and all(a <= b for a, b in pairwise(times)):
        return tokens
    placed: list[tuple[float, int, Token, Token | None]] = []
    last_s = 0.0
    origin: Token | None = None
    used = _find_used_headers(tokens)
    for order, token in enumerate(tokens):
        if token.header is not None:
            origin = token
        if token.is_lyric:
            last_s = token.times_s[0] if token.times_s else last_s
            for index, time_s in enumerate(token.times_s or (last_s,)):
                single = token._replace(times_s=(time_s,) if token.times_s else (), is_expanded=index > 0)
                single = single._replace(words=(), end_s=None) if index else single
                placed.append((time_s, order, single, origin))
        elif token.mark is not None or (token.header is not None and id(token) not in used):
            last_s = token.times_s[0] if token.times_s else last_s
            placed.append((last_s, order, token, token if token.header is not None else origin))
    return _regroup(placed)


def _find_used_headers(tokens: list[Token]) -> set[int]:
    """Ids of the header tokens that have lines of their own."""
    used: set[int] = set()
    origin: Token | None = None
    for token in tokens:
        if token.header is not None:
            origin = token
        elif token.is_lyric and origin is not None:
            used.add(id(origin))
    return used


def _regroup(placed: list[tuple[float, int, Token, Token | None]]) -> list[Token]:
    ordered: list[Token] = []
    current: Token | None = None
    opened: set[int] = set()  # ids of the headers written so far
    for _, _, token, origin in sorted(placed, key=lambda entry: entry[:2]):
        if token.header is None and origin is not None and origin is not current:
            ordered.append(origin._replace(is_expanded=id(origin) in opened))
        opened.add(id(origin))
        ordered.append(token)
        current = origin
    return ordered


def build_blocks(tokens: Iterable[Token], max_lines: int) -> tuple[list[Block], list[Token]]:
    """Group tokens into sections and spell repeats out; return the sections, and the tokens over `max_lines`."""
    builder = _Builder(max_lines)
    for token in tokens:
        builder.add(token)
    builder.close()
    return [block for block in builder.blocks if block.lines or block.header], builder.excess


class _Builder:
    def __init__(self, max_lines: int) -> None:
        self.blocks = [Block()]
        self.excess: list[Token] = []
        self._max_lines = max_lines
        self._num_lines = 0

    def add(self, token: Token) -> None:
        block = self.blocks[-1]
        if token.header is not None:
            if self._continues(block, token):
                return
            self.close()
            self.blocks.append(Block(header=token))
        elif token.mark is not None:
            self._repeat(token.mark)
        elif token.text:
            self._extend(block, [token])
            if token.repeats > 1:
                self._extend(block, [_copy(token)] * (token.repeats - 1))
        else:
            block.stanza_start = len(block.lines)

    def close(self) -> None:
        """Finish the open section: an empty chorus means the earlier one, and a counted one is sung again."""
        block = self.blocks[-1]
        header = block.header.header if block.header else None
        if header is None or block.header is None:
            return
        if not block.lines and header.name in REFERABLE and (earlier := self._find(header.name, header.number)):
            self._extend(block, [_copy(line) for line in earlier.lines])
        for _ in range(header.repeats - 1 if block.lines else 0):
            self._sing_again(block)

    @staticmethod
    def _continues(block: Block, token: Token) -> bool:
        """Whether a header repeats the open one without words on one line, as SongBloom's [intro] [intro] do."""
        last, header = block.header, token.header
        is_same = last is not None and last.header == header and last.line_number == token.line_number
        return is_same and header is not None and not block.lines and header.name not in REFERABLE

    def _repeat(self, mark: RepeatMark) -> None:
        block = self.blocks[-1]
        if self._num_lines >= self._max_lines:
            return
        if mark.name is None:
            stanza = block.lines[block.stanza_start :] or block.lines
            for _ in range(mark.repeats):
                self._extend(block, [_copy(line) for line in stanza])
            return
        self.close()
        earlier = self._find(mark.name, mark.number)
        if earlier is None:
            return
        for _ in range(mark.repeats):
            self._sing_again(earlier)

    def _sing_again(self, block: Block) -> None:
        if self._num_lines >= self._max_lines:
            return
        header = block.header
        if header is not None and header.header is not None:
            header = header._replace(header=replace(header.header, repeats=1), is_expanded=True)
        self.blocks.append(Block(header=header))
        self._extend(self.blocks[-1], [_copy(line) for line in block.lines])

    def _find(self, name: str, number: int | None) -> Block | None:
        found = [block for block in self.blocks if block.matches(name)]
        numbered = [
            block for block in found if block.header and block.header.header and block.header.header.number == number
        ]
        if not found:
            return None
        return (numbered or found)[-1]

    def _extend(self, block: Block, lines: list[Token]) -> None:
        room = max(self._max_lines - self._num_lines, 0)
        if len(lines) <= room:
            block.lines += lines
            self._num_lines += len(lines)
            return
        block.lines += lines[:room]
        self._num_lines += len(lines[:room])
        self.excess += [line for line in lines[room:] if not line.is_expanded]


def _copy(line: Token) -> Token:
    return line._replace(is_expanded=True, times_s=(), end_s=None, words=(), repeats=1)
