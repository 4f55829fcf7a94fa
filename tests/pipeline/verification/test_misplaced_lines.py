"""Lines whose place a second aligner denies, which takes the whole song at once."""

import pytest

from pipeline.song import TimedWord
from pipeline.verification.misplaced_lines import move_misplaced
from pipeline.verification.place_words import place_words

from .sung_song import HARBOUR, HORSES, LANTERNS, SungSong, TwoEars, give, place


def place_two(lanterns_s: float, harbour_s: float, *also_sung: tuple[str, float], path: tuple[float, float]):
    """Return two lines in their places, and a song in which they are sung there, and what else is sung."""
    audio = TwoEars((LANTERNS, lanterns_s), (HARBOUR, harbour_s), *also_sung, duration_s=40.0)
    audio.path = dict(zip((LANTERNS, HARBOUR), path, strict=True))
    lanterns, harbour = give(LANTERNS, HARBOUR)
    lines = [place(lanterns, lanterns_s), place(harbour, harbour_s)]
    place_words(lines, audio)
    return lines, audio


def starts_s(lines) -> list[float]:
    return [round(line.start_s, 6) for line in lines]


def test_a_line_moves_where_the_second_aligner_hears_it_better():
    lines, audio = place_two(2.0, 30.0, (LANTERNS, 12.0), path=(12.0, 30.0))
    assert move_misplaced(lines, audio)
    assert starts_s(lines) == [12.0, 30.0]
    assert not lines[0].window
    place_words(lines, audio)
    assert starts_s(lines) == [12.0, 30.0]
    assert not move_misplaced(lines, audio)


@pytest.mark.parametrize(("there", "start_s"), [(0.16, 12.0), (0.15, 2.0)])
def test_its_words_are_heard_half_as_well_again_there(there, start_s):
    lines, audio = place_two(2.0, 30.0, (LANTERNS, 12.0), path=(12.0, 30.0))
    audio.there = there
    move_misplaced(lines, audio)
    assert starts_s(lines) == [start_s, 30.0]


def test_a_line_stays_where_both_ears_nearly_agree():
    lines, audio = place_two(2.0, 30.0, path=(3.0, 30.9))
    assert not move_misplaced(lines, audio)
    assert starts_s(lines) == [2.0, 30.0]


def test_a_line_stays_where_the_decoder_denies_the_other_place():
    lines, audio = place_two(2.0, 30.0, path=(12.0, 30.0))
    assert not move_misplaced(lines, audio)


def test_a_line_that_the_second_aligner_stretches_over_a_pause_stays(monkeypatch):
    lines, audio = place_two(2.0, 30.0, (LANTERNS, 12.0), path=(12.0, 30.0))
    path = audio.second_path([line.words for line in lines])
    path[0][-1] = TimedWord(24.0, 25.0, 0.3)
    monkeypatch.setattr(audio, "second_path", lambda _: path)
    assert not move_misplaced(lines, audio)


def test_a_line_of_one_word_stays():
    lines, audio = give("yeah"), TwoEars(("yeah", 2.0), ("yeah", 12.0))
    audio.path = {"yeah": 12.0}
    place_words([place(lines[0], 2.0)], audio)
    assert not move_misplaced(lines, audio)


def test_lines_keep_their_order():
    """The second line stays where it is, so the first one cannot be sung after it."""
    lines, audio = place_two(2.0, 12.0, (LANTERNS, 12.5), path=(12.5, 12.9))
    assert not move_misplaced(lines, audio)
    assert starts_s(lines) == [2.0, 12.0]


def test_a_line_does_not_move_past_one_whose_move_is_taken_back():
    """The second would stand after the third, which stays, so it stays too, and the first would stand after it."""
    lines = [
        place(line, start_s) for line, start_s in zip(give(LANTERNS, HARBOUR, HORSES), (2.0, 12.0, 20.0), strict=True)
    ]
    audio = TwoEars(
        (LANTERNS, 2.0), (HARBOUR, 12.0), (HORSES, 20.0), (LANTERNS, 16.0), (HARBOUR, 30.0), duration_s=40.0
    )
    audio.path = {LANTERNS: 16.0, HARBOUR: 30.0, HORSES: 20.9}
    place_words(lines, audio)
    assert not move_misplaced(lines, audio)
    assert starts_s(lines) == [2.0, 12.0, 20.0]


def test_a_line_moves_to_the_other_side_of_a_place_that_its_neighbour_leaves():
    lines, audio = place_two(2.0, 12.0, (LANTERNS, 14.0), (HARBOUR, 30.0), path=(14.0, 30.0))
    assert move_misplaced(lines, audio)
    assert starts_s(lines) == [14.0, 30.0]


def test_without_a_second_aligner_all_lines_stay():
    lines = [place(line, start_s) for line, start_s in zip(give(LANTERNS, HARBOUR), (2.0, 12.0), strict=True)]
    audio = SungSong((LANTERNS, 2.0), (HARBOUR, 12.0))
    place_words(lines, audio)
    assert not move_misplaced(lines, audio)
    assert starts_s(lines) == [2.0, 12.0]
