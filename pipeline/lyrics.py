"""Lyrics as the web gives them to clean lines: plain text, LRC, SRT, SongBloom's and other systems' tags.

Every input line ends as a lyric line, as a section header or as a dropped line with its reason. Nothing here hears the
song: repeats that are written short are spelled out and marked, copies are marked, ad-libs are kept apart, and the
audio decides later.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

from pipeline.lyrics_bilingual import find_translations
from pipeline.lyrics_headers import match_header, match_repeat, split_count
from pipeline.lyrics_metadata import (
    MetadataReason,
    classify_metadata,
    find_names,
    fold_name,
    is_title_line,
    looks_like_title_line,
)
from pipeline.lyrics_page import split_line
from pipeline.lyrics_repeats import Block, Token, build_blocks, order_by_time
from pipeline.lyrics_stamps import StampedLine, read_stamps
from pipeline.lyrics_text import (
    HAN,
    fix_case,
    is_chinese,
    normalize_word,
    simplify,
    split_adlibs,
    split_words,
    strip_marks,
)
from pipeline.song import DroppedLine
from shards.schema import VOCAL_LABELS

__all__ = ["DROP_REASONS", "LyricHeader", "LyricLine", "ParsedLyrics", "normalize_word", "parse_lyrics", "split_words"]

MAX_LINE_CHARS = 500  # a sung line has under 150
MAX_INPUT_LINES = 5000  # blank lines, stamps and credits too
MAX_LINES = 1000  # after repeats are spelled out; the longest songs have about 250
MAX_TITLE_TIME_S = 0.5  # LRC writers stamp "Title - Artist" with 0

DropReason = (
    MetadataReason | Literal["timestamp", "repeat", "direction", "symbols", "translation", "too_long", "too_many"]
)
DROP_REASONS: tuple[str, ...] = (*get_args(MetadataReason), *get_args(get_args(DropReason)[1]))

_ASIDE = re.compile(r"\[[^\[\]]*\]|【[^【】]*】|\{[^{}]*\}")
_PERFORMER = re.compile(  # with a colon at the start of a line, in parentheses anywhere
    r"^\(?(?:both|all|together|male|female|boys?|girls?|man|woman|men|women|him|her|he|she|group|choir|duet|solo|everyone|"
    r"男|女|合|合唱|男女|齐|众|对白|白|旁白|rap)\)?\s*:\s*|\((?:both|all|together|male|female|男|女|合|男女|齐|众)\)\s*",
    re.IGNORECASE,
)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LyricLine:
    """One line to sing, as given; whether it is sung is for the audio to say."""

    text: str  # without ad-libs, unless the line is nothing but one
    full_text: str  # with them in their place
    section: str | None  # label of its header, None before the first
    section_index: int  # into ParsedLyrics.headers; -1 before the first
    time_s: float | None  # LRC or SRT stamp, offset applied
    raw: str
    line_number: int  # of the input line, from 1
    repeats: int = 1  # how often the input says it is sung here; each further time is a line of its own
    edit: Literal["kept", "expanded"] = "kept"  # expanded: from "(x2)", "Repeat chorus", a second stamp
    adlibs: tuple[str, ...] = ()  # parts in parentheses
    is_adlib: bool = False  # the whole line is in parentheses
    is_copy: bool = False  # equal to the line before it in its section
    is_doubtful: bool = False  # reads like "Title - Artist", without proof
    stanza: int = 0  # lines between blank lines or headers share one; a hint at sections where headers are missing


@dataclass(frozen=True, kw_only=True, slots=True)
class LyricHeader:
    """A section header; expanded ones stand for repeats."""

    label: str
    name: str  # tells "prechorus" from "verse"
    raw: str
    time_s: float | None
    line_number: int
    number: int | None = None  # 2 in "Verse 2"
    edit: Literal["kept", "expanded"] = "kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedLyrics:
    """What one lyrics file says."""

    lines: tuple[LyricLine, ...]
    headers: tuple[LyricHeader, ...]
    dropped: tuple[DroppedLine, ...]
    has_times: bool
    has_headers: bool
    is_marked_instrumental: bool  # no lines, and the file says so


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
        text: what pipeline.lyrics_encoding.decode_lyrics returned.
        title: of the song, if known: proof that a "Title - Artist" line is one.
        artist: likewise.
        language: ISO 639-1, if known; guards rules that hold for one language.
        keep_traditional: leave traditional Chinese as it is.
        keep_case: leave wrong capitals as they are; some formats mean loudness by them.
    """
    tokens, dropped, names = _classify(text)
    names |= {fold_name(name) for name in (title, artist) if name}
    tokens, titles = _split_titles(tokens, names)
    translations = find_translations(tokens, language)
    kept = [_strip_performer(token, names) for index, token in enumerate(tokens) if index not in translations]
    blocks, excess = build_blocks(order_by_time(kept), MAX_LINES)
    dropped += [_drop(token, "metadata") for token in titles]
    dropped += [_drop(tokens[index], "translation") for index in sorted(translations)]
    dropped += [_drop(token, "too_many") for token in excess]
    lyrics = "\n".join(line.text for block in blocks for line in block.lines)
    simplifies = not keep_traditional and language in (None, "zh") and is_chinese(lyrics)
    lines, headers = _finish(
        blocks, partial(_finish_line, language=language, simplifies=simplifies, keep_case=keep_case)
    )
    return ParsedLyrics(
        lines=tuple(lines),
        headers=tuple(headers),
        dropped=tuple(dropped),
        has_times=any(line.time_s is not None for line in lines),
        has_headers=bool(headers),
        is_marked_instrumental=not lines and _INSTRUMENTAL.search(text) is not None,
    )


