"""Lines that nobody heard: where they are searched, which window each gets, and their times."""

import functools

import pytest

from pipeline.song import TimedWord
from pipeline.verification.search_lines import search_free, search_missing

from .sung_song import HARBOUR, HORSES, LANTERNS, OTHER_SONG, SUMMER, WORD_S, SungSong, give, hear, place


class Listener(SungSong):
    """Remembers in which windows lines were asked for."""

    def __init__(self, *sung: tuple[str, float], duration_s: float = 20.0) -> None:
        super().__init__(*sung, duration_s=duration_s)
        self.questions: list[tuple[float, float]] = []

    def measure_support(self, start_s, end_s, lines):
        self.questions.append((start_s, end_s))
        return super().measure_support(start_s, end_s, lines)


def test_missing_lines_are_searched_between_their_neighbours():
    lines = give(LANTERNS, HARBOUR, HORSES, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 5), (HORSES, 9), (SUMMER, 14))
    heard = search_missing(lines, [place(lines[0], 2), place(lines[3], 14)], audio)
    assert heard == lines[1:3]
    assert [(line.start_s, line.end_s) for line in heard] == [pytest.approx((5.0, 7.0)), pytest.approx((9.0, 11.0))]


def test_missing_lines_at_both_ends_of_the_song():
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 8), (SUMMER, 14))
    assert search_missing(lines, [place(lines[1], 8)], audio) == [lines[0], lines[2]]
    assert (lines[0].start_s, lines[2].start_s) == pytest.approx((2.0, 14.0))


def test_without_any_neighbour_the_whole_song_is_searched():
    lines = give(LANTERNS, HARBOUR, OTHER_SONG)
    audio = SungSong((LANTERNS, 21), (HARBOUR, 58), duration_s=90.0)
    assert search_missing(lines, [], audio) == lines[:2]
    assert (lines[0].start_s, lines[1].start_s) == pytest.approx((21.0, 58.0))
    assert len(audio.windows) == 2  # too far from each other for one pass of the aligner


def test_rooms_are_searched_to_their_end():
    lines = give(LANTERNS, HARBOUR)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 17.5))
    assert search_missing(lines, [place(lines[0], 2)], audio) == [lines[1]]
    assert lines[1].start_s == pytest.approx(17.5)


def test_a_long_word_at_the_start_of_the_next_line_leaves_room_until_its_end():
    """The recogniser heard the line after a missing one, and stretched its first words over both."""
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    first, *rest = hear(SUMMER, 12)
    lines[2].timed = [TimedWord(4.0, first.end_s, 0.1), *(TimedWord(w.start_s, w.end_s, 0.9) for w in rest)]
    lines[2].start_s, lines[2].end_s = 4.0, 14.0
    assert search_missing(lines, [place(lines[0], 2), lines[2]], audio) == [lines[1]]
    lines[2].timed[0] = TimedWord(4.0, 6.0, 0.1)  # 2 s are no long word
    assert search_missing(lines, [place(lines[0], 2), lines[2]], audio) == []


def test_a_line_does_not_begin_before_the_one_before_it():
    """Its window begins earlier, and words of its own that are not heard would be taken from there."""
    lines = give(SUMMER, LANTERNS, f"gone gone {HARBOUR}")
    audio = SungSong((SUMMER, 2), (LANTERNS, 7), (HARBOUR, 11), duration_s=16.0)
    assert search_missing(lines, [], audio) == lines
    assert audio.windows[1][:2] == pytest.approx((lines[1].end_s - WORD_S, 16.0))  # it was found in 8 to 16 s
    assert lines[2].start_s >= lines[1].end_s - WORD_S


def test_alike_lines_do_not_share_one_singing():
    """Where the first is sung most speaks for all of them; the others are sung later."""

    class Nonsense(SungSong):
        def measure_support(self, start_s, end_s, lines):
            support = super().measure_support(start_s, end_s, lines)
            return support + 4.0 if start_s < 2 else support / 2

    lines = give("ba da da da", "ba da da dam", "ba da dam dam")
    audio = Nonsense(("ba da da da", 2), ("ba da da dam", 10), ("ba da dam dam", 18), duration_s=24.0)
    assert search_missing(lines, [], audio) == lines
    assert [line.start_s for line in lines] == pytest.approx([2.0, 10.0, 18.0])


def test_no_line_is_searched_where_another_one_is_sung():
    lines = give(LANTERNS, HARBOUR, SUMMER)
    again = place(give(LANTERNS)[0], 6)  # sung once more between the neighbours
    audio = SungSong((LANTERNS, 2), (LANTERNS, 6), (HARBOUR, 9), (SUMMER, 14))
    assert search_missing(lines, [place(lines[0], 2), again, place(lines[2], 14)], audio) == [lines[1]]
    assert all(start_s >= again.end_s - 1e-9 for start_s, _, _ in audio.windows)


def test_the_room_with_most_singing_is_searched_and_not_the_longest():
    """A long intro, in which nobody sings, lies before the neighbours, too."""
    lines = give(HARBOUR, SUMMER, LANTERNS)
    audio = SungSong((LANTERNS, 20), (HARBOUR, 24), (SUMMER, 28), duration_s=32.0)
    assert search_missing(lines, [place(lines[2], 20), place(lines[1], 28)], audio) == [lines[0]]
    assert lines[0].start_s == pytest.approx(24.0)


def test_neighbours_out_of_order_leave_no_room_between_them():
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((SUMMER, 2), (HARBOUR, 7), (LANTERNS, 12))
    assert search_missing(lines, [place(lines[2], 2), place(lines[0], 12)], audio) == []


