"""Where each given line is sung: matched to what was heard, in order, out of order and repeated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.lyrics.sounds import is_han
from pipeline.song import Edit, TimedWord, Word
from pipeline.verification.word_alignment import align_words, alignment_score, similarities

# A line is found where at least this much of it was heard (mean similarity over its words). Measured on synthetic
# and real songs: lines that are sung reach 0.6 to 1.0, lines of other songs stay under 0.4.
MIN_LINE_SIMILARITY = 0.5
# Between two lines that were found, the missing ones are expected: there less is enough.
MIN_EXPECTED_SIMILARITY = 0.3
# Several lines in their order, out of place: score per word (see match_words.alignment_score); chance stays under 0.15.
MIN_MOVED_SCORE = 0.2
# Out of place, or once more, only with better evidence: a wrong guess here puts words where they are not sung.
MIN_MOVED_SIMILARITY = 0.6
MIN_REPEAT_SIMILARITY = 0.7
# A stretch that no given line explains becomes a line of its own when it is long enough and heard with confidence.
MIN_RECOVERED_WORDS = 3
MIN_RECOVERED_HAN = 4
MIN_RECOVERED_SCORE = 0.5
RECOVERED_PAUSE_S = 0.7
MAX_RECOVERED_WORDS = 12
SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")
# Time per word where nothing better is known.
TYPICAL_WORD_S = 0.35


@dataclass(slots=True, eq=False)
class Candidate:
    """A line that may be in the output, with the evidence for it; lines of equal words are different lines."""

    words: list[str]
    text: str
    section: str | None = None
    section_index: int = -1
    source: Literal["lyrics", "asr"] = "lyrics"
    edit: Edit = "kept"
    heard: list[tuple[int, int]] = field(default_factory=list)  # (word of this line, heard word)
    similarity: float = 0.0
    first_heard: int = -1  # the heard words that this line explains, first to last
    last_heard: int = -1
    start_s: float = 0.0
    end_s: float = 0.0
    timed: list[TimedWord] = field(default_factory=list)
    support: float = 0.0  # nats per token, see EncodedSong.measure_support: in its place, else the highest found
    line_number: int | None = None  # in the lyrics as given
    given_s: float | None = None  # as the file has it: evidence, not to be trusted before `given_times` has looked
    given_end_s: float | None = None
    window: list["Candidate"] = field(default_factory=list, repr=False)  # the lines it was last placed with, itself too

    @property
    def is_found(self) -> bool:
        """Whether the line has a place among the heard words."""
        return self.first_heard >= 0

    @property
    def score(self) -> float:
        """Mean probability of the line's words under forced alignment."""
        return float(np.mean([w.score for w in self.timed])) if self.timed else 0.0


def locate_lines(candidates: list[Candidate], heard: Sequence[Word]) -> None:
    """Give every candidate that was heard in the given order its heard words, in place."""
    _locate_within(candidates, heard, 0, len(heard), MIN_LINE_SIMILARITY)
    _trim_overlaps([c for c in candidates if c.is_found])


def _locate_within(group: Sequence[Candidate], heard: Sequence[Word], low: int, high: int, minimum: float) -> float:
    """Align a group of lines with heard[low:high], place those that reach `minimum`, and return the score per word."""
    given = [(line, k) for line, candidate in enumerate(group) for k in range(len(candidate.words))]
    matrix = similarities([group[line].words[k] for line, k in given], [w.text for w in heard[low:high]])
    matches: list[list[tuple[int, int]]] = [[] for _ in group]
    total = np.zeros(len(group))
    for row, col in align_words(matrix):
        line, k = given[row]
        matches[line].append((k, col + low))
        total[line] += matrix[row, col]
    for line, candidate in enumerate(group):
        similarity = total[line] / max(len(candidate.words), 1)
        if matches[line] and similarity >= minimum:
            _place(candidate, matches[line], similarity, low, high)
            low = candidate.last_heard + 1
    return alignment_score(matrix) / max(len(given), 1)


