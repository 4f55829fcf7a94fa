"""Exact word times for lines whose places are roughly known: forced alignment by windows, edges set by the voice."""

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.song import MIN_WORD_S, TimedWord
from pipeline.transcription.whisper import MAX_WINDOW_S
from pipeline.verification.locate_lines import Candidate
from pipeline.verification.sung_audio import SungAudio

WINDOW_S = 12.0  # of lines; longer windows let words slip over pauses, shorter ones cost more encoder passes
MARGIN_S = 1.0
EDGE_S = 0.3
DOUBTFUL_SUPPORT = 1.5
MAX_FIRST_WORD_S = 1.0
MAX_PAUSE_S = 1.5  # between the lines of a window
MAX_WORD_S = 5.0  # of a word and the pause after it; beyond it, what follows was placed in another line
MAX_GROWTH = 1.25  # of a window that was cut before and of its pauses: while lines stay together few are asked anew


def place_words(lines: Sequence[Candidate], audio: SungAudio) -> None:
    """Align the words of every line in windows around the estimated times; the times are monotone.

    Fills in `timed`, `start_s`, `end_s` and `support` of every line.
    """
    windows = _windows(lines)
    for index, window in enumerate(windows):
        start_s = max(window[0].start_s - MARGIN_S, 0.0)
        if index:  # not into the line before: its last word would be taken for the first of this window
            start_s = max(start_s, min(windows[index - 1][-1].end_s, window[0].start_s) - 0.2)
        end_s = min(window[-1].end_s + MARGIN_S, audio.duration_s, start_s + MAX_WINDOW_S)
        if index + 1 < len(windows):
            end_s = min(end_s, max(windows[index + 1][0].start_s, window[-1].end_s) + 0.2)
        timed = audio.align(start_s, end_s, [line.words for line in window])
        support = audio.measure_support(start_s, end_s, [line.words for line in window])
        for line, nats, words in zip(window, support, timed, strict=True):
            line.window = window
            line.support = float(nats)
            line.timed = words
            line.start_s, line.end_s = line.timed[0].start_s, line.timed[-1].end_s
    _make_monotone(lines, audio.duration_s)
    for before, line in zip([None, *lines], lines, strict=False):
        if line.support < DOUBTFUL_SUPPORT:  # after a line like it little speaks for it: ask without the others
            line.support = support_alone(line, line.words, audio)
        if before and before.words == line.words:  # sung twice only if each is borne out in its own place
            before.support, line.support = (support_alone(each, each.words, audio) for each in (before, line))
        core = _core(line.timed)  # where the next placement looks for all its words
        line.start_s, line.end_s = core[0].start_s, min(core[-1].end_s, core[-1].start_s + MAX_WORD_S)
        first = core[0]
        if first.end_s - first.start_s > MAX_FIRST_WORD_S:  # the pause before it; the next placement starts later
            line.start_s = first.end_s - MAX_FIRST_WORD_S / 2


def _core(words: Sequence[TimedWord]) -> list[TimedWord]:
    """Return the likeliest run of a line's words, cut where more than MAX_WORD_S go by from one to the next."""
    runs: list[list[TimedWord]] = [[]]
    for word in words:
        if runs[-1] and word.start_s - runs[-1][-1].start_s > MAX_WORD_S:
            runs.append([])
        runs[-1].append(word)
    return max(runs, key=lambda run: sum(word.score for word in run))


def support_alone(line: Candidate, words: Sequence[str], audio: SungAudio) -> float:
    """Return the evidence for words, in nats per token, where a line is sung and without the lines around it."""
    start_s, end_s = widened(line, audio)
    return float(audio.measure_support(start_s, end_s, [words])[0])


def widened(line: Candidate, audio: SungAudio) -> tuple[float, float]:
    """Return the span of a line with a little on both sides."""
    return max(line.start_s - EDGE_S, 0.0), min(line.end_s + EDGE_S, audio.duration_s)


def _windows(lines: Sequence[Candidate]) -> list[list[Candidate]]:
    """Cut lines into windows: those of an earlier placement where they still hold, new ones between them."""
    windows: list[list[Candidate]] = []
    rest = list(lines)
    while rest:
        count = _count_known(rest) or _count_new(rest)
        windows.append(rest[:count])
        rest = rest[count:]
    return windows


def _count_known(rest: Sequence[Candidate]) -> int:
    """Return how many lines from the first one on were placed in one window and still fit it; 0 if none."""
    window = rest[0].window
    if not window or rest[: len(window)] != window:
        return 0
    return len(window) if _fit(window, MAX_GROWTH * WINDOW_S, MAX_GROWTH * MAX_PAUSE_S) else 0


def _count_new(rest: Sequence[Candidate]) -> int:
    """Return how many lines make a window of at most WINDOW_S, cut at the widest pause in its second half."""
    count = 1
    while count < len(rest) and not _count_known(rest[count:]) and _fit(rest[: count + 1], WINDOW_S, MAX_PAUSE_S):
        count += 1
    if count < len(rest) and count > 2:
        pauses = [rest[k].start_s - rest[k - 1].end_s for k in range(count // 2 + 1, count + 1)]
        count = count // 2 + 1 + int(np.argmax(pauses))
    return count


def _fit(window: Sequence[Candidate], max_s: float, max_pause_s: float) -> bool:
    pauses_s = [after.start_s - before.end_s for before, after in itertools.pairwise(window)]
    return window[-1].end_s - window[0].start_s <= max_s and max(pauses_s, default=0.0) <= max_pause_s


def _make_monotone(lines: Sequence[Candidate], duration_s: float) -> None:
    clock_s = 0.0
    for line in lines:
        fixed = []
        for word in line.timed:
            start_s = min(max(word.start_s, clock_s), duration_s)
            end_s = min(max(word.end_s, start_s + MIN_WORD_S), duration_s)
            fixed.append(TimedWord(start_s, end_s, word.score))
            clock_s = start_s
        line.timed = fixed
        line.start_s, line.end_s = fixed[0].start_s, fixed[-1].end_s
