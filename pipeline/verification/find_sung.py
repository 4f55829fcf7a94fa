"""Which lines are sung: given ones that the audio bears out, also out of place or again, and lines not given."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from pipeline.lyrics.sounds import sound_key
from pipeline.song import Word
from pipeline.transcription.encoded_song import Span
from pipeline.verification.locate_lines import (
    Candidate,
    copy_line,
    estimate_times,
    inherit_sections,
    is_clear,
    move_line,
    recover_lines,
)
from pipeline.verification.misplaced_lines import move_misplaced
from pipeline.verification.place_words import place_words, support_alone, widened
from pipeline.verification.search_expected import drop_unexpected, is_near, move_expected, search_expected
from pipeline.verification.search_lines import MIN_SUPPORT, search_free, search_missing
from pipeline.verification.sung_audio import SungAudio

MAX_SEARCHES = 3  # lines that are placed exactly, or taken away, leave room for others
MIN_PLACED_SUPPORT = 0.5  # of a line that was heard or found already, in its final place
# Of two equal lines in a row, the lesser of both alone in their places: sung once 0.9 at most, sung twice 2.3 and more.
MIN_REPEATED_SUPPORT = 1.5
NUM_LIKELIEST = 3
NOT_EXPECTED: Mapping[int, Span] = MappingProxyType({})  # a file without times


def find_sung(
    candidates: Sequence[Candidate],
    found: list[Candidate],
    heard: Sequence[Word],
    audio: SungAudio,
    expected: Mapping[int, Span] = NOT_EXPECTED,
) -> list[Candidate]:
    """Return the lines that are sung in their order, placed, with the evidence for each.

    Args:
        candidates: all given lines in their order.
        found: those of them (and copies of them) that were heard, with estimated times.
        heard: the transcript.
        audio: the song.
        expected: where lines are expected by the times of the lyrics file, see `given_times.expect_lines`.
    """
    lines, sung = found, None
    in_vain: list[Span] = []
    for _ in range(MAX_SEARCHES):
        if expected:
            lines = _in_order([*lines, *search_expected(candidates, lines, expected, audio)])
        lines = _in_order([*lines, *search_missing(candidates, lines, audio)])
        lines = _in_order([*lines, *search_free(candidates, lines, audio, in_vain)])
        lines = drop_unexpected(candidates, lines, expected)
        recovered = recover_lines(lines, heard)
        estimate_times(recovered, heard)
        recovered = [_known_line(line, candidates, audio) for line in recovered]
        recovered = [line for line in recovered if line.source == "lyrics" or is_clear(line, heard)]
        every = _prefer_given(_in_order([*lines, *recovered]), candidates)
        every = drop_unexpected(candidates, every, expected)
        if sung is not None and _identify(every) == _identify(sung):
            break
        place_words(every, audio)
        sung = _borne_out(every, expected)
        if move_misplaced(sung, audio) | move_expected(sung, expected, audio):
            place_words(sung, audio)
        lines = [line for line in sung if line.source == "lyrics"]
    assert sung is not None
    inherit_sections(sung)
    return sung


def _identify(lines: Sequence[Candidate]) -> list[int | str]:
    """Return what tells lines from others: recovered ones are written anew in every search."""
    return [line.text if line.source == "asr" else id(line) for line in lines]


def _in_order(lines: Sequence[Candidate]) -> list[Candidate]:
    return sorted(lines, key=lambda line: line.start_s)


def _prefer_given(lines: Sequence[Candidate], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Let equal given lines without a place take those of copies: no line is both sung once more and missing."""
    placed = set(map(id, lines))
    preferred = []
    for line in lines:
        missing = next((c for c in candidates if id(c) not in placed and c.words == line.words), None)
        if line.edit == "expanded" and missing is not None:
            move_line(line, missing)
            placed.add(id(missing))
            preferred.append(missing)
        else:
            preferred.append(line)
    return preferred


def _borne_out(lines: Sequence[Candidate], expected: Mapping[int, Span]) -> list[Candidate]:
    """Return the lines that the audio bears out; of two equal ones in a row, the weaker needs more.

    Less where each is where the file's times have it: these say that the line is sung twice.
    """
    least = {id(line): MIN_PLACED_SUPPORT for line in lines}
    for before, line in zip(lines, lines[1:], strict=False):
        if before.words == line.words:
            is_said = is_near(before, expected) and is_near(line, expected)
            weaker = min(before, line, key=lambda each: each.support)
            least[id(weaker)] = MIN_PLACED_SUPPORT if is_said else MIN_REPEATED_SUPPORT
    return [line for line in lines if line.support >= least[id(line)]]


def _known_line(recovered: Candidate, candidates: Sequence[Candidate], audio: SungAudio) -> Candidate:
    """Return a copy of the given line that is sung where the recogniser heard something else, or what it heard."""
    size = _num_letters(recovered)
    known = list({line.text: line for line in candidates if 0.5 < _num_letters(line) / size < 2}.values())
    if not known:
        return recovered
    together = audio.measure_support(*widened(recovered, audio), [line.words for line in known])
    likeliest = [known[k] for k in np.argsort(-together)[:NUM_LIKELIEST]]
    alone = [support_alone(recovered, line.words, audio) for line in likeliest]
    if max(alone) < MIN_SUPPORT:
        return recovered
    line = copy_line(likeliest[int(np.argmax(alone))])
    line.edit = "expanded"
    line.start_s, line.end_s = recovered.start_s, recovered.end_s
    return line


def _num_letters(line: Candidate) -> int:
    return len("".join(map(sound_key, line.words)))
