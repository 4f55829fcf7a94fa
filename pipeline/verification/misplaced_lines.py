"""Lines that are sung elsewhere: where the second aligner, which takes the whole song at once, denies their place.

The search asks window by window, and a line that is sung again and again with pauses between ("ba da dam") is borne out
in many of them. A path through all frames of the song has to leave room for every line in its order.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.song import TimedWord
from pipeline.verification.locate_lines import Candidate, copy_line
from pipeline.verification.place_words import WINDOW_S, support_alone, widened
from pipeline.verification.search_lines import MIN_SUPPORT
from pipeline.verification.sung_audio import SungAudio

FAR_S = 1.0  # median over the words of a line
MIN_GAIN = 1.5  # of their mean score
MIN_WORDS = 2  # one word is heard in many places


def move_misplaced(lines: list[Candidate], audio: SungAudio) -> bool:
    """Give lines the times that the second aligner has for them where much more speaks for these, in place.

    Args:
        lines: all that are sung, placed, in their order, which stays.
        audio: the song.

    Returns:
        Whether any moved: their words are to be placed anew.
    """
    path = audio.second_path([line.words for line in lines])
    if not path:
        return False
    elsewhere = [_timed(line, words) for line, words in zip(lines, path, strict=True)]
    chosen = [
        there if _is_misplaced(line, there, audio) else line for line, there in zip(lines, elsewhere, strict=True)
    ]
    k = 0
    while k < len(lines) - 1:
        if chosen[k].start_s > chosen[k + 1].start_s and chosen[k : k + 2] != lines[k : k + 2]:
            chosen[k : k + 2] = lines[k : k + 2]
            k = max(k - 1, 0)  # the line before may have moved past the place that is taken back
        else:
            k += 1
    moved = [(line, there) for line, there in zip(lines, chosen, strict=True) if there is not line]
    for line, there in moved:
        line.start_s, line.end_s, line.window = there.start_s, there.end_s, []
    return bool(moved)


def _timed(line: Candidate, words: Sequence[TimedWord]) -> Candidate:
    there = copy_line(line)
    there.timed = list(words)
    there.start_s, there.end_s = words[0].start_s, words[-1].end_s
    return there


def _is_misplaced(line: Candidate, there: Candidate, audio: SungAudio) -> bool:
    distances_s = [abs(own.start_s - other.start_s) for own, other in zip(line.timed, there.timed, strict=True)]
    if len(line.words) < MIN_WORDS or np.median(distances_s) <= FAR_S or there.end_s - there.start_s > WINDOW_S:
        return False
    return (
        there.score > MIN_GAIN * audio.second_score(*widened(line, audio), line.words)
        and support_alone(there, line.words, audio) >= MIN_SUPPORT
    )