def _classify(text: str) -> tuple[list[Token], list[DroppedLine], set[str]]:
    """Sort input lines into tokens and dropped lines; also return the names that the dropped ones mention."""
    tokens: list[Token] = []
    dropped: list[DroppedLine] = []
    names: set[str] = set()
    stanza = 0
    for line_number, line in enumerate(read_stamps(text), start=1):
        if line_number > MAX_INPUT_LINES:
            dropped += [DroppedLine(line.raw.strip(), "too_many", line_number)] if line.raw.strip() else []
            continue
        pieces = list(split_line(line.text))
        for text_piece in pieces:
            raw = line.raw if len(pieces) == 1 else text_piece
            found, drop = _classify_piece(replace(line, text=text_piece, raw=raw))
            stanza += any(not token.is_lyric for token in found)
            tokens += [replace(token, stanza=stanza, line_number=line_number) for token in found]
            if drop is not None:
                whole = raw.strip() if drop.text == text_piece else drop.text
                dropped.append(DroppedLine(whole, drop.reason, line_number))
                names |= find_names(drop.text)
    return tokens, dropped, names


def _classify_piece(piece: StampedLine) -> tuple[list[Token], DroppedLine | None]:
    """Return the tokens that a piece stands for, and what of its text is not sung, if anything."""
    text, raw, times_s = piece.text, piece.raw, piece.times_s
    if not text:  # markup or a stamp alone parts stanzas as a blank line does
        reason: DropReason = "timestamp" if piece.is_stamp else "symbols"
        blank = [Token(raw=raw)] if times_s or not piece.is_stamp else []
        return blank, DroppedLine(text, reason) if raw.strip() else None
    if len(text) > MAX_LINE_CHARS:
        return [], DroppedLine(text, "too_long")
    if header := match_header(text):
        token = Token(raw=raw, times_s=times_s[:1], header=replace(header, rest=""))
        if not header.rest:
            return [token], None
        rest, drop = _classify_piece(replace(piece, text=header.rest))
        return [token, *rest], drop
    if mark := match_repeat(text):
        return [Token(raw=raw, times_s=times_s[:1], mark=mark)], DroppedLine(text, "repeat")
    if metadata := classify_metadata(text):
        return [], DroppedLine(text, metadata)
    words = _ASIDE.sub(lambda aside: aside[0] if match_repeat(aside[0]) else " ", text)  # "[x2]" is for split_count
    words, repeats = split_count(" ".join(_PERFORMER.sub("", words).split()))
    has_words = any(char.isalnum() for char in words)
    if _SOUND.fullmatch(text) or _PERFORMER_ALONE.fullmatch(words) or not has_words:
        if any(char.isalnum() for char in text):
            return [], DroppedLine(text, "direction")
        return [Token(raw=raw)], DroppedLine(text, "symbols")  # a bar parts stanzas, too
    return [Token(raw=raw, text=words, times_s=times_s, repeats=repeats)], None


