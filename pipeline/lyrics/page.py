"""What a page or an export glues to the words: one input line to the pieces that stand for something each.

Text copied from a page loses its layout, so headings, buttons and counters of the page end up inside lyric lines:
"You might also like[Chorus]", "the end12Embed". Songs written on one line are cut at their tags.
"""

import re
from collections.abc import Iterator

from pipeline.lyrics.headers import match_header
from pipeline.lyrics.line_text import LINE_BREAK_TAGS, tidy_line

_SQUARE = re.compile(r"(\[[^\[\]]{1,40}\])")
_SENTENCE_END = re.compile(r"(?<!\d)[.。;；]+|[.。;；]+(?!\d)")
# The head of a page: "35 ContributorsTranslationsDeutschQuiet Harbor Lyrics", then the first line without a blank.
_PAGE_HEAD = re.compile(
    r"\d+ Contributors?.{0,2000}?(?: Lyrics|Read More)(?=[^\sa-z]|$)|(?:[A-Z0-9]\S*\s){1,8}Lyrics(?=\[)"
)
# Offers between two sections; glued where a capital or a bracket follows without a blank.
_OFFERS = re.compile(
    r"(?:See (?-i:[A-Z]).{0,60}? Live)?(?:Get tickets as low as \$[\d,]+)?(?:You might also like)?(?-i:(?=[^\sa-z]|$))",
    re.IGNORECASE,
)
_MAY_BE_GLUED = re.compile(r"Contributor|Lyrics|Embed$|(?i:^See .* Live|^Get tickets|^You might)")
_COUNTER = re.compile(r"(?:(?<=\S)(?<![\d.])|(?<=\s)(?=\d))(?:\d[\d.,]{0,8}K?)?Embed$")


def split_line(text: str) -> Iterator[str]:
    """Yield the tidy pieces of an input line, at least one; a line of blanks or markup alone gives one empty piece."""
    parts = [tidy_line(part) for part in (LINE_BREAK_TAGS.split(text) if "<" in text else [text])]
    for part in [part for part in parts if part] or [""]:
        for piece in _split_glued(part):
            yield from _split_tagged(piece)


def _split_glued(text: str) -> list[str]:
    """Split page furniture off both ends of a line."""
    if not _MAY_BE_GLUED.search(text):
        return [text]
    pieces = []
    for pattern in (_PAGE_HEAD, _OFFERS):
        head = pattern.match(text)
        if head and 0 < head.end() < len(text):
            pieces.append(head[0].strip())
            text = text[head.end() :].strip()
    tail = _COUNTER.search(text) if text.endswith("Embed") else None
    if tail and tail.start():
        return [*pieces, text[: tail.start()].strip(), tail[0]]
    return [*pieces, text]


def _split_tagged(text: str) -> Iterator[str]:
    """Split a song on one line ("[verse] One. Two , [chorus] ...") at its tags and periods."""
    if text.count("[") < 2:
        yield text
        return
    pieces = [piece.strip(" ,;") for piece in _SQUARE.split(text)]
    if sum(_SQUARE.fullmatch(piece) is not None and match_header(piece) is not None for piece in pieces) < 2:
        yield text
        return
    for piece in pieces:
        sentences = [piece] if _SQUARE.fullmatch(piece) else _SENTENCE_END.split(piece)
        yield from filter(None, map(str.strip, sentences))
