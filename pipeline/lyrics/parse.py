"""Lyrics as the web gives them to clean lines: plain text, LRC, subtitles, karaoke, transcripts, other systems' tags.

Every input line ends as a lyric line, as a section header or as a dropped line with its reason. Nothing here hears the
song: repeats that are written short are spelled out and marked, copies are marked, ad-libs are kept apart, and the
audio decides later.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from typing import Literal, get_args

from pipeline.lyrics.bilingual import find_translations, split_sides
from pipeline.lyrics.headers import match_header, match_repeat, split_count
from pipeline.lyrics.language import stated_language
from pipeline.lyrics.line_text import (
    HAN,
    fix_case,
    is_chinese,
    is_same_line,
    normalize_word,
    simplify,
    split_adlibs,
    split_words,
    strip_marks,
    tidy_line,
)
from pipeline.lyrics.metadata import (
    MetadataReason,
    classify_metadata,
    find_names,
    fold_name,
    is_known_tag,
    is_name_head,
    is_title_line,
    looks_like_title_line,
    may_be_title_line,
)
from pipeline.lyrics.page import split_line
from pipeline.lyrics.parsed import LyricHeader, LyricLine, ParsedLyrics
from pipeline.lyrics.plain import is_plain
from pipeline.lyrics.repeats import Block, Token, build_blocks, order_by_time
from pipeline.lyrics.simple import Known, parse_simple
from pipeline.lyrics.singers import split_singer
from pipeline.lyrics.source import read_source
from pipeline.lyrics.stamps import StampedLine
from pipeline.song import DroppedLine
from shards.schema import VOCAL_LABELS

__all__ = ["DROP_REASONS", "LyricHeader", "LyricLine", "ParsedLyrics", "normalize_word", "parse_lyrics", "split_words"]

MAX_LINE_CHARS = 500  # a sung line has under 150
MAX_SHORT_CHARS = 200  # of lines that are looked up among those split already; tags are shorter
MAX_INPUT_LINES = 5000  # blank lines, stamps and credits too
MAX_LINES = 1000  # after repeats are spelled out; the longest songs have about 250
MAX_TITLE_TIME_S = 0.5  # LRC writers stamp "Title - Artist" with 0

DropReason = (
    MetadataReason
    | Literal[
        "timestamp",
        "repeat",
        "direction",
        "symbols",
        "translation",
        "romanisation",
        "duplicate",
        "too_long",
        "too_many",
    ]
)
DROP_REASONS: tuple[str, ...] = (*get_args(MetadataReason), *get_args(get_args(DropReason)[1]))

_ASIDE = re.compile(r"\[[^\[\]]*\]|【[^【】]*】|\{[^{}]*\}")
_PERFORMER_ALONE = re.compile(
    r"(?!(?i:oh|hey|yeah|baby|darling|listen|remember|because|and|but|so|well|please|say|said|sing|tonight)\b)"
    r"(?:[A-Z][\w.']*(?:\s+(?:&|and|[A-Z][\w.']*)){0,4}|\S{1,4})\s*:"
)
_SOUND = re.compile(
    r"[(*]\s*(?:laugh(?:s|ter|ing)|applause|cheer(?:s|ing)|coughs?|sighs?|gasps?|screams|whistl(?:es|ing)|humming|"
    r"clapping|beatbox(?:ing)?|scratch(?:es|ing)|speaks|speaking|whispers|笑|笑声|掌声|哭声|口哨|哼唱)\s*[)*]",
    re.IGNORECASE,
)
_HEADING = re.compile(r'[#"“].+[^#]')  # of a page, before the first section
_INSTRUMENTAL = re.compile(r"纯音乐|\binstrumental\b", re.IGNORECASE)


def parse_lyrics(
    text: str,
    *,
    title: str | None = None,
    artist: str | None = None,
    language: str | None = None,
    keep_traditional: bool = False,
    keep_case: bool = False,
) -> ParsedLyrics:
    """Clean decoded lyrics.

    Args:
        text: what pipeline.lyrics_encoding.decode_lyrics returned, in any format that pipeline.lyrics_source knows.
        title: of the song, if known: proof that a "Title - Artist" line is one.
        artist: likewise.
        language: of the singing, if known, as a manifest or a tag names it: which of two languages in the file is
            sung; guards rules that hold for one language. What the file itself states is used where it is None.
        keep_traditional: leave traditional Chinese as it is.
        keep_case: leave wrong capitals as they are; some formats mean loudness by them.
    """
    known = Known(title=title, artist=artist, language=language)
    finish = partial(_finish_line, language=stated_language(language) or None, keep_case=keep_case)
    simple = parse_simple(text, known, _classify_text, finish, keep_traditional=keep_traditional, keep_case=keep_case)
    return simple or _parse(text, known, keep_traditional=keep_traditional, keep_case=keep_case)


def _parse(text: str, known: Known, *, keep_traditional: bool, keep_case: bool) -> ParsedLyrics:
    """Clean lyrics of any kind; see parse_lyrics."""
    title, artist, language = known.title, known.artist, known.language
    source = read_source(text)
    stated = stated_language(source.language)
    sung = stated_language(language) or stated or None
    tokens, dropped, names = _classify(source.lines)
    own_names = [name for name in (title, artist, source.title, source.artist) if name]
    names |= {fold_name(name) for name in own_names}
    tokens, titles = _split_titles(tokens, names, {fold_name(name) for name in (title, artist) if name})
    tokens = split_sides(tokens)
    read = find_translations(tokens, sung, own_names)
    kept = [token for index, token in enumerate(tokens) if index not in read] if read else tokens
    if ":" in text:
        kept = [_strip_performer(token, names) if ":" in token.text else token for token in kept]
    blocks, excess = build_blocks(order_by_time(kept), MAX_LINES)
    dropped += [_drop(token, "metadata") for token in titles]
    dropped += [_drop(tokens[index], reason) for index, reason in sorted(read.items())]
    dropped += [_drop(token, "too_many") for token in excess]
    lyrics = "" if text.isascii() else "\n".join(line.text for block in blocks for line in block.lines)
    if not keep_traditional and sung in (None, "zh") and is_chinese(lyrics):
        simple = iter(simplify(lyrics).split("\n"))
        for block in blocks:
            block.lines = [token._replace(text=next(simple)) for token in block.lines]
    lines, headers = _finish(blocks, partial(_finish_line, language=sung, keep_case=keep_case))
    return ParsedLyrics(
        lines=tuple(lines),
        headers=tuple(headers),
        dropped=tuple(dropped),
        has_times=any(line.time_s is not None for line in lines),
        has_headers=bool(headers),
        is_marked_instrumental=not lines and _INSTRUMENTAL.search(text) is not None,
        format_name=source.format_name,
        offset_s=source.offset_s,
        title=source.title,
        artist=source.artist,
        language=stated,
    )


def _classify(lines: Iterable[StampedLine]) -> tuple[list[Token], list[DroppedLine], set[str]]:
    """Sort input lines into tokens and dropped lines; also return the names that the dropped ones mention."""
    tokens: list[Token] = []
    dropped: list[DroppedLine] = []
    names: set[str] = set()
    stanza = 0
    lasting = ""  # who sings until the next mark
    plains: dict[str, bool] = {}  # choruses come again
    for line in lines:
        if line.line_number > MAX_INPUT_LINES:
            dropped += [DroppedLine(line.raw.strip(), "too_many", line.line_number)] if line.raw.strip() else []
            continue
        if line.reason:
            dropped += [DroppedLine(line.raw.strip(), line.reason, line.line_number)] if line.raw.strip() else []
            names |= find_names(line.text) if line.reason == "metadata" else set()
            continue
        text = line.text
        plain = plains.get(text)
        if plain is None:
            plain = plains[text] = len(text) <= MAX_LINE_CHARS and is_plain(text)
        if plain:
            words = text if text.isascii() else text.replace("\u2019", "'")
            singer = line.singer or lasting
            tokens.append(_make_plain_token(line, words, stanza, singer))
            continue
        if not line.text and not line.raw:
            stanza += 1
            tokens.append(Token(raw="", stanza=stanza, line_number=line.line_number))
            continue
        pieces = _split_short(text) if len(text) < MAX_SHORT_CHARS else tuple(split_line(text))
        for text_piece in pieces:
            raw = line.raw if len(pieces) == 1 else text_piece
            found, drop, mark = _classify_piece(
                line if raw is line.raw and text_piece == line.text else _cut_out(line, text_piece, raw)
            )
            lasting = mark or lasting
            stanza += any(not token.is_lyric for token in found)
            for token in found:
                singer = token.singer or lasting if token.is_lyric else ""
                tokens.append(token._replace(stanza=stanza, line_number=line.line_number, singer=singer))
            if drop is not None:
                whole = raw.strip() if drop.text == text_piece else drop.text
                dropped.append(DroppedLine(whole, drop.reason, line.line_number))
                names |= find_names(drop.text)
    return tokens, dropped, names


def _cut_out(line: StampedLine, text: str, raw: str) -> StampedLine:
    """Return a tidy line, or one of its pieces, whose words nobody can time."""
    return line._replace(text=text, raw=raw, words=line.words if raw is line.raw else ())


def _classify_text(text: str) -> tuple[list[Token], DroppedLine | None] | None:
    """Return what a line without stamps stands for and what of it is dropped; None where it is several pieces."""
    pieces = _split_short(text) if len(text) < MAX_SHORT_CHARS else tuple(split_line(text))
    if len(pieces) != 1:
        return None
    tokens, drop, mark = _classify_piece(StampedLine(raw=text, text=pieces[0]))
    return None if mark else (tokens, drop)


@lru_cache(maxsize=2000)  # headers are the same in many files
def _split_short(text: str) -> tuple[str, ...]:
    return tuple(split_line(text)) if text and not is_known_tag(text) else (text,)


def _make_plain_token(line: StampedLine, text: str, stanza: int, singer: str) -> Token:
    place = (line.line_number, line.end_s, line.words, singer)
    return Token(line.raw, text, line.times_s, None, None, 1, False, False, stanza, *place, 0, True)


def _classify_piece(piece: StampedLine) -> tuple[list[Token], DroppedLine | None, str]:
    """Return the tokens that a piece stands for, what of its text is not sung, if anything, and a mark that lasts."""
    text, raw, times_s = piece.text, piece.raw, piece.times_s
    if not text:  # markup or a stamp alone parts stanzas as a blank line does
        reason: DropReason = "timestamp" if piece.is_stamp else "symbols"
        blank = [Token(raw=raw)] if times_s or not piece.is_stamp else []
        return blank, DroppedLine(text, reason) if raw.strip() else None, ""
    if len(text) > MAX_LINE_CHARS:
        return [], DroppedLine(text, "too_long"), ""
    if header := match_header(text):
        token = Token(raw=raw, times_s=times_s[:1], header=replace(header, rest="") if header.rest else header)
        if not header.rest:
            return [token], None, ""
        rest, drop, mark = _classify_piece(piece._replace(text=header.rest))
        return [token, *rest], drop, mark
    if repeat := match_repeat(text):
        return [Token(raw=raw, times_s=times_s[:1], mark=repeat)], DroppedLine(text, "repeat"), ""
    if metadata := classify_metadata(text):
        return [], DroppedLine(text, metadata), ""
    words = _ASIDE.sub(lambda aside: aside[0] if match_repeat(aside[0]) else " ", text)  # "[x2]" is for split_count
    words, singer, lasts = split_singer(words)
    words, repeats = split_count(" ".join(words.split()))
    has_words = any(char.isalnum() for char in words)
    if _SOUND.fullmatch(text) or _PERFORMER_ALONE.fullmatch(words) or not has_words:
        if any(char.isalnum() for char in text):
            return [], DroppedLine(text, "direction"), ""
        return [Token(raw=raw)], DroppedLine(text, "symbols"), ""  # a bar parts stanzas, too
    token = Token(
        raw=raw,
        text=words,
        times_s=times_s,
        repeats=repeats,
        end_s=piece.end_s,
        words=piece.words,
        singer=singer or piece.singer,
    )
    return [token], None, singer if lasts else ""


def _strip_performer(token: Token, names: set[str]) -> Token:
    """Take a known name and its colon off a line: "Ada Merrow: we run"."""
    head, colon, words = token.text.partition(":")
    is_mark = colon and words.strip() and any(map(str.isalpha, head)) and fold_name(head) in names
    return token._replace(text=words.strip(), singer=token.singer or head.strip()) if is_mark else token


def _split_titles(tokens: list[Token], names: set[str], given_names: set[str]) -> tuple[list[Token], list[Token]]:
    """Take "Title - Artist" lines out; those without proof stay, marked as doubtful.

    Proof is a name known from elsewhere, or the form together with a place where nothing is sung (outside the vocal
    sections, or at time 0); in Chinese, which has no spaced dashes, a single line of the form is enough. Of the first
    two lines also one that is the given artist goes, or the given title with "lyrics" beside it.
    """
    first = list(islice((index for index, token in enumerate(tokens) if token.is_lyric), 2))
    joined = {i for i, token in enumerate(tokens) if token.text and may_be_title_line(token.text)}
    formed = {i for i in joined if looks_like_title_line(tokens[i].text)}
    has_headers = any(token.header for token in tokens)
    label: str | None = None
    kept: list[Token] = []
    titles: list[Token] = []
    for index, token in enumerate(tokens):
        if token.header:
            label = token.header.label
        is_outside = has_headers and label not in VOCAL_LABELS
        if not token.is_lyric or not (is_outside or index in joined or index in first):
            kept.append(token)
            continue
        is_early = index in first and token.time_s is not None and token.time_s <= MAX_TITLE_TIME_S
        has_form = index in formed
        is_known_name = (is_outside or is_early) and fold_name(token.text) in names
        is_head = index in first and is_name_head(token.text, given_names, is_first=index == first[0])
        is_only = has_form and len(formed) == 1 and HAN.search(token.text) is not None
        is_heading = index in first and has_headers and label is None and _HEADING.fullmatch(token.raw.strip())
        is_placed = is_heading or has_form and (is_outside or is_early or is_only)
        if is_placed or is_known_name or is_head or (index in joined and is_title_line(token.text, names)):
            titles.append(token)
        else:
            kept.append(token._replace(is_doubtful=True) if has_form else token)
    return kept, titles


def _finish(
    blocks: list[Block], finish_line: Callable[[Token, str | None, int, int, str], LyricLine]
) -> tuple[list[LyricLine], list[LyricHeader]]:
    """Write the lines and headers of the spelled-out sections."""
    lines: list[LyricLine] = []
    headers: list[LyricHeader] = []
    stanza = -1
    for block in blocks:
        label = None
        last_stanza = -1
        if block.header is not None and block.header.header is not None:
            header = block.header.header
            edit: Literal["kept", "expanded"] = "expanded" if block.header.is_expanded else "kept"
            headers.append(
                LyricHeader(
                    label=header.label,
                    name=header.name,
                    number=header.number,
                    raw=block.header.raw,
                    time_s=block.header.time_s,
                    line_number=block.header.line_number,
                    edit=edit,
                )
            )
            label = header.label
        before = ""
        for token in block.lines:
            line = finish_line(token, label, len(headers) - 1, stanza + (token.stanza != last_stanza), before)
            stanza, last_stanza, before = line.stanza, token.stanza, line.text
            lines.append(line)
    return lines, headers


def _finish_line(
    token: Token,
    label: str | None,
    section_index: int,
    stanza: int,
    before: str,
    *,
    language: str | None,
    keep_case: bool,
) -> LyricLine:
    """Write one line; `before` is the line before it in its section."""
    text = token.text
    adlibs: tuple[str, ...] = ()
    if token.is_plain:
        words = full_text = text.rstrip(" ,.")
    else:
        words, adlibs = split_adlibs(text)
        full_text = strip_marks(text)
    is_adlib = not words or token.singer == "background"
    if is_adlib:
        adlibs = adlibs or (words,)
        words = words or ", ".join(adlibs)
    if not keep_case:
        words = fix_case(words, language)
        full_text = words if full_text == words or token.is_plain else fix_case(full_text, language)
        adlibs = tuple(fix_case(adlib, language) for adlib in adlibs)
    return LyricLine(
        words,
        full_text,
        label,
        section_index,
        token.times_s[0] if token.times_s else None,
        token.raw.strip(),
        token.line_number,
        token.repeats,
        "expanded" if token.is_expanded else "kept",
        adlibs,
        is_adlib,
        bool(before) and not token.is_expanded and is_same_line(before, words),
        token.is_doubtful,
        stanza,
        token.end_s,
        _agree(token.words, token.text) if token.words else (),
        token.singer,
    )


def _agree(words: tuple[tuple[str, float], ...], text: str) -> tuple[tuple[str, float], ...]:
    """Return the stamped words that make up a line, marks before and after them left out; empty if they do not."""
    wanted = "".join(text.split())
    if len(words) > len(wanted):
        return ()
    tidy = [("".join(tidy_line(word).split()), word, time_s) for word, time_s in words]
    for begin in range(min(len(tidy), 3)):
        for end in range(len(tidy), max(len(tidy) - 3, begin), -1):
            if "".join(part for part, _, _ in tidy[begin:end]) == wanted:
                return tuple((tidy_line(word), time_s) for _, word, time_s in tidy[begin:end])
    return ()


def _drop(token: Token, reason: str) -> DroppedLine:
    return DroppedLine(token.raw.strip(), reason, token.line_number)
