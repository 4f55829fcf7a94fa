"""Lines that the recogniser did not hear, searched first where the lyrics file's times have them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pipeline.song import MIN_WORD_S
from pipeline.transcription.encoded_song import Span
from pipeline.transcription.whisper import MAX_WINDOW_S
from pipeline.verification.given_times import MAX_LINE_S, TOLERANCE_S, begin_s, expect_lines, fit_lines
from pipeline.verification.locate_lines import Candidate, copy_line, move_line
from pipeline.verification.place_words import support_alone
from pipeline.verification.search_lines import (
    MIN_SUPPORT,
    MIN_VOICE_SHARE,
    MIN_WINDOW_S,
    WINDOW_S,
    are_alike,
    find_gaps,
    time_lines,
)
from pipeline.verification.sung_audio import SungAudio

MARGIN_S = 1.5  # of a window around where lines are expected: a fit holds to a second, a line's first words are quick
# Of a line that the file gives several times: only its times say where each is sung. Other lines rarely reach this.
MIN_REPETITION_SUPPORT = 0.6
NEAR_S = 2.0
MIN_SUPPORT_SHARE = 0.5  # of what a line has elsewhere: times that fit the other lines speak for themselves
FAR_S = 4.0  # from where it is expected: a line there is taken for another one, if an equal one is expected there


def search_expected(
    candidates: Sequence[Candidate], found: Sequence[Candidate], expected: Mapping[int, Span], audio: SungAudio
) -> list[Candidate]:
    """Return the candidates without a place that are sung where they are expected, with their times.

    Args:
        candidates: all given lines in their order.
        found: the lines that have a place, with times, in the order in which they are sung.
        expected: see `given_times.expect_lines`; lines that it lacks, and lines that are not sung there, are left to
            `search_lines.search_missing`.
        audio: the song.
    """
    heard: list[Candidate] = []
    counts = Counter(tuple(line.words) for line in candidates)
    for group, low_s, high_s in find_gaps(candidates, found, audio):
        inside = [line for line in group if id(line) in expected and low_s <= _middle(expected[id(line)]) < high_s]
        for run, window in _windows(inside, expected, low_s, high_s):
            if window[1] - window[0] < MIN_WINDOW_S or audio.voiced_share(*window) < MIN_VOICE_SHARE:
                continue
            support = audio.measure_support(*window, [line.words for line in run])
            for line, nats in zip(run, support, strict=True):
                line.support = float(nats)
            sung = [
                line
                for line in run
                if line.support >= (MIN_REPETITION_SUPPORT if counts[tuple(line.words)] > 1 else MIN_SUPPORT)
            ]
            time_lines([(line, window) for line in sung], audio)
            heard += sung
    return heard


def _windows(
    lines: Sequence[Candidate], expected: Mapping[int, Span], low_s: float, high_s: float
) -> Iterator[tuple[list[Candidate], Span]]:
    """Yield lines that are asked for together, each with the window around where they are expected.

    Alike lines never share one: what is sung once would speak for both.
    """
    run: list[Candidate] = []
    for line, after in zip(lines, [*lines[1:], None], strict=False):
        run.append(line)
        start_s, end_s = expected[id(run[0])][0], expected[id(line)][1]
        is_alike = after is not None and any(are_alike(tuple(after.words), tuple(each.words)) for each in run)
        if after is not None and not is_alike and expected[id(after)][1] - start_s <= WINDOW_S:
            continue
        middle_s = (end_s + expected[id(after)][0]) / 2 if after is not None and is_alike else high_s
        yield run, (max(start_s - MARGIN_S, low_s), min(end_s + MARGIN_S, max(middle_s, end_s), high_s))
        low_s = middle_s if is_alike else low_s
        run = []


def name_repetitions(
    candidates: Sequence[Candidate], found: Sequence[Candidate], expected: Mapping[int, Span]
) -> list[Candidate]:
    """Return the found lines, those that are far from where they are expected given to an equal one expected there.

    A chorus agrees as well with any repetition of it; only one of them has its time there. Places move in place.
    """
    lines = list(found)
    for k, line in enumerate(lines):
        if id(line) not in expected or _distance_s(expected[id(line)], line) < FAR_S:
            continue
        places = set(map(id, lines))
        before = {id(c): n for n, c in enumerate(candidates)}
        low = max((before[id(c)] for c in lines[:k] if id(c) in before), default=-1)
        high = min((before[id(c)] for c in lines[k + 1 :] if id(c) in before), default=len(candidates))
        for other in candidates[low + 1 : high]:
            is_free = id(other) not in places and other.words == line.words
            if is_free and id(other) in expected and _distance_s(expected[id(other)], line) < NEAR_S:
                move_line(line, other)
                move_line(copy_line(line), line)
                lines[k] = other
                break
    return lines


def move_expected(lines: Sequence[Candidate], expected: Mapping[int, Span], audio: SungAudio) -> bool:
    """Move placed lines that are far from where they are expected there, where the audio bears them out, in place.

    Args:
        lines: all that are sung, placed, in their order, which stays.
        expected: see `given_times.expect_lines`.
        audio: the song.

    Returns:
        Whether any moved: their words are to be placed anew.
    """
    moved = False
    for k, line in enumerate(lines):
        if id(line) in expected and _distance_s(expected[id(line)], line) >= NEAR_S:
            moved |= _place_expected(lines, k, expected[id(line)], audio)
    return moved


def settle_expected(candidates: Sequence[Candidate], lines: Sequence[Candidate], audio: SungAudio) -> None:
    """Place lines once more, alone, that begin elsewhere than the file's times say when all is done, in place.

    In a window with its neighbours a line may take words of the one before, which then gets what is left of its time.
    What is found alone stands only where it is nearer to what is expected.

    Args:
        candidates: all given lines in their order.
        lines: all that are sung, placed, in their order.
        audio: the song.
    """
    fit, expected = fit_lines(lines), expect_lines(candidates, lines)
    for k, line in enumerate(lines):
        if fit and id(line) in expected and _distance_s(expected[id(line)], line) > fit.tolerance_s:
            began_s = begin_s(line)
            if _place_expected(lines, k, expected[id(line)], audio) and k and begin_s(line) > began_s:
                _give_room(lines[k - 1], begin_s(line), audio)


def _give_room(line: Candidate, end_s: float, audio: SungAudio) -> None:
    """Place the words of a line anew, from where its first one is, up to where the next line begins."""
    start_s = begin_s(line)
    if end_s - start_s >= MIN_WINDOW_S:
        (line.timed,) = audio.align(start_s, min(end_s, start_s + MAX_WINDOW_S), [line.words])
        line.start_s, line.end_s = line.timed[0].start_s, line.timed[-1].end_s


def drop_unexpected(
    candidates: Sequence[Candidate], lines: Sequence[Candidate], expected: Mapping[int, Span]
) -> list[Candidate]:
    """Return placed lines without copies for which the file leaves no room.

    Whoever stamps the lines of a song stamps all of them: between two that follow each other in the file within
    MAX_LINE_S, and are sung where they are expected, none is sung once more.
    """
    if not expected:
        return list(lines)
    numbers = {id(line): number for number, line in enumerate(candidates)}
    kept: list[Candidate] = []
    for k, line in enumerate(lines):
        before = next((each for each in reversed(lines[:k]) if id(each) in numbers), None)
        after = next((each for each in lines[k + 1 :] if id(each) in numbers), None)
        is_copy = line.edit == "expanded" and id(line) not in numbers
        if not (is_copy and before and after and numbers[id(after)] == numbers[id(before)] + 1):
            kept.append(line)
            continue
        is_placed = all(is_near(each, expected) for each in (before, after))
        if not is_placed or expected[id(after)][0] - expected[id(before)][0] > MAX_LINE_S:
            kept.append(line)
    return kept


def is_near(line: Candidate, expected: Mapping[int, Span]) -> bool:
    """Whether a placed line is where the file's times have it."""
    return id(line) in expected and _distance_s(expected[id(line)], line) <= TOLERANCE_S