def _strip_performer(token: Token, names: set[str]) -> Token:
    """Take a known name and its colon off a line: "Ada Merrow: we run"."""
    head, colon, words = token.text.partition(":")
    return replace(token, text=words.strip()) if colon and words.strip() and fold_name(head) in names else token


def _split_titles(tokens: list[Token], names: set[str]) -> tuple[list[Token], list[Token]]:
    """Take "Title - Artist" lines out; those without proof stay, marked as doubtful.

    Proof is a name known from elsewhere, or the form together with a place where nothing is sung (outside the vocal
    sections, or at time 0); in Chinese, which has no spaced dashes, a single line of the form is enough.
    """
    first = [index for index, token in enumerate(tokens) if token.is_lyric][:2]
    num_dashed = sum(looks_like_title_line(token.text) for token in tokens)
    has_headers = any(token.header for token in tokens)
    label: str | None = None
    kept: list[Token] = []
    titles: list[Token] = []
    for index, token in enumerate(tokens):
        label = token.header.label if token.header else label
        is_outside = has_headers and label not in VOCAL_LABELS
        is_early = index in first and token.time_s is not None and token.time_s <= MAX_TITLE_TIME_S
        has_form = looks_like_title_line(token.text)
        is_known_name = fold_name(token.text) in names and (is_outside or is_early)
        is_only = num_dashed == 1 and HAN.search(token.text) is not None
        is_heading = index in first and has_headers and label is None and _HEADING.fullmatch(token.raw.strip())
        is_placed = is_heading or has_form and (is_outside or is_early or is_only)
        if token.is_lyric and (is_title_line(token.text, names) or is_known_name or is_placed):
            titles.append(token)
        else:
            kept.append(replace(token, is_doubtful=has_form))
    return kept, titles


def _finish(
    blocks: list[Block], finish_line: Callable[[Token, str | None, int], LyricLine]
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
            line = finish_line(token, label, len(headers) - 1)
            folded = " ".join(map(normalize_word, split_words(line.text)))
            stanza += token.stanza != last_stanza
            lines.append(replace(line, stanza=stanza, is_copy=folded == before and not token.is_expanded))
            before, last_stanza = folded, token.stanza
    return lines, headers


def _finish_line(
    token: Token, label: str | None, section_index: int, *, language: str | None, simplifies: bool, keep_case: bool
) -> LyricLine:
    def mend_case(text: str) -> str:
        return text if keep_case else fix_case(text, language)

    text = simplify(token.text) if simplifies else token.text
    words, adlibs = split_adlibs(text)
    return LyricLine(
        text=mend_case(words or ", ".join(adlibs)),
        full_text=mend_case(strip_marks(text)),
        section=label,
        section_index=section_index,
        time_s=token.time_s,
        raw=token.raw.strip(),
        line_number=token.line_number,
        repeats=token.repeats,
        edit="expanded" if token.is_expanded else "kept",
        adlibs=tuple(map(mend_case, adlibs)),
        is_adlib=not words,
        is_doubtful=token.is_doubtful,
    )


def _drop(token: Token, reason: DropReason) -> DroppedLine:
    return DroppedLine(token.raw.strip(), reason, token.line_number)
