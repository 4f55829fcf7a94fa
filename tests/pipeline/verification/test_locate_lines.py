from pipeline.song import Word
from pipeline.verification.locate_lines import (
    Candidate,
    copy_line,
    estimate_times,
    explain_runs,
    inherit_sections,
    is_clear,
    locate_expected,
    locate_lines,
    recover_lines,
)


def hear(text: str, *, start_s: float = 0.0, score: float = 0.9, segment: int = 0) -> list[Word]:
    return [Word(w, start_s + 0.4 * k, start_s + 0.4 * k + 0.35, score, segment) for k, w in enumerate(text.split())]


def lines(*texts: str) -> list[Candidate]:
    return [Candidate(text.split(), text, "verse", 0) for text in texts]


def solve(given: list[Candidate], heard: list[Word]) -> list[Candidate]:
    locate_lines(given, heard)
    return explain_runs(given, heard)


def test_lines_that_are_sung_are_found_and_others_are_not():
    given = lines("the river opens every door", "subscribe to our great channel now", "a sparrow sings before the rain")
    found = solve(given, hear("the river opened every door a sparrow sings before the rain"))
    assert [c.text for c in found] == [given[0].text, given[2].text]
    assert [c.edit for c in found] == ["kept", "kept"]
    assert found[0].similarity > 0.9
    assert not given[1].is_found


def test_a_line_sung_twice_and_given_once_is_expanded():
    given = lines("hold me in the morning light", "the city never sleeps at night")
    heard = hear("hold me in the morning light the city never sleeps at night hold me in the morning light")
    found = solve(given, heard)
    assert [(c.text, c.edit) for c in found] == [
        (given[0].text, "kept"),
        (given[1].text, "kept"),
        (given[0].text, "expanded"),
    ]


def test_a_line_in_the_wrong_place_is_moved_to_where_it_is_sung():
    given = lines("silver lanterns over water", "walking home along the harbour", "nobody remembers summer")
    heard = hear("walking home along the harbour nobody remembers summer silver lanterns over water")
    found = solve(given, heard)
    assert [c.text for c in found] == [given[1].text, given[2].text, given[0].text]


def recover(found: list[Candidate], heard: list[Word]) -> list[Candidate]:
    estimate_times(found, heard)
    return recover_lines(found, heard)


def test_a_sung_line_that_the_lyrics_lack_is_recovered_when_heard_with_confidence():
    given = lines("silver lanterns over water", "nobody remembers summer")
    middle = hear("we danced until the music stopped", start_s=3.0)
    heard = hear("silver lanterns over water") + middle + hear("nobody remembers summer", start_s=9.0)
    found = solve(given, heard)
    (line,) = recover(found, heard)
    assert (line.text, line.source, line.edit) == ("we danced until the music stopped", "asr", "recovered")
    assert is_clear(line, heard)
    inherit_sections([found[0], line, found[1]])
    assert (line.section, line.section_index) == ("verse", 0)
    for word in middle:
        word.score = 0.4
    assert not is_clear(line, heard)


def test_what_was_heard_in_the_time_of_a_line_is_not_recovered():
    """The recogniser heard something else there: the audio says that the given line is sung."""
    given = lines("silver lanterns over water", "walking home along the harbour", "nobody remembers summer")
    heard = hear("silver lanterns over water") + hear("talking foam a long barber", start_s=3.0)
    heard += hear("nobody remembers summer", start_s=9.0)
    found = [given[0], given[2]]
    locate_lines(found, heard)
    assert [line.text for line in recover(found, heard)] == ["talking foam a long barber"]
    given[1].start_s, given[1].end_s = 2.9, 5.1
    assert recover_lines([found[0], given[1], found[1]], heard) == []
    given[1].end_s = 3.7  # the last three words come after it
    assert [line.text for line in recover_lines([found[0], given[1], found[1]], heard)] == ["a long barber"]


def test_recovered_lines_end_at_pauses_sentences_and_segments():
    heard = hear("we danced until. the music stopped") + hear("and then we sang", start_s=4.0)
    heard += hear("nobody was there", start_s=5.6, segment=1) + hear("ah oh", start_s=20.0)
    texts = [line.text for line in recover_lines([], heard)]
    assert texts == ["we danced until.", "the music stopped", "and then we sang", "nobody was there"]
    assert [len(line.words) for line in recover_lines([], hear("la " * 26))] == [12, 12]  # two words are no line


def test_lyrics_of_another_song_are_not_found():
    given = lines("my heart is a burning engine", "love me like the thunder loves the rain")
    found = solve(given, hear("grandmother kept her letters in a box of painted tin and never told"))
    assert found == []
    assert not any(c.is_found for c in given)


def test_unheard_words_at_the_edges_get_time_but_no_room_of_their_neighbours():
    given = lines("oh the river opens every door", "a sparrow sings before the rain")
    heard = hear("river opens every door a sparrow sings before the rain", start_s=10.0)
    found = solve(given, heard)
    estimate_times(found, heard)
    assert found[0].start_s < 10.0
    assert found[0].end_s <= found[1].start_s + 1e-9 or found[1].start_s >= heard[3].end_s


def test_nothing_heard_and_nothing_given():
    assert solve([], hear("la la la", score=0.1)) == []
    assert solve(lines("some line here"), []) == []


def test_a_line_heard_badly_is_found_only_between_lines_that_were_heard():
    texts = ("silver lanterns over water", "walking home along the harbour", "nobody remembers summer")
    middle = "walking home in yellow boxes"  # two of five
    given = lines(*texts)
    heard = hear(f"{texts[0]} {middle} {texts[2]}")
    locate_lines(given, heard)
    assert [line.is_found for line in given] == [True, False, True]
    locate_expected(given, heard)
    assert (given[1].first_heard, given[1].last_heard) == (4, 8)


def test_a_copy_has_no_place():
    (line,) = lines("silver lanterns over water")
    locate_lines([line], hear(line.text))
    copy = copy_line(line)
    assert (copy.words, copy.text, copy.section) == (line.words, line.text, line.section)
    assert not copy.is_found