def _place_expected(lines: Sequence[Candidate], k: int, span: Span, audio: SungAudio) -> bool:
    """Place a line between its neighbours where it is expected, if the audio bears it out there; say whether it is."""
    line = lines[k]
    low_s = lines[k - 1].timed[-1].start_s + MIN_WORD_S if k else 0.0
    high_s = lines[k + 1].timed[0].start_s if k + 1 < len(lines) else audio.duration_s
    window = max(span[0] - TOLERANCE_S, low_s), min(span[1] + MARGIN_S, high_s)
    if window[1] - window[0] < MIN_WINDOW_S or audio.voiced_share(*window) < MIN_VOICE_SHARE:
        return False
    there = copy_line(line)
    (there.timed,) = audio.align(*window, [line.words])
    there.start_s, there.end_s = there.timed[0].start_s, there.timed[-1].end_s
    is_stretched = _length_s(there) > max(_length_s(line), span[1] - span[0]) + TOLERANCE_S
    if is_stretched or _distance_s(span, there) >= _distance_s(span, line):
        return False
    support = support_alone(there, line.words, audio)
    if support < max(MIN_SUPPORT, MIN_SUPPORT_SHARE * line.support):
        return False
    line.timed, line.start_s, line.end_s = there.timed, there.start_s, there.end_s
    line.support, line.window = support, []
    return True


def _length_s(line: Candidate) -> float:
    return line.timed[-1].end_s - line.timed[0].start_s


def _middle(span: Span) -> float:
    return (span[0] + span[1]) / 2


def _distance_s(span: Span, line: Candidate) -> float:
    """Return how far a line begins from where it is expected to."""
    return abs(span[0] - begin_s(line))
