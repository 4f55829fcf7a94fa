"""Lines that the recogniser did not hear: searched where they should be sung, by what their words explain."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from pipeline.transcription.encoded_song import Span
from pipeline.verification.line_paths import distinct_path
from pipeline.verification.locate_lines import Candidate, copy_line, move_line
from pipeline.verification.sung_audio import SungAudio, Words

# Lines of the song in a window that holds them reach 1.5 to 5 in 95 of 100 cases, lines of other songs 0.6.
MIN_SUPPORT = 1.0
MIN_AGAIN_SUPPORT = 1.5  # of a line that is not expected there
MIN_FREE_S = 3.0
# A line of 2 to 4 s lies whole in one of two overlapping windows. Where none is expected few are found, and longer
# windows ask half as often; less speaks for a line in them.
WINDOW_S, FREE_WINDOW_S = 8.0, 12.0
OVERLAP_S = 4.0
MIN_WINDOW_S = 1.0
MIN_APART = math.ceil(WINDOW_S / (WINDOW_S - OVERLAP_S))  # windows, of equal lines
MIN_VOICE_SHARE = 0.1  # windows with less singing are passed over
ALIKE_SHARE = 0.5  # of the different words of the poorer of two lines
KNOWN_SHARE = 0.9  # of a window that lies in one in which no line was found: it is not asked again
# Where a line is missing, the next one's first words may be stretched over it: of such long ones only the end is sure.
MAX_HELD_S = 2.0
HELD_END_S = 0.5


def search_missing(candidates: Sequence[Candidate], found: Sequence[Candidate], audio: SungAudio) -> list[Candidate]:
    """Return the candidates without a place that are sung between those that have one, with their times.

    Args:
        candidates: all given lines in their order.
        found: the lines that have a place, with times, in the order in which they are sung.
        audio: the song.
    """
    heard: list[Candidate] = []
    for group, low_s, high_s in find_gaps(candidates, found, audio):
        heard += _search(group, _windows(low_s, high_s, WINDOW_S, audio), audio, [], is_expected=True)
    return heard


def search_free(
    candidates: Sequence[Candidate], lines: Sequence[Candidate], audio: SungAudio, in_vain: list[Span]
) -> list[Candidate]:
    """Return given lines that are sung where no line has its place: once more, or elsewhere than expected.

    Args:
        candidates: all given lines in their order.
        lines: those that are sung, with times, in the order in which they are sung.
        audio: the song.
        in_vain: windows in which earlier searches found none of these lines; this search's are added.
    """
    again: list[Candidate] = []
    places = set(map(id, lines))
    edges = [0.0, *(edge for line in lines for edge in (line.start_s, line.end_s)), audio.duration_s]
    for low_s, high_s in zip(edges[::2], edges[1::2], strict=True):
        if high_s - low_s < MIN_FREE_S or audio.voiced_share(low_s, high_s) < MIN_VOICE_SHARE:
            continue
        windows = [w for w in _windows(low_s, high_s, FREE_WINDOW_S, audio) if not _is_known(w, in_vain)]
        for line in _search(candidates, windows, audio, in_vain, is_expected=False):
            missing = [c for c in candidates if c.words == line.words and id(c) not in places]
            if missing:
                move_line(line, missing[0])
                places.add(id(missing[0]))
            else:
                line.edit = "expanded"
            again.append(missing[0] if missing else line)
    return again


def _search(
    group: Sequence[Candidate],
    windows: Sequence[Span],
    audio: SungAudio,
    in_vain: list[Span],
    *,
    is_expected: bool,
) -> list[Candidate]:
    """Return the lines of a group that are sung in their order in the windows, copies if not expected there."""
    min_support = MIN_SUPPORT if is_expected else MIN_AGAIN_SUPPORT
    if not windows:
        return []
    texts_of_lines = [tuple(candidate.words) for candidate in group]
    # Each text once: after its like a line is no surprise to the decoder, so little would speak for it.
    texts = list(dict.fromkeys(texts_of_lines))
    rounds = _unlike_rounds(texts) if is_expected else [texts]
    asked = [text for together in rounds for text in together]
    by_text = np.stack([np.concatenate([audio.measure_support(*window, r) for r in rounds]) for window in windows])
    in_vain += [window for window, nats in zip(windows, by_text, strict=True) if nats.max() < min_support]
    support = by_text[:, [asked.index(text) for text in texts_of_lines]]
    for line, best in zip(group, support.max(axis=0), strict=True):
        line.support = float(best)
    chosen = distinct_path(support - min_support, _alike_names(tuple(texts_of_lines)), MIN_APART)
    placed = [
        (line if is_expected else copy_line(line), windows[index])
        for line, index in zip(group, chosen, strict=True)
        if index >= 0
    ]
    time_lines(placed, audio)
    return [line for line, _ in placed]


def _unlike_rounds(texts: Sequence[Words]) -> list[list[Words]]:
    """Return different texts in rounds, to be asked one after the other, none of which holds two alike."""
    rounds: list[list[Words]] = []
    for text in texts:
        fitting = next((r for r in rounds if not any(are_alike(text, other) for other in r)), None)
        if fitting is None:
            rounds.append(fitting := [])
        fitting.append(text)
    return rounds


@functools.lru_cache(maxsize=4)  # searches of a song ask for all of its lines again and again
def _alike_names(texts: tuple[Words, ...]) -> list[Words]:
    """Return for each text the first one that it is like: any of them explains the singing of another."""
    names: list[Words] = []
    for text in texts:
        names.append(next((name for name in names if are_alike(text, name)), text))
    return names


def are_alike(one: Words, other: Words) -> bool:
    """Whether two lines share so many words that either explains the singing of the other."""
    return len(set(one) & set(other)) >= ALIKE_SHARE * min(len(set(one)), len(set(other)))


def find_gaps(
    candidates: Sequence[Candidate], found: Sequence[Candidate], audio: SungAudio
) -> list[tuple[list[Candidate], float, float]]:
    """Return runs of lines without a place, each with the free time between its neighbours."""
    gaps: list[tuple[list[Candidate], float, float]] = []
    group: list[Candidate] = []
    places = set(map(id, found))
    before_s = 0.0
    for candidate in [*candidates, None]:
        if candidate is not None and id(candidate) not in places:
            group.append(candidate)
            continue
        after_s = _sure_start_s(candidate) if candidate else audio.duration_s
        if group:
            low_s, high_s = _free_room(before_s, after_s, found, audio)
            if high_s > low_s:
                gaps.append((group, low_s, high_s))
        group = []
        if candidate:
            before_s = candidate.end_s
    return gaps


def _sure_start_s(line: Candidate) -> float:
    """Return from when on a line surely has its place: from its start, or the end of a long word in its first half."""
    first_half = line.timed[: (len(line.timed) + 1) // 2]
    held = [word.end_s - HELD_END_S for word in first_half if word.end_s - word.start_s > MAX_HELD_S]
    return max([line.start_s, *held])


def _free_room(low_s: float, high_s: float, found: Sequence[Candidate], audio: SungAudio) -> tuple[float, float]:
    """Return the stretch of [low_s, high_s) without a found line in which most is sung."""
    inside = sorted((_sure_start_s(c), c.end_s) for c in found if low_s < (c.start_s + c.end_s) / 2 < high_s)
    edges = [(low_s, low_s), *inside, (high_s, high_s)]
    free = [(before[1], after[0]) for before, after in zip(edges[:-1], edges[1:], strict=True)]
    return max(free, key=lambda span: audio.voiced_s(*span))


def _windows(low_s: float, high_s: float, window_s: float, audio: SungAudio) -> list[Span]:
    """Return overlapping windows of [low_s, high_s) in which somebody sings."""
    if high_s - low_s < MIN_WINDOW_S:
        return []
    starts = map(float, np.arange(low_s, max(high_s - OVERLAP_S, low_s + 0.01), window_s - OVERLAP_S))
    windows = [(s, min(s + window_s, high_s)) for s in starts]
    return [window for window in windows if audio.voiced_share(*window) >= MIN_VOICE_SHARE]


def _is_known(window: Span, spans: Sequence[Span]) -> bool:
    """Whether one of the spans holds nearly all of a window; two that meet in it may have cut a line in two."""
    start_s, end_s = window
    return any(
        min(end_s, last_s) - max(start_s, first_s) >= KNOWN_SHARE * (end_s - start_s) for first_s, last_s in spans
    )


def time_lines(heard: Sequence[tuple[Candidate, Span]], audio: SungAudio) -> None:
    """Give lines with their windows times, in their order: neighbours together, none far beyond its own window."""
    rest = list(heard)
    before_s = 0.0
    while rest:
        start_s, end_s = rest[0][1]
        ends = [last_s for _, (_, last_s) in rest if last_s <= max(start_s + FREE_WINDOW_S, end_s)]
        if before_s + MIN_WINDOW_S < end_s:  # else the line before is in doubt
            start_s = max(start_s, before_s)
        timed = audio.align(start_s, ends[-1], [line.words for line, _ in rest[: len(ends)]])
        for (line, _), words in zip(rest[: len(ends)], timed, strict=True):
            move_line(copy_line(line), line)  # what was heard elsewhere says nothing of it any more
            line.start_s, line.end_s = words[0].start_s, words[-1].end_s
            before_s = words[-1].start_s  # a last word may be stretched
        rest = rest[len(ends) :]
