"""Which lines are sung, from what was heard and from what a song that knows its words says of them."""

import pytest

from pipeline.song import Word
from pipeline.verification.find_sung import find_sung
from pipeline.verification.locate_lines import Candidate, estimate_times, explain_runs, locate_expected, locate_lines

from .sung_song import HARBOUR, HORSES, LANTERNS, OTHER_SONG, SUMMER, SungSong, TwoEars, give, hear, place

GARBLED = "talking foam belong his barber"


def solve(candidates: list[Candidate], heard: list[Word], audio: SungSong) -> list[Candidate]:
    """Do as `AlignLyrics` does."""
    locate_lines(candidates, heard)
    locate_expected(candidates, heard)
    found = explain_runs(candidates, heard)
    estimate_times(found, heard)
    return find_sung(candidates, found, heard, audio)  # type: ignore[arg-type]


def summary(lines: list[Candidate]) -> list[tuple[str, float, str]]:
    return [(line.text, pytest.approx(line.start_s, abs=0.01), line.edit) for line in lines]


def test_a_missing_line_is_found_between_two_heard_ones():
    given = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    lines = solve(given, [*hear(LANTERNS, 2), *hear(SUMMER, 12)], audio)
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), (HARBOUR, 7.0, "kept"), (SUMMER, 12.0, "kept")]
    assert lines[1] is given[1]
    assert [word.start_s for word in lines[1].timed] == pytest.approx([7.0, 7.4, 7.8, 8.2, 8.6])


def test_a_line_in_time_that_another_one_claimed_is_found_when_that_is_placed():
    """What was heard of the missing line counted as the end of the one before it."""
    given = give(LANTERNS, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    found = [place(given[0], 2), place(given[2], 12)]
    found[0].end_s = 11.9
    lines = find_sung(given, found, [], audio)  # type: ignore[arg-type]
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), (HARBOUR, 7.0, "kept"), (SUMMER, 12.0, "kept")]


def test_a_line_that_took_the_place_of_its_like_leaves_it_where_the_second_aligner_has_it_elsewhere():
    first, second = "silver lanterns over dark water", "silver lanterns over dark harbour"
    given = give(first, second)
    audio = TwoEars((first, 5), (second, 14))
    audio.path = {first: 5.0, second: 14.0}
    lines = find_sung(given, [place(given[1], 5)], [], audio)  # type: ignore[arg-type]
    assert summary(lines) == [(first, 5.0, "kept"), (second, 14.0, "kept")]
    audio.path = {first: 5.0, second: 5.0}
    lines = find_sung(given, [place(given[1], 5)], [], audio)  # type: ignore[arg-type]
    assert summary(lines) != [(first, 5.0, "kept"), (second, 14.0, "kept")]


def test_a_line_of_another_song_is_not_found():
    given = give(LANTERNS, OTHER_SONG, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    lines = solve(given, [*hear(LANTERNS, 2), *hear(SUMMER, 12)], audio)
    assert lines == [given[0], given[2]]


@pytest.mark.parametrize(
    ("texts", "sung", "choruses"),
    [
        ((LANTERNS, HARBOUR, SUMMER, HARBOUR, HORSES), (2, 6, 10, 14, 18), (1, 3)),
        ((LANTERNS, HARBOUR, HARBOUR, SUMMER, HORSES), (2, 6, 9, 13, 17), (1, 2)),
    ],
    ids=["apart", "one after the other"],
)
def test_equal_choruses_each_get_their_own_place(texts, sung, choruses):
    given = give(*texts)
    songs_lines = list(zip(texts, sung, strict=True))
    heard = [word for text, start_s in songs_lines if text != HARBOUR for word in hear(text, start_s)]
    lines = solve(given, heard, SungSong(*songs_lines, duration_s=21.0))
    assert set(map(id, lines)) == set(map(id, given))
    assert sorted(given[k].start_s for k in choruses) == pytest.approx([sung[k] for k in choruses])
    assert {line.edit for line in lines} == {"kept"}


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_line_given_twice_and_sung_once_is_kept_once(is_heard):
    given = give(LANTERNS, HARBOUR, HARBOUR, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    heard = [*hear(LANTERNS, 2), *(hear(HARBOUR, 7) if is_heard else []), *hear(SUMMER, 12)]
    lines = solve(given, heard, audio)
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), (HARBOUR, 7.0, "kept"), (SUMMER, 12.0, "kept")]