def _locate_moved(candidates: Sequence[Candidate], heard: Sequence[Word], low: int, high: int) -> list[Candidate]:
    """Return lines that follow each other in the lyrics and explain heard[low:high] in their order, placed there."""
    groups: list[list[Candidate]] = [[]]
    for candidate in candidates:
        if candidate.is_found:
            groups.append([])
        elif candidate.words:
            groups[-1].append(candidate)
    for group in groups:
        if len(group) < 2:
            continue
        score = _locate_within(group, heard, low, high, MIN_EXPECTED_SIMILARITY)
        placed = [c for c in group if c.is_found]
        if score >= MIN_MOVED_SCORE and len(placed) >= 2:
            return placed
        for c in placed:
            c.first_heard = c.last_heard = -1
    return []


def locate_expected(candidates: Sequence[Candidate], heard: Sequence[Word]) -> None:
    """Find lines that were heard badly: between two found ones, in what was heard there and is not explained."""
    group: list[Candidate] = []
    low = 0
    for candidate in [*candidates, None]:
        if candidate is not None and not candidate.is_found:
            group.append(candidate)
            continue
        high = len(heard) if candidate is None else candidate.first_heard
        if group and low < high:
            _locate_within(group, heard, low, high, MIN_EXPECTED_SIMILARITY)
        group = []
        low = low if candidate is None else candidate.last_heard + 1
    _trim_overlaps([c for c in candidates if c.is_found])


def _place(candidate: Candidate, pairs: list[tuple[int, int]], similarity: float, low: int, high: int) -> None:
    """Give a line its heard words; words of the line before its first match claim as many heard words before it."""
    candidate.heard, candidate.similarity = pairs, float(similarity)
    candidate.first_heard = max(pairs[0][1] - pairs[0][0], low)
    candidate.last_heard = min(pairs[-1][1] + len(candidate.words) - 1 - pairs[-1][0], high - 1)


def _trim_overlaps(found: list[Candidate]) -> None:
    for before, after in zip(found[:-1], found[1:], strict=True):
        before.last_heard = min(before.last_heard, max(after.heard[0][1] - 1, before.heard[-1][1]))
        after.first_heard = max(after.first_heard, before.last_heard + 1)


def unexplained_runs(candidates: Sequence[Candidate], heard: Sequence[Word]) -> list[tuple[int, int]]:
    """Return [first, last + 1) ranges of heard words that no found line explains."""
    explained = np.zeros(len(heard) + 2, dtype=bool)
    explained[[0, -1]] = True
    for candidate in candidates:
        if candidate.is_found:
            explained[candidate.first_heard + 1 : candidate.last_heard + 2] = True
    edges = np.flatnonzero(np.diff(explained.astype(np.int8)))
    return [(int(low), int(high)) for low, high in zip(edges[::2], edges[1::2], strict=True)]


def explain_runs(candidates: list[Candidate], heard: Sequence[Word]) -> list[Candidate]:
    """Explain what was heard and not found: by given lines out of place and by lines sung once more.

    Returns all candidates that are in the song in the order in which they are sung; those not found stay out.
    """
    found = [c for c in candidates if c.is_found]
    missing = [c for c in candidates if not c.is_found]
    runs = unexplained_runs(found, heard)
    while runs:
        low, high = runs.pop()
        if moved := _locate_moved(candidates, heard, low, high):
            missing = [c for c in missing if not c.is_found]
            found += moved
            runs += [run for run in unexplained_runs(found, heard) if low <= run[0] and run[1] <= high]
            continue
        best = _best_in_run(missing, heard, low, high, MIN_MOVED_SIMILARITY)
        if best is not None:
            missing.remove(best)
        else:
            repeat = _best_in_run(
                [copy_line(c) for c in found if c.source == "lyrics"], heard, low, high, MIN_REPEAT_SIMILARITY
            )
            if repeat is None:
                continue
            repeat.edit, best = "expanded", repeat
        found.append(best)
        runs += [(a, b) for a, b in ((low, best.first_heard), (best.last_heard + 1, high)) if b > a]
    found.sort(key=lambda c: c.first_heard)
    return found


def recover_lines(lines: Sequence[Candidate], heard: Sequence[Word]) -> list[Candidate]:
    """Return what was heard outside of the placed lines, neither their words nor in their time, as new lines."""
    recovered = []
    for low, high in unexplained_runs(lines, heard):
        first = low
        for k in range(low, high + 1):
            if k < high and not _is_within(lines, (heard[k].start_s + heard[k].end_s) / 2):
                continue
            if k > first:
                recovered += _recover(heard, first, k)
            first = k + 1
    return recovered