def test_free_room_is_searched_for_every_line():
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((SUMMER, 2), (HARBOUR, 7), (LANTERNS, 12))
    assert search_free(lines, [place(lines[2], 2), place(lines[0], 12)], audio, []) == [lines[1]]
    assert (lines[1].start_s, lines[1].edit) == (pytest.approx(7.0), "kept")


def test_a_line_that_has_its_place_is_copied():
    lines = give(LANTERNS, HARBOUR)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6), (HARBOUR, 12))
    (again,) = search_free(lines, [place(lines[0], 2), place(lines[1], 6)], audio, [])
    assert (again.text, again.start_s, again.edit) == (HARBOUR, pytest.approx(12.0), "expanded")
    assert again is not lines[1]
    assert lines[1].start_s == 6


def test_more_must_speak_for_a_line_that_is_not_expected():
    """Four of seven words are sung: 1.4 nats."""
    lines = give(LANTERNS, "one two three four five six seven", SUMMER)
    audio = SungSong((LANTERNS, 2), ("one two three four", 6), (SUMMER, 12))
    found = [place(lines[0], 2), place(lines[2], 12)]
    assert search_missing(lines, found, audio) == [lines[1]]
    assert search_free(lines, found, audio, []) == []


def test_a_line_found_elsewhere_has_no_more_to_do_with_what_was_heard():
    """Words that were heard where the line turned out not to be sung neither explain nor repair anything."""
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    found = [place(lines[0], 2), place(lines[2], 12)]
    for search in (search_missing, functools.partial(search_free, in_vain=[])):
        lines[1].heard, lines[1].first_heard, lines[1].last_heard = [(0, 30)], 30, 34
        assert search(lines, found, audio) == [lines[1]]
        assert (lines[1].heard, lines[1].is_found) == ([], False)


@pytest.mark.parametrize(("next_start_s", "num_found"), [(6.9, 0), (7.1, 1)])
def test_short_rooms_are_not_searched_for_lines_that_are_not_expected(next_start_s, num_found):
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 4.5), (SUMMER, next_start_s), duration_s=next_start_s + 2)
    assert len(search_free(lines, [place(lines[0], 2), place(lines[2], next_start_s)], audio, [])) == num_found


def test_windows_without_singing_are_passed_over():
    lines = give(LANTERNS, HARBOUR)
    audio = Listener((LANTERNS, 2), (HARBOUR, 40), duration_s=60.0)
    assert search_missing(lines, [place(lines[0], 2)], audio) == [lines[1]]
    assert audio.questions == [(36.0, 44.0), (40.0, 48.0)]


def test_free_room_is_not_searched_again_where_nothing_was_found():
    """Also where it begins a little later; what is free for the first time is searched."""
    lines = give(LANTERNS, SUMMER)
    audio = Listener((LANTERNS, 2), (OTHER_SONG, 8), (SUMMER, 20), (OTHER_SONG, 40), duration_s=44.0)
    found, in_vain = [place(lines[0], 2), place(lines[1], 20)], []
    assert search_free(lines, found, audio, in_vain) == []
    assert audio.questions == in_vain == [(4.0, 16.0), (30.0, 42.0), (38.0, 44.0)]
    audio.questions.clear()
    lines[0].end_s += 0.3
    assert search_free(lines, found, audio, in_vain) == []
    assert audio.questions == []
    place(lines[1], 34)
    (summer,) = search_free(lines, found, audio, in_vain)
    assert (summer.text, summer.start_s) == (SUMMER, pytest.approx(20.0))


def test_a_line_that_two_windows_cut_is_searched_when_the_line_between_them_is_gone():
    lines = give("hey", HARBOUR, SUMMER)
    audio = SungSong((HARBOUR, 9), (SUMMER, 20), (OTHER_SONG, 2), (OTHER_SONG, 13), duration_s=22.0)
    wrong, in_vain = place(lines[0], 9.8), []
    search_free(lines, [wrong, place(lines[2], 20)], audio, in_vain)
    assert in_vain[0] == (0.0, 9.8)
    (harbour,) = search_free(lines, [lines[2]], audio, in_vain)
    assert (harbour.text, harbour.start_s) == (HARBOUR, pytest.approx(9.0))


def test_a_chorus_that_is_missing_twice_is_found_twice():
    """Its lines agree as well with either repetition, and the path must not put both where the voice is clearest."""
    lines = give(LANTERNS, HARBOUR, SUMMER, HARBOUR, HORSES)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6), (SUMMER, 14), (HARBOUR, 22), (HORSES, 34), duration_s=40.0)
    found = [place(lines[0], 2), place(lines[2], 14), place(lines[4], 34)]
    assert search_missing(lines, found, audio) == [lines[1], lines[3]]
    lines = give(LANTERNS, HARBOUR, HARBOUR, HORSES)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6), (HARBOUR, 22), (HORSES, 34), duration_s=40.0)
    assert search_missing(lines, [place(lines[0], 2), place(lines[3], 34)], audio) == lines[1:3]
    assert (lines[1].start_s, lines[2].start_s) == pytest.approx((6.0, 22.0))


def test_expected_lines_that_are_alike_are_asked_one_by_one():
    """After a line with most of its words a line hardly surprises the decoder, sung or not."""
    asked = []

    class Listener(SungSong):
        def measure_support(self, start_s, end_s, lines):
            asked.append([" ".join(words) for words in lines])
            return super().measure_support(start_s, end_s, lines)

    alike = "silver lanterns over cold water"
    lines = give(LANTERNS, alike, HARBOUR, SUMMER)
    audio = Listener((LANTERNS, 2), (alike, 5), (HARBOUR, 8), (SUMMER, 14))
    search_missing(lines, [place(lines[3], 14)], audio)
    assert {tuple(texts) for texts in asked} == {(LANTERNS, HARBOUR), (alike,)}
