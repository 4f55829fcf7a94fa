"""A heard line that stands several times in the lyrics: which of them it is."""

from pipeline.verification.locate_lines import Candidate
from pipeline.verification.match_repetitions import match_repetitions

from .sung_song import HARBOUR, HORSES, LANTERNS, SUMMER, SungSong, give, place

CHORUS = (HARBOUR, HORSES)


def hear_line(line: Candidate, start_s: float, index: int) -> Candidate:
    line.heard, line.first_heard, line.last_heard, line.similarity = [(0, index)], index, index + 4, 0.8
    return place(line, start_s)


def test_a_chorus_without_room_for_an_earlier_one_is_the_earlier_one():
    """Only the first chorus was heard, and taken for the second: nothing of the first could be sung before it."""
    lines = give(LANTERNS, *CHORUS, SUMMER, *CHORUS)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 5), (HORSES, 8), (SUMMER, 14), (HARBOUR, 18), (HORSES, 21), duration_s=25)
    found = [hear_line(lines[0], 2, 0), hear_line(lines[4], 5, 5), hear_line(lines[5], 8, 10)]
    assert match_repetitions(lines, found, audio) == lines[:3]
    assert [(line.start_s, line.first_heard) for line in lines[:3]] == [(2, 0), (5, 5), (8, 10)]
    assert all((line.is_found, line.heard, line.similarity) == (False, [], 0.0) for line in lines[3:])


def test_a_chorus_with_room_for_an_earlier_one_stays():
    lines = give(LANTERNS, *CHORUS, SUMMER, *CHORUS)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 5), (HORSES, 8), (SUMMER, 14), (HARBOUR, 18), (HORSES, 21), duration_s=25)
    found = [hear_line(lines[0], 2, 0), hear_line(lines[4], 18, 5), hear_line(lines[5], 21, 10)]
    assert match_repetitions(lines, found, audio) == found


def test_of_several_earlier_ones_it_is_the_latest_that_leaves_room():
    """Four seconds of singing before it: room for two choruses, sung in half of the usual time, but not for three."""
    lines = give(LANTERNS, HARBOUR, SUMMER, HARBOUR, SUMMER, HARBOUR, SUMMER, HARBOUR)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 5), (SUMMER, 8), (HARBOUR, 11), duration_s=30)
    found = [hear_line(lines[0], 2, 0), hear_line(lines[7], 11, 5)]
    assert match_repetitions(lines, found, audio) == [lines[0], lines[5]]


def test_lines_with_other_words_never_move():
    lines = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (SUMMER, 4))
    found = [hear_line(lines[0], 2, 0), hear_line(lines[2], 4, 5)]
    assert match_repetitions(lines, found, audio) == found


def test_silence_is_no_room():
    """Between both lines lie ten seconds in which nobody sings: the missing chorus cannot be there."""
    lines = give(LANTERNS, HARBOUR, SUMMER, HARBOUR)
    found = [hear_line(lines[0], 2, 0), hear_line(lines[3], 14, 5)]
    audio = SungSong((LANTERNS, 2), (HARBOUR, 14), (SUMMER, 17), (HARBOUR, 20), duration_s=25)
    assert match_repetitions(lines, found, audio) == lines[:2]
