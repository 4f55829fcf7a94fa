"""Word times of lines whose places are roughly known, and the evidence for each line."""

import numpy as np
import pytest

from pipeline.song import TimedWord
from pipeline.transcription.whisper import MAX_WINDOW_S
from pipeline.verification.place_words import place_words, support_alone, widened

from .sung_song import HARBOUR, LANTERNS, SungSong, give, place


def place_at(*starts_s: float):
    """Return lines of ten words (4 s) that are expected at these times, and a song in which they are sung there."""
    texts = [" ".join(f"word{k}{letter}" for letter in "abcdefghij") for k in range(len(starts_s))]
    lines = [place(line, start_s) for line, start_s in zip(give(*texts), starts_s, strict=True)]
    return lines, SungSong(*zip(texts, starts_s, strict=True), duration_s=starts_s[-1] + 6.0)


def cut(lines, audio) -> list[int]:
    """Return the number of lines in every window that was aligned."""
    place_words(lines, audio)
    return [len(words) // 10 for _, _, words in audio.windows]


def test_lines_that_follow_each_other_closely_share_a_window_of_twelve_seconds():
    assert cut(*place_at(2.0, 6.0)) == [2]
    assert cut(*place_at(2.0, 6.0, 10.0)) == [3]
    assert cut(*place_at(2.0, 6.0, 10.1)) == [2, 1]


def test_windows_are_cut_at_long_pauses():
    assert cut(*place_at(2.0, 7.4)) == [2]
    assert cut(*place_at(2.0, 7.6)) == [1, 1]


def test_windows_that_are_full_are_cut_at_the_widest_pause_of_their_second_half():
    lines = give(*(" ".join(f"{name}{k}" for k in range(5)) for name in "abcdefg"))
    starts_s = (0.0, 2.9, 5.0, 8.1, 10.2, 12.3, 14.4)  # pauses: 0.9, 0.1, 1.1, 0.1, 0.1, 0.1
    audio = SungSong(*((line.text, start_s) for line, start_s in zip(lines, starts_s, strict=True)))
    place_words([place(line, start_s) for line, start_s in zip(lines, starts_s, strict=True)], audio)
    assert [len(words) // 5 for _, _, words in audio.windows] == [3, 4]


@pytest.mark.parametrize(("grown_s", "windows"), [(3.0, [3]), (3.1, [2, 1])])
def test_lines_that_were_placed_together_are_placed_together_again(grown_s, windows):
    """Alone their times would cut them anew, and then no window would be one that was asked before."""
    lines, audio = place_at(2.0, 6.0, 10.0)
    assert cut(lines, audio) == [3]
    audio.windows.clear()
    lines[2].end_s += grown_s
    assert cut(lines, audio) == windows


def test_lines_whose_neighbour_is_gone_are_cut_anew():
    lines, audio = place_at(2.0, 6.0, 10.0, 14.0)
    assert cut(lines, audio) == [2, 2]
    audio.windows.clear()
    assert cut(lines[1:], audio) == [1, 2]  # and take none from a window that holds
    audio.windows.clear()
    assert cut([*lines[:1], *lines[2:3]], audio) == [1, 1]


def test_windows_fit_the_model_and_hold_every_line_once():
    lines, audio = place_at(*(5.0 * k for k in range(40)))
    place_words(lines, audio)
    assert all(end_s - start_s <= MAX_WINDOW_S for start_s, end_s, _ in audio.windows)
    assert [word for _, _, words in audio.windows for word in words] == [word for x in lines for word in x.words]
    assert [line.start_s for line in lines] == pytest.approx([5.0 * k for k in range(40)])


def test_a_window_does_not_reach_into_the_lines_around_it():
    lines, audio = place_at(2.0, 6.0, 10.1)
    place_words(lines, audio)
    spans = [(start_s, end_s) for start_s, end_s, _ in audio.windows]
    assert spans == [pytest.approx((1.0, 10.3)), pytest.approx((9.8, 15.1))]  # 1 s around, 0.2 s into each other


def test_lines_get_the_times_of_their_words():
    lines = [place(line, start_s) for line, start_s in zip(give(LANTERNS, HARBOUR), (2.4, 4.6), strict=True)]
    place_words(lines, SungSong((LANTERNS, 2), (HARBOUR, 5)))
    assert [(line.start_s, line.end_s) for line in lines] == [pytest.approx((2.0, 4.0)), pytest.approx((5.0, 7.0))]
    assert [line.support for line in lines] == [4.0, 4.0]


def test_times_are_monotone_and_inside_the_song_whatever_the_aligner_says():
    rng = np.random.default_rng(0)

    class Confused(SungSong):
        def align(self, start_s, end_s, lines):
            return [[TimedWord(*sorted(rng.uniform(0, 20, 2)), 0.5) for _ in line] for line in lines]

    lines = [place(line, start_s) for line, start_s in zip(give(LANTERNS, HARBOUR), (1.0, 4.0), strict=True)]
    place_words(lines, Confused((LANTERNS, 1), (HARBOUR, 4), duration_s=10.0))
    words = [word for x in lines for word in x.timed]
    onsets = [word.start_s for word in words]
    assert onsets == sorted(onsets)
    assert all(0 <= word.start_s <= word.end_s <= 10.0 for word in words)


def test_no_lines_are_no_error():
    place_words([], SungSong())


class Doubtful(SungSong):
    """Says little for a line among others and more for a line alone."""

    def __init__(self, among: float, *sung):
        super().__init__(*sung)
        self.among, self.questions = among, []

    def measure_support(self, start_s, end_s, lines):
        self.questions.append([" ".join(words) for words in lines])
        return np.full(len(lines), self.among if len(self.questions) == 1 else 3.0)


@pytest.mark.parametrize(("among", "support", "num_alone"), [(1.4, 3.0, 2), (1.6, 1.6, 0)])
def test_doubtful_lines_are_asked_alone(among, support, num_alone):
    lines = [place(line, start_s) for line, start_s in zip(give(LANTERNS, HARBOUR), (2, 4), strict=True)]
    audio = Doubtful(among, (LANTERNS, 2), (HARBOUR, 4))
    place_words(lines, audio)
    assert [line.support for line in lines] == [support, support]
    assert audio.questions == [[LANTERNS, HARBOUR], [LANTERNS], [HARBOUR]][: 1 + num_alone]


@pytest.mark.parametrize(("times_s", "is_twice"), [((2,), False), ((2, 4), True)])
def test_a_line_after_its_like_needs_evidence_for_both_in_their_own_places(times_s, is_twice):
    lines = [place(line, start_s) for line, start_s in zip(give(LANTERNS, LANTERNS), (2, 4), strict=True)]
    place_words(lines, SungSong(*((LANTERNS, time_s) for time_s in times_s)))
    assert lines[0].support == 4.0
    assert (lines[1].support > 1.5) is is_twice


def test_evidence_is_asked_where_the_line_is_and_a_little_around():
    audio = SungSong((LANTERNS, 1), (HARBOUR, 4), duration_s=6.1)
    lines = [place(line, start_s) for line, start_s in zip(give(LANTERNS, HARBOUR), (0.1, 4), strict=True)]
    assert widened(lines[0], audio) == pytest.approx((0.0, 2.4))
    assert widened(lines[1], audio) == pytest.approx((3.7, 6.1))
    assert support_alone(lines[1], HARBOUR.split(), audio) == 4.0
    assert support_alone(lines[1], LANTERNS.split(), audio) == -2.0


def test_a_long_first_word_starts_later_in_the_next_placement():
    class Early(SungSong):
        def align(self, start_s, end_s, lines):
            ((first, *rest),) = super().align(start_s, end_s, lines)
            return [[TimedWord(start_s, first.end_s, first.score), *rest]]

    line = place(give(LANTERNS)[0], 4)
    place_words([line], Early((LANTERNS, 5)))
    assert (line.timed[0].start_s, line.start_s) == pytest.approx((3.0, 4.9))  # half a second before its end at 5.4


@pytest.mark.parametrize(
    ("last", "span_s"),
    [
        ((9.3, 9.7), (3.0, 5.0)),  # it was placed in another line
        ((5.0, 11.0), (3.0, 10.0)),  # it was stretched over the next line
        ((5.0, 9.0), (3.0, 9.0)),
    ],
    ids=["far away", "long", "held"],
)
def test_the_next_placement_looks_for_a_line_where_most_of_its_words_are(last, span_s):
    class Stretching(SungSong):
        def align(self, start_s, end_s, lines):
            times = [(3.0, 3.4), (3.4, 3.8), (3.8, 4.2), (4.2, 5.0), last]
            return [[TimedWord(a, b, 0.5) for a, b in times]]

    line = place(give(LANTERNS)[0], 3)
    place_words([line], Stretching((LANTERNS, 3)))
    assert (line.start_s, line.end_s) == pytest.approx(span_s)
    assert line.timed[-1].end_s == pytest.approx(last[1])  # the words themselves stay where they are
