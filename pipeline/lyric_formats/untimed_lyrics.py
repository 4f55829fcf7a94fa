"""Lyrics without times in SongBloom's format: for songs that do not exist yet, and for those that nobody cleaned."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.lyric_formats.document import Changes, TextSection
from pipeline.lyric_formats.fitting import fit
from pipeline.lyric_formats.formats import FORMATS, convert
from pipeline.lyric_formats.reading import document_of
from pipeline.lyric_formats.songbloom import clean_line
from pipeline.lyrics.parse import ParsedLyrics
from pipeline.song import Section

MAX_UNSUNG_SHARE = 0.5  # of a song, for sections without words whose length nobody knows
_FORMAT = FORMATS["songbloom"]


def format_untimed(parsed: ParsedLyrics) -> str:
    """Write parsed lyrics in SongBloom's format; a stanza before any header is a verse, ad-libs are left out."""
    return convert(document_of(parsed), _FORMAT, Changes(), "").strip()


def list_sections(parsed: ParsedLyrics) -> tuple[TextSection, ...]:
    """Return the sections that `format_untimed` writes, each line whole; those without words have a duration."""
    capacity = replace(_FORMAT.capacity, split_text=lambda text: [text] if clean_line(text) else [])
    return fit(document_of(parsed), capacity, Changes()).sections


def share_out(sections: Sequence[TextSection], duration_s: float) -> list[Section]:
    """Return sections that cover a song without gaps, in their order: an estimate, for want of anything that was heard.

    Those without words take their durations, all together at most MAX_UNSUNG_SHARE of the song where there are words;
    the others share the rest by their letters.
    """
    letters = [sum(len(clean_line(line.text)) for line in section.lines) for section in sections]
    unsung_s = [0.0 if section.lines else section.duration_s or 0.0 for section in sections]
    room_s = duration_s * (MAX_UNSUNG_SHARE if sum(letters) else 1.0)
    scale = min(1.0, room_s / sum(unsung_s)) if sum(unsung_s) else 1.0
    sung_s = duration_s - scale * sum(unsung_s)
    spans: list[Section] = []
    clock_s = 0.0
    for section, count, rest_s in zip(sections, letters, unsung_s, strict=True):
        length_s = scale * rest_s + (sung_s * count / sum(letters) if count else 0.0)
        spans.append(Section(section.label or "verse", clock_s, min(clock_s + length_s, duration_s)))
        clock_s = spans[-1].end_s
    spans[-1].end_s = duration_s
    return spans
