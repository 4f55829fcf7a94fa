r"""Muse's chat: one turn per section, `[Verse 1][desc:...][lyrics:\n...]`, the style in the first; as JSON lines."""

import json
import re

from pipeline.lyric_formats.document import DISPLAY_NAMES, Changes, Document, LyricFormatError, TextLine, TextSection
from pipeline.lyric_formats.one_line import read_json_lines
from pipeline.lyrics.headers import match_header

_OPENING = "Please generate a song in the following style:{}.\nNext, I will tell you the requirements and lyrics for "
_OPENING += "the song fragment to be generated, section by section.\n"
_STYLE = re.compile(r"following style:\s*(?P<style>.*?)\.?\n")
_TURN = re.compile(
    r"\[(?P<name>[^\[\]:]{1,60})\](?:\[desc:(?P<desc>[^\[\]]*)\])?(?:\[lyrics:\n?(?P<lyrics>[^\[\]]*)\])?"
    r"(?P<phonemes>\[phoneme:[^\[\]]*\])?"
)


def write_muse(document: Document) -> str:
    """Write a fitted document as one row; phonemes are of Muse's own kind and left out, which it allows."""
    turns: list[dict[str, str]] = []
    for section in document.sections:
        content = f"[{section.display_name}]" + (f"[desc:{section.description}]" if section.description else "")
        if section.lines:
            content += "[lyrics:\n" + "\n".join(line.text for line in section.lines) + "]"
        if not turns:
            content = _OPENING.format(document.style) + content
        turns += [{"role": "user", "content": content}, {"role": "assistant", "content": ""}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def read_muse(text: str, changes: Changes) -> list[Document]:
    """Read rows of `messages`; phonemes and audio tokens are counted and left out."""
    return [_read_row(row.get("messages"), changes) for row in read_json_lines(text)]


def _read_row(messages: object, changes: Changes) -> Document:
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise LyricFormatError('a row without a list of "messages"; Muse writes {"messages": [{"role": "user", ...}]}')
    style = ""
    sections = []
    for turn in messages:
        content = str(turn.get("content", ""))
        if turn.get("role") != "user":
            changes.add("audio tokens", content, content.count("<AUDIO_"))
            continue
        if found := _STYLE.search(content):
            style = found["style"].strip()
        for part in _TURN.finditer(content):
            sections.append(_read_turn(part, changes))
    if not sections:
        raise LyricFormatError("no section in it; Muse writes [Verse 1][desc:...][lyrics:...]")
    return Document(sections=tuple(sections), style=style)


def _read_turn(part: re.Match[str], changes: Changes) -> TextSection:
    if part["phonemes"]:
        changes.add("phonemes", part["phonemes"])
    name = part["name"].strip()
    header = match_header(f"[{name}]")
    if header is None:
        changes.add("unknown tag", f"[{name}] read as [verse]")
    label = header.label if header else "verse"
    lines = tuple(TextLine(text=" ".join(line.split())) for line in (part["lyrics"] or "").split("\n") if line.strip())
    is_plain = name == DISPLAY_NAMES[label]
    return TextSection(
        label=label, name="" if is_plain else name, description=(part["desc"] or "").strip(), lines=lines
    )
