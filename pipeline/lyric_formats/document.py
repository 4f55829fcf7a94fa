"""Lyrics as all formats see them: sections of lines, with what is known of times, names and style."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.lyrics.encoding import LyricsError

DISPLAY_NAMES = {
    "verse": "Verse",
    "chorus": "Chorus",
    "bridge": "Bridge",
    "intro": "Intro",
    "outro": "Outro",
    "inst": "Instrumental",
    "silence": "Silence",
    "prechorus": "Pre-Chorus",
    "postchorus": "Post-Chorus",
}


class LyricFormatError(LyricsError):
    """Lyrics that are not in the format that was named, or that a format cannot hold at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLine:
    """One sung line; ad-libs stand in parentheses."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    words: tuple[tuple[str, float], ...] = ()  # each with the second that it starts at


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSection:
    """Lines under one header; without a label they are a stanza that nobody named."""

    label: str | None  # one of SECTION_LABELS
    name: str = ""  # "Pre-Chorus 2", "Guitar Solo"; empty: the label says it
    description: str = ""  # how it sounds
    start_s: float | None = None
    duration_s: float | None = None
    lines: tuple[TextLine, ...] = ()

    @property
    def display_name(self) -> str:
        """The name for people."""
        return self.name or DISPLAY_NAMES[self.label or "verse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One song's lyrics."""

    sections: tuple[TextSection, ...]
    title: str = ""
    artist: str = ""
    style: str = ""  # tags of genre, mood, voice
    duration_s: float | None = None


@dataclass(slots=True)
class Changes:
    """What a conversion left out or changed: for each kind how often, and the first example."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: object = "", count: int = 1) -> None:
        """Count `count` more of `kind`."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.examples.setdefault(kind, str(example)[:80])

    def listed(self) -> list[dict[str, Any]]:
        """Return the kinds with their counts and examples, for JSON."""
        return [{"what": kind, "count": n, "example": self.examples[kind]} for kind, n in self.counts.items()]
