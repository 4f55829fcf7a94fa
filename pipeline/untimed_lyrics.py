"""Lyrics without times in SongBloom's format: for songs that do not exist yet."""

from pipeline.lyrics import LyricLine, ParsedLyrics
from pipeline.song import Line, Section
from pipeline.songbloom_format import format_lyrics
from shards.schema import VOCAL_LABELS

# What a header without words stands for where nobody says how long it is: four tags of one second, a bar or two.
INSTRUMENTAL_TAGS = 4


def format_untimed(parsed: ParsedLyrics, *, instrumental_tags: int = INSTRUMENTAL_TAGS) -> str:
    """Write parsed lyrics in SongBloom's format; lines before any header are a verse."""
    under: dict[int, list[LyricLine]] = {}
    for line in parsed.lines:
        under.setdefault(line.section_index, []).append(line)
    labels = {-1: "verse", **{index: header.label for index, header in enumerate(parsed.headers)}}
    sections, lines = [], []
    clock_s = 0.0  # one tag or one line takes one second of a clock of its own
    for index, label in sorted(labels.items()):
        sung = under.get(index, [])
        if not sung and (index < 0 or label in VOCAL_LABELS):
            continue
        start_s = clock_s
        for line in sung:
            lines.append(Line(line.text, clock_s, clock_s + 1, label, 1.0, "lyrics", "kept"))
            clock_s += 1
        clock_s += 0 if sung else instrumental_tags
        sections.append(Section(label, start_s, clock_s))
    return format_lyrics(sections, lines)
