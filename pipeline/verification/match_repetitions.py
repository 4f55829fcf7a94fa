"""Which of several equal lines a heard one is: the one whose missing neighbours have room to be sung."""

from collections.abc import Sequence

from pipeline.verification.locate_lines import TYPICAL_WORD_S, Candidate, copy_line, move_line
from pipeline.verification.sung_audio import SungAudio

# Missing lines fit where somebody sings for this share of the time that they typically take: voice activity misses
# held vowels, and some singers are twice as fast as others.
MIN_ROOM_SHARE = 0.5


def match_repetitions(candidates: Sequence[Candidate], found: Sequence[Candidate], audio: SungAudio) -> list[Candidate]:
    """Return the found lines, those of a later chorus given to an equal earlier one if that is where they belong.

    A chorus that was half heard agrees as well with any repetition of it. If it is taken for a later one, the lines of
    the earlier one have no time left to be sung in, and those after it too few lines for what is sung there.

    Args:
        candidates: all given lines in their order; places move between them, in place.
        found: those of them (and copies of them) that were heard, with times, in the order in which they are sung.
        audio: the song.
    """
    lines = list(found)
    places = {id(line): k for k, line in enumerate(lines)}
    missing: list[Candidate] = []
    for line in candidates:
        k = places.get(id(line))
        if k is None:
            missing.append(line)
            continue
        room_s = audio.voiced_s(lines[k - 1].end_s if k else 0.0, line.start_s)
        if not _fit(missing, room_s) and (earlier := _fitting_equal(line, missing, room_s)):
            move_line(line, earlier)
            move_line(copy_line(line), line)
            lines[k] = earlier
            missing = [*missing[missing.index(earlier) + 1 :], line]
        else:
            missing = []
    return lines


def _fitting_equal(line: Candidate, missing: Sequence[Candidate], room_s: float) -> Candidate | None:
    """Return the latest line with the same words for which those before it fit the room."""
    for k in range(len(missing) - 1, -1, -1):
        if missing[k].words == line.words and _fit(missing[:k], room_s):
            return missing[k]
    return None


def _fit(lines: Sequence[Candidate], room_s: float) -> bool:
    return sum(len(line.words) for line in lines) * TYPICAL_WORD_S * MIN_ROOM_SHARE <= room_s
