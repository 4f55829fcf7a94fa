"""Starts of words, put right by syllables and by a second aligner."""

from dataclasses import replace

import pytest

from pipeline.song import TimedWord
from pipeline.verification.word_onsets import advance_late, agree, begin_later

LATE = [TimedWord(0.0, 2.0, 0.9), TimedWord(2.0, 3.0, 0.8), TimedWord(3.0, 3.4, 0.7)]


def test_a_word_entered_late_moves_to_where_its_share_of_the_time_begins():
    fixed = advance_late(["the", "window", "of"], LATE, "en")  # one and two syllables from 0 to 3 s
    assert fixed == [TimedWord(0.0, 1.0, 0.9), TimedWord(1.0, 3.0, 0.8), TimedWord(3.0, 3.4, 0.7)]


def test_the_last_word_shares_the_time_up_to_its_own_end():
    assert [word.start_s for word in advance_late(["the", "window"], LATE[:2], "en")] == [0.0, pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("words", "second_start_s"),
    [(["the", "night", "of"], 2.0), (["the", "window", "of"], 1.14), (["the", "window", "of"], 0.4)],
    ids=["one syllable", "hardly late", "early"],
)
def test_other_words_stay_where_they_are(words, second_start_s):
    timed = [TimedWord(0.0, second_start_s, 0.9), TimedWord(second_start_s, 3.0, 0.8), LATE[2]]
    assert advance_late(words, timed, "en") == timed


def test_words_on_which_two_aligners_agree_get_the_mean_of_both():
    first = [TimedWord(1.0, 1.5, 0.9), TimedWord(2.0, 2.5, 0.8)]
    second = [TimedWord(1.5, 1.7, 0.2), TimedWord(2.7, 3.0, 0.1)]
    assert agree(first, second) == [TimedWord(1.25, 1.6, 0.9), first[1]]
    assert agree(second, first) == [TimedWord(1.25, 1.6, 0.2), second[1]]


def test_a_line_begins_where_it_is_heard_much_later():
    """With all of its words that lie before that; the pause goes to nobody."""
    timed = [TimedWord(float(k), k + 1.0, 0.9) for k in range(5)]
    second = [replace(word, start_s=word.start_s + 1.5, end_s=word.end_s + 1.5, score=0.1) for word in timed]
    moved = [replace(word, start_s=word.start_s + 1.5, end_s=word.end_s + 1.5) for word in timed]
    assert begin_later(timed, second, [0]) == [*moved[:2], *timed[2:]]
    assert begin_later(timed, second, [0, 3]) == [*moved[:2], timed[2], *moved[3:]]
    assert begin_later(timed, second, [0, 1]) == [moved[0], *moved[1:3], *timed[3:]]


@pytest.mark.parametrize(("later_s", "score"), [(0.59, 0.1), (1.5, 0.04), (-1.5, 0.1)])
def test_a_line_stays_where_the_second_aligner_is_near_unsure_or_early(later_s, score):
    timed = [TimedWord(2.0, 2.4, 0.9), TimedWord(2.4, 3.0, 0.9)]
    second = [replace(word, start_s=word.start_s + later_s, score=score) for word in timed]
    assert begin_later(timed, second, [0]) == timed
