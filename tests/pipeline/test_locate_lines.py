from pipeline.locate_lines import Candidate, estimate_times, explain_runs, locate_lines
from pipeline.song import Word


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


def test_a_sung_line_that_the_lyrics_lack_is_recovered_when_heard_with_confidence():
    given = lines("silver lanterns over water", "nobody remembers summer")
    middle = hear("we danced until the music stopped", start_s=3.0)
    heard = hear("silver lanterns over water") + middle + hear("nobody remembers summer", start_s=9.0)
    found = solve(given, heard)
    assert [(c.text, c.source, c.edit) for c in found][1] == ("we danced until the music stopped", "asr", "recovered")
    assert found[1].section == "verse"
    for word in middle:
        word.score = 0.2
    assert len(solve(lines("silver lanterns over water", "nobody remembers summer"), heard)) == 2


def test_lyrics_of_another_song_are_not_found():
    given = lines("my heart is a burning engine", "love me like the thunder loves the rain")
    found = solve(given, hear("grandmother kept her letters in a box of painted tin and never told"))
    assert not any(c.source == "lyrics" for c in found)


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
