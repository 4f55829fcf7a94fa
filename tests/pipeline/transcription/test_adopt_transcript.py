from pathlib import Path

import numpy as np
import pytest

from pipeline.song import Drop, Song, Transcript, Word
from pipeline.transcription.adopt_transcript import MAX_LINE_WORDS, adopt_transcript, split_lines


def heard(text: str, score: float = 0.9, start_s: float = 0.0, segment: int = 0) -> list[Word]:
    return [
        Word(word, start_s + 0.4 * k, start_s + 0.4 * k + 0.3, score, segment) for k, word in enumerate(text.split())
    ]


def song_with(words: list[Word]) -> Song:
    song = Song(song_id="a", path=Path("a"), audio="a", duration_s=60.0)
    song.voice = np.ones(16_000 * 60, np.float32)
    song.transcript = Transcript(words, "en", -0.3)
    song.metrics = {"no_speech": 0.2, "sung_language_probability": 0.9}
    return song


def test_lines_end_at_pauses_and_segments():
    words = [*heard("one two"), *heard("three four", start_s=2.0), *heard("five", start_s=2.9, segment=1)]
    assert [[w.text for w in line] for line in split_lines(words)] == [["one", "two"], ["three", "four"], ["five"]]


def test_lines_end_where_a_recogniser_writes_so():
    words = heard("I was there, but now it is gone The rest is dark")
    assert [[w.text for w in line][0] for line in split_lines(words)] == ["I", "The"]
    words[3].start_s += 0.2  # after a comma a shorter pause is enough
    assert [[w.text for w in line][0] for line in split_lines(words)] == ["I", "but", "The"]


def test_a_long_line_is_cut_at_its_longest_pause_and_loses_nothing():
    words = heard("a b c d e f g h i j k l")
    words[4].start_s += 0.05
    assert [len(line) for line in split_lines(words)] == [4, 8]
    endless = heard("la " * 100)
    lines = list(split_lines(endless))
    assert [w for line in lines for w in line] == endless
    assert max(map(len, lines)) <= MAX_LINE_WORDS


def test_heard_words_become_lines_of_source_asr():
    song = song_with([*heard("the river runs,"), *heard("mumble mumble", 0.2, 3.0), *heard("to the sea", start_s=6.0)])
    assert adopt_transcript(song) is song
    assert [(line.text, line.source, line.edit) for line in song.lines] == [
        ("the river runs", "asr", "recovered"),
        ("to the sea", "asr", "recovered"),
    ]
    assert [word.line for word in song.words] == [0, 0, 0, 1, 1, 1]
    assert [(line.text, line.reason) for line in song.dropped] == [("mumble mumble", "unsure")]


def test_chinese_is_written_without_blanks():
    song = song_with(heard("河 流 打 开"))
    adopt_transcript(song)
    assert song.lines[0].text == "河流打开"


def test_a_song_that_was_not_understood_has_no_lyrics():
    result = adopt_transcript(song_with([*heard("what was that I did not get it", 0.2), *heard("yes", start_s=9.0)]))
    assert isinstance(result, Drop)
    assert result.reason == "no_lyrics"
    assert "1 of 9" in result.detail


def test_what_was_heard_in_an_instrumental_is_nothing():
    song = song_with(heard("thank you"))
    song.metrics = {"no_speech": 0.73, "sung_language_probability": 0.36}
    result = adopt_transcript(song)
    assert isinstance(result, Drop)
    assert result.reason == "instrumental"


@pytest.mark.parametrize("count", [0, 1])
def test_little_is_enough_only_if_there_is_any(count):
    assert isinstance(adopt_transcript(song_with(heard("yeah " * count))), Drop if not count else Song)