def is_clear(recovered: Candidate, heard: Sequence[Word]) -> bool:
    """Whether the words of a line that was not given were heard with enough confidence to be lyrics."""
    return float(np.mean([heard[j].score for _, j in recovered.heard])) >= MIN_RECOVERED_SCORE


def _is_within(lines: Sequence[Candidate], time_s: float) -> bool:
    return any(line.start_s <= time_s < line.end_s for line in lines)


def copy_line(candidate: Candidate) -> Candidate:
    """Return the line once more, without a place."""
    return Candidate(candidate.words, candidate.text, candidate.section, candidate.section_index)


def move_line(place: Candidate, line: Candidate) -> None:
    """Give a line the place of another one, in place: its time and the heard words that it explains."""
    line.start_s, line.end_s = place.start_s, place.end_s
    line.heard, line.similarity = place.heard, place.similarity
    line.first_heard, line.last_heard = place.first_heard, place.last_heard


def _best_in_run(pool: list[Candidate], heard: Sequence[Word], low: int, high: int, minimum: float) -> Candidate | None:
    best, best_fit = None, minimum
    for candidate in pool:
        if not candidate.words:
            continue
        matrix = similarities(candidate.words, [w.text for w in heard[low:high]])
        pairs = align_words(matrix)
        if not pairs:
            continue
        similarity = sum(float(matrix[i, j]) for i, j in pairs) / len(candidate.words)
        # A line scattered over a long run is no find: what was heard between its words counts against it.
        stretch = len(candidate.words) / max(pairs[-1][1] - pairs[0][1] + 1, len(candidate.words))
        if similarity * stretch >= best_fit:
            best, best_fit = candidate, similarity * stretch
            _place(candidate, [(i, j + low) for i, j in pairs], similarity, low, high)
    for candidate in pool:
        if candidate is not best:
            candidate.first_heard = candidate.last_heard = -1
    return best


def _recover(heard: Sequence[Word], low: int, high: int) -> list[Candidate]:
    lines, first = [], low
    for k in range(low, high):
        is_last = k == high - 1
        pause_s = 0.0 if is_last else heard[k + 1].start_s - heard[k].end_s
        other_segment = not is_last and heard[k + 1].line != heard[k].line
        is_sentence = heard[k].text.endswith(SENTENCE_ENDS)
        is_long = k - first + 1 >= MAX_RECOVERED_WORDS
        if is_last or is_sentence or is_long or other_segment or pause_s > RECOVERED_PAUSE_S:
            words = [w.text for w in heard[first : k + 1]]
            has_han = any(is_han(c) for w in words for c in w)
            enough = len(words) >= (MIN_RECOVERED_HAN if has_han else MIN_RECOVERED_WORDS)
            if enough:
                pairs = [(i, first + i) for i in range(len(words))]
                text = ("" if has_han else " ").join(words)
                line = Candidate(words, text, source="asr", edit="recovered", heard=pairs, similarity=1.0)
                line.first_heard, line.last_heard = first, k
                lines.append(line)
            first = k + 1
    return lines


def inherit_sections(found: list[Candidate]) -> None:
    """Lines without a header of their own belong to the section of the line before (else after) them."""
    for candidates in (found, found[::-1]):
        for before, after in zip(candidates[:-1], candidates[1:], strict=True):
            if after.section is None and after.source == "asr":
                after.section, after.section_index = before.section, before.section_index


def estimate_times(found: list[Candidate], heard: Sequence[Word]) -> None:
    """Set start_s and end_s of every found line from its heard words; unheard edge words get a typical length."""
    for candidate in found:
        (first_word, first), (last_word, last) = candidate.heard[0], candidate.heard[-1]
        candidate.start_s = heard[first].start_s - first_word * TYPICAL_WORD_S
        candidate.end_s = heard[last].end_s + (len(candidate.words) - 1 - last_word) * TYPICAL_WORD_S
    for before, after in zip(found[:-1], found[1:], strict=True):
        edge = heard[before.heard[-1][1]].end_s
        after.start_s = max(after.start_s, min(edge, heard[after.heard[0][1]].start_s))
        before.end_s = min(before.end_s, max(heard[after.heard[0][1]].start_s, edge))
