"""Sections that cover the song without gaps: from the headers of the lyrics where given, else from repetition."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.lyric_formats.songbloom import format_lyrics
from pipeline.lyrics.sounds import sound_key
from pipeline.song import Drop, Line, Section, Song
from pipeline.stage import Stage
from shards.schema import VOCAL_LABELS


class LabelSections(Stage):
    """Turn timed lines into sections with start and end, and write the lyrics in SongBloom's format.

    Reads:  song.lines, song.header_labels, song.duration_s
    Adds:   song.sections (labels of shards.schema.SECTION_LABELS), song.songbloom_lyrics
    """

    name: ClassVar[str] = "label_sections"
    version: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Lengths in seconds."""

        seconds_per_tag: float = 1.0  # 1 for the 150 s models, 5 for the 240 s one
        min_edge_s: float = 1.0  # shorter rests before the first and after the last line belong to the vocal section
        min_inst_s: float = 4.0  # a pause between sections that becomes an instrumental of its own
        min_headed_inst_s: float = 1.5  # the same where the lyrics have a header for it
        lead_s: float = 0.15  # a section starts this much before its first word

    def __init__(self, config: Config | None = None) -> None:
        """Keep the settings."""
        self.config = config or LabelSections.Config()

    def process(self, song: Song) -> Song | Drop:
        """Label one song; see the class."""
        song.sections = self.label(song.lines, song.header_labels, song.duration_s)
        song.songbloom_lyrics = format_lyrics(song.sections, song.lines, seconds_per_tag=self.config.seconds_per_tag)
        return song

    def label(self, lines: Sequence[Line], header_labels: Sequence[str], duration_s: float) -> list[Section]:
        """Return sections over [0, duration_s] and set `section` of lines that had no header, in place."""
        if not lines:
            return [Section("inst", 0.0, duration_s)]
        groups = self._groups(lines)
        sections: list[Section] = []
        first_s = max(groups[0][0].start_s - self.config.lead_s, 0.0)
        if first_s >= self.config.min_edge_s:
            sections.append(Section("intro", 0.0, first_s))
        clock_s = sections[-1].end_s if sections else 0.0
        for group, after in zip(groups, [*groups[1:], None], strict=True):
            end_s = group[-1].end_s
            next_s = duration_s if after is None else max(after[0].start_s - self.config.lead_s, end_s)
            is_rest = next_s - end_s >= self._min_rest_s(group, after, header_labels)
            vocal_end_s = end_s if is_rest else next_s
            sections.append(Section(group[0].section, clock_s, vocal_end_s))
            if is_rest:
                sections.append(Section("outro" if after is None else "inst", end_s, next_s))
            clock_s = next_s
        return sections

    def _groups(self, lines: Sequence[Line]) -> list[list[Line]]:
        """Cut lines into sections: by header, else by what repeats and by long pauses."""
        if all(line.section_index < 0 for line in lines):
            counts = Counter(sound_key(line.text) for line in lines)
            for line in lines:
                line.section = "chorus" if counts[sound_key(line.text)] > 1 else "verse"
        groups: list[list[Line]] = [[lines[0]]]
        for before, line in zip(lines[:-1], lines[1:], strict=True):
            same = (before.section, before.section_index) == (line.section, line.section_index)
            if same and line.start_s - before.end_s < self.config.min_inst_s:
                groups[-1].append(line)
            else:
                groups.append([line])
        return groups

    def _min_rest_s(self, group: list[Line], after: list[Line] | None, header_labels: Sequence[str]) -> float:
        if after is None:
            return self.config.min_edge_s
        between = header_labels[group[-1].section_index + 1 : after[0].section_index]
        has_header = any(label not in VOCAL_LABELS for label in between)
        return self.config.min_headed_inst_s if has_header else self.config.min_inst_s