def test_a_line_sung_once_more_is_expanded():
    given = give(LANTERNS, HARBOUR)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6), (LANTERNS, 14))
    lines = solve(given, [*hear(LANTERNS, 2), *hear(HARBOUR, 6)], audio)
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), (HARBOUR, 6.0, "kept"), (LANTERNS, 14.0, "expanded")]
    assert lines[0] is given[0]
    assert lines[2].section == given[0].section


def test_a_missing_equal_line_takes_the_place_of_one_sung_elsewhere_than_expected():
    given = give(LANTERNS, LANTERNS, HARBOUR)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6), (LANTERNS, 14))
    lines = solve(given, [*hear(LANTERNS, 2), *hear(HARBOUR, 6)], audio)
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), (HARBOUR, 6.0, "kept"), (LANTERNS, 14.0, "kept")]
    assert set(map(id, lines)) == set(map(id, given))


def test_what_was_heard_is_replaced_by_the_given_line_that_is_sung_there():
    """Too little room is left at the end for a search, so only what was heard says that somebody sings."""
    given = give(LANTERNS, HARBOUR, SUMMER)
    sung = [(LANTERNS, 2), (HARBOUR, 4.2), (SUMMER, 6.4)]
    heard = [word for text, start_s in sung for word in hear(text, start_s)]
    lines = solve(given, heard + hear(GARBLED, 8.6), SungSong(*sung, (HARBOUR, 8.6), duration_s=11.0))
    assert summary(lines)[3] == (HARBOUR, 8.6, "expanded")
    assert (len(lines), lines[3].source) == (4, "lyrics")


@pytest.mark.parametrize(("score", "is_kept"), [(0.9, True), (0.3, False)])
def test_a_line_that_was_not_given_is_kept_where_it_was_heard_clearly(score, is_kept):
    given = give(LANTERNS, SUMMER)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 7), (SUMMER, 12))
    heard = [*hear(LANTERNS, 2), *hear(HARBOUR, 7, score=score), *hear(SUMMER, 12)]
    lines = solve(given, heard, audio)
    middle = [(HARBOUR, 7.0, "recovered")] if is_kept else []
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), *middle, (SUMMER, 12.0, "kept")]
    assert [line.section for line in lines] == ["verse"] * len(lines)


def test_a_line_that_was_heard_and_is_not_sung_is_dropped():
    given = give(LANTERNS, HARBOUR, SUMMER)
    heard = [*hear(LANTERNS, 2), *hear(HARBOUR, 7), *hear(SUMMER, 12)]
    assert solve(given, heard, SungSong((LANTERNS, 2), (SUMMER, 12))) == [given[0], given[2]]


def test_the_room_of_a_denied_line_is_searched_again():
    given = give(LANTERNS, HARBOUR, HORSES, SUMMER)
    audio = SungSong((LANTERNS, 2), (HORSES, 7), (SUMMER, 12))
    lines = solve(given, [*hear(LANTERNS, 2), *hear(HARBOUR, 7), *hear(SUMMER, 12)], audio)
    assert summary(lines) == [(LANTERNS, 2.0, "kept"), (HORSES, 7.0, "kept"), (SUMMER, 12.0, "kept")]
    assert lines == [given[0], given[2], given[3]]


@pytest.mark.parametrize("score", [0.9, 0.3])
def test_nothing_is_left_where_the_audio_denies_every_line(score):
    given = give(LANTERNS, HARBOUR)
    heard = [*hear(LANTERNS, 2, score=score), *hear(HARBOUR, 6, score=score)]
    assert solve(given, heard, SungSong((OTHER_SONG, 2), (OTHER_SONG, 6))) == []


def test_missing_lines_sung_in_another_order_than_given():
    given = give(LANTERNS, HARBOUR, HORSES, SUMMER)
    audio = SungSong((LANTERNS, 2), (HORSES, 5), (HARBOUR, 9), (SUMMER, 14))
    lines = solve(given, [*hear(LANTERNS, 2), *hear(SUMMER, 14)], audio)
    assert lines == [given[0], given[2], given[1], given[3]]
    assert {line.edit for line in lines} == {"kept"}


def test_a_missing_line_that_was_heard_badly_takes_the_place_of_what_was_heard():
    """It is not reported as both sung once more and not sung."""
    given = give(HARBOUR, LANTERNS, SUMMER)
    audio = SungSong((LANTERNS, 2), (SUMMER, 4.2), (HARBOUR, 6.4), duration_s=9.0)
    lines = solve(given, [*hear(LANTERNS, 2), *hear(SUMMER, 4.2), *hear(GARBLED, 6.4)], audio)
    assert summary(lines)[2] == (HARBOUR, 6.4, "kept")
    assert lines[2] is given[0]
