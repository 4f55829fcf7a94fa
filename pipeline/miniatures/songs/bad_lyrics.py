"""Lyrics as bad web sources give them, together with what was done to each line."""

from dataclasses import dataclass, field, replace

from pipeline.miniatures.songs.songs import SyntheticSong


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyLine:
    """One line of a bad lyrics file.

    `keep` says whether (with `clean_text` for wrong words) it is sung; `truth_line` counts in the song's lines, and
    `expands_to` lists the lines that a shorthand stands for.
    """

    text: str
    kinds: tuple[str, ...] = ()
    keep: bool = False
    truth_line: int | None = None
    clean_text: str | None = None
    header: str | None = None
    expands_to: tuple[int, ...] = field(default=())


def write_clean(song: SyntheticSong) -> list[NoisyLine]:
    """Return the right lyrics: headers, lines, and a blank line between sections."""
    found: list[NoisyLine] = []
    for index, section in enumerate(song.sections):
        found += [NoisyLine(text="")] if found else []
        found.append(NoisyLine(text=f"[{section['label']}]", keep=True, header=section["label"]))
        found += [
            NoisyLine(text=line["text"], keep=True, truth_line=k, clean_text=line["text"])
            for k, line in enumerate(song.lines)
            if line["section"] == index
        ]
    return found


def add_stamps(lines: list[NoisyLine], song: SyntheticSong) -> list[NoisyLine]:
    """Put an LRC time before every line that has text, as karaoke sites give it."""
    stamped: list[NoisyLine] = []
    at_s = 0.0
    for line in lines:
        if line.truth_line is not None:
            at_s = song.lines[line.truth_line]["start"]
        stamp = f"[{int(at_s // 60):02d}:{at_s % 60:05.2f}]"
        stamped.append(
            replace(line, text=stamp + line.text, kinds=(*line.kinds, "lrc_timestamp")) if line.text else line
        )
    return stamped


def replace_word(lines: list[NoisyLine], old: str, new: str) -> list[NoisyLine]:
    """Replace a word in the first sung line that has it.

    Raises:
        ValueError: no line has the word.
    """
    for index, line in enumerate(lines):
        words = line.text.split()
        if line.truth_line is not None and old in words:
            words[words.index(old)] = new
            wrong = replace(line, text=" ".join(words), kinds=(*line.kinds, "substitution"))
            return [*lines[:index], wrong, *lines[index + 1 :]]
    raise ValueError(f"no sung line has the word {old!r}")


def shorten_repeats(lines: list[NoisyLine]) -> list[NoisyLine]:
    """Write a chorus that follows itself once, with `(x2)` at its header."""
    headers = [k for k, line in enumerate(lines) if line.header == "chorus"]
    first, second = headers[0], headers[1]
    end = next((k for k in range(second + 1, len(lines)) if lines[k].header), len(lines))
    again = tuple(line.truth_line for line in lines[second:end] if line.truth_line is not None)
    header = NoisyLine(text="Chorus (x2)", kinds=("header_variant",), keep=True, header="chorus")
    once = [replace(line) for line in lines[first + 1 : second]]
    last = max(k for k, line in enumerate(once) if line.truth_line is not None)
    once[last] = replace(once[last], kinds=(*once[last].kinds, "repeat_shorthand"), expands_to=again)
    return [*lines[:first], header, *once, *lines[end:]]


def restyle_headers(lines: list[NoisyLine], style: str) -> list[NoisyLine]:
    """Write headers in another way; `style` is a format with `{name}` and `{number}`."""
    seen: dict[str, int] = {}
    styled: list[NoisyLine] = []
    for line in lines:
        if line.header and "header_variant" not in line.kinds:
            seen[line.header] = seen.get(line.header, 0) + 1
            text = style.format(name=line.header.capitalize(), number=seen[line.header])
            line = replace(line, text=text, kinds=(*line.kinds, "header_variant"))
        styled.append(line)
    return styled


def add_metadata(lines: list[NoisyLine], before: list[str], after: list[str]) -> list[NoisyLine]:
    """Put credits, tags and addresses around the lyrics."""
    junk = [[NoisyLine(text=text, kinds=("metadata",)) for text in texts] for texts in (before, after)]
    return [*junk[0], *lines, *junk[1]]


def insert_unsung(lines: list[NoisyLine], text: str, after: int) -> list[NoisyLine]:
    """Put a line that nobody sings behind the sung line number `after`."""
    at = next(k for k, line in enumerate(lines) if line.truth_line == after) + 1
    return [*lines[:at], NoisyLine(text=text, kinds=("foreign_lyrics",)), *lines[at:]]


def claim_foreign(lines: list[NoisyLine]) -> list[NoisyLine]:
    """Mark lyrics that belong to another song."""
    return [
        replace(line, kinds=("foreign_lyrics",), keep=False, truth_line=None, clean_text=None) if line.text else line
        for line in lines
    ]
