"""Lines where the lyrics file's times have them: asked for there first, and believed only where the audio agrees."""

import pytest

from pipeline.song import TimedWord
from pipeline.verification.find_sung import find_sung
from pipeline.verification.locate_lines import Candidate, copy_line
from pipeline.verification.place_words import place_words
from pipeline.verification.search_expected import (
    drop_unexpected,
    move_expected,
    name_repetitions,
    search_expected,
    settle_expected,
)

from .sung_song import HARBOUR, HORSES, LANTERNS, OTHER_SONG, SUMMER, SungSong, give, hear, place


class Listener(SungSong):
    """Remembers in which windows lines were asked for."""

    def __init__(self, *sung: tuple[str, float], duration_s: float = 20.0) -> None:
        super().__init__(*sung, duration_s=duration_s)
        self.questions: list[tuple[float, float]] = []

    def measure_support(self, start_s, end_s, lines):
        self.questions.append((start_s, end_s))
        return super().measure_support(start_s, end_s, lines)


def expect(lines: list[Candidate], *starts_s: float | None) -> dict[int, tuple[float, float]]:
    return {id(line): (s, s + 2.0) for line, s in zip(lines, starts_s, strict=True) if s is not None}


def test_missing_lines_are_asked_for_where_they_are_expected():
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = Listener((LANTERNS, 2), (HARBOUR, 40), (SUMMER, 70), duration_s=80.0)
    found = [place(lines[0], 2), place(lines[2], 70)]
    assert search_expected(lines, found, expect(lines, 2, 40.5, 70), audio) == [lines[1]]
    assert (lines[1].start_s, lines[1].end_s) == pytest.approx((40.0, 42.0))
    assert audio.questions == [pytest.approx((39.0, 44.0))]  # and nowhere else


@pytest.mark.parametrize("given_s", [10.0, 60.0])
def test_a_wrong_time_is_not_copied(given_s):
    """Nobody sings it there: the ordinary search finds it, or nobody."""
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (OTHER_SONG, 10), (HARBOUR, 40), (OTHER_SONG, 60), (SUMMER, 70), duration_s=80.0)
    found = [place(lines[0], 2), place(lines[2], 70)]
    expected = expect(lines, 2, given_s, 70)
    assert search_expected(lines, found, expected, audio) == []
    heard = [*hear(LANTERNS, 2), *hear(SUMMER, 70)]
    lines[0].heard = lines[2].heard = [(0, 0)]
    sung = find_sung(lines, found, heard, audio, expected)
    assert [(line.text, line.start_s) for line in sung] == [
        (LANTERNS, pytest.approx(2.0)),
        (HARBOUR, pytest.approx(40.0)),
        (SUMMER, pytest.approx(70.0)),
    ]


def test_alike_lines_are_asked_for_apart():
    lines = give(LANTERNS, HARBOUR, HARBOUR)
    audio = Listener((LANTERNS, 2), (HARBOUR, 6), (HARBOUR, 9))
    assert search_expected(lines, [place(lines[0], 2)], expect(lines, 2, 6, 9), audio) == lines[1:]
    assert [line.start_s for line in lines[1:]] == pytest.approx([6.0, 9.0])
    assert audio.questions[0][1] <= audio.questions[1][0] + 1e-9


def test_a_chorus_goes_to_the_repetition_that_is_expected_there():
    lines = give(LANTERNS, HARBOUR, SUMMER, LANTERNS)
    found = [place(lines[0], 30), place(lines[2], 34)]
    named = name_repetitions(lines, found, expect(lines, 5, 10, 34, 60))
    assert named == found  # no equal line is expected at 30 s
    lines = give(HORSES, LANTERNS, HARBOUR, LANTERNS, SUMMER)
    found = [place(lines[0], 2), place(lines[1], 30), place(lines[4], 40)]
    named = name_repetitions(lines, found, expect(lines, 2, 10, 20, 30.5, 40))
    assert named == [lines[0], lines[3], lines[4]]
    assert lines[3].start_s == 30
    assert (lines[1].start_s, lines[1].heard) == (0.0, [])


def test_a_line_far_from_its_time_moves_there_if_it_is_sung_there():
    for sung_s, is_moved in ((9.0, True), (14.0, False)):
        lines = give(LANTERNS, HARBOUR, SUMMER)
        audio = SungSong((LANTERNS, 2), (HARBOUR, sung_s), (SUMMER, 17))
        place_words([place(line, s) for line, s in zip(lines, (2, 14, 17), strict=True)], audio)
        lines[1].start_s, lines[1].timed = 14.0, [TimedWord(14 + 0.4 * k, 14.4 + 0.4 * k, 0.1) for k in range(5)]
        assert move_expected(lines, expect(lines, 2, 9, 17), audio) is is_moved
        assert lines[1].start_s == pytest.approx(9.0 if is_moved else 14.0)


def test_a_line_that_took_words_of_the_one_before_is_placed_alone():
    texts = (LANTERNS, HARBOUR, SUMMER, HORSES, OTHER_SONG)
    lines = give(*texts)
    audio = SungSong(*((text, 4.0 * k + 2) for k, text in enumerate(texts)), duration_s=24.0)
    for k, line in enumerate(lines):
        line.given_s = 4.0 * k + 2
    place_words([place(line, line.given_s) for line in lines if line.given_s], audio)
    right = [word.start_s for word in lines[1].timed]
    lines[1].timed = [TimedWord(6.0 + 0.1 * k, 6.1 + 0.1 * k, 0.1) for k in range(5)]  # squeezed by
    lines[2].timed = [TimedWord(7.0, 10.4, 0.1), *lines[2].timed[1:]]
    settle_expected(lines, lines, audio)
    assert lines[2].timed[0].start_s == pytest.approx(10.0)
    assert [word.start_s for word in lines[1].timed] == pytest.approx(right)


@pytest.mark.parametrize(("gap_s", "is_kept"), [(6.0, False), (14.0, True)])
def test_no_line_is_sung_once_more_where_the_file_has_no_room(gap_s, is_kept):
    lines = give(LANTERNS, HARBOUR)
    again = copy_line(lines[0])
    again.edit = "expanded"
    placed = [place(lines[0], 2), place(again, 4), place(lines[1], 2 + gap_s)]
    kept = drop_unexpected(lines, placed, expect(lines, 2, 2 + gap_s))
    assert kept == (placed if is_kept else [lines[0], lines[1]])
    assert drop_unexpected(lines, placed, {}) == placed
    assert drop_unexpected(lines, placed, expect(lines, 2, 9 + gap_s)) == placed  # elsewhere than the file says
