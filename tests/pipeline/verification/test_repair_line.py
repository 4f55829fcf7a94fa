"""A given word is replaced only where the audio denies it and another one was clearly heard."""

import numpy as np
import pytest

from pipeline.verification.locate_lines import locate_lines
from pipeline.verification.repair_line import repair_line

from .sung_song import SungSong, give, hear

GIVEN, HEARD = "the other hat he wore today", "the other hat she wore today"


class Told(SungSong):
    """Says of single words what it is told, and 2 nats of everything else."""

    def __init__(self, **nats: float) -> None:
        super().__init__()
        self.nats = nats

    def measure_support(self, start_s, end_s, lines):
        return np.array([self.nats.get(words[0].strip(",.").lower(), 2.0) for words in lines])


def repair(given: str, heard: str, audio: SungSong, *, score: float = 0.9):
    (line,) = give(given)
    words = hear(heard, 2)
    for word in words:
        if word.text not in given.split():
            word.score = score
    locate_lines([line], words)
    repair_line(line, words, audio)
    return line


def test_a_word_that_was_not_sung_is_replaced_by_what_was_heard():
    line = repair("the blue river, he wore today", "the blue mountain he wore today", Told(river=-1.1, mountain=1.1))
    assert line.words == ["the", "blue", "mountain,", "he", "wore", "today"]
    assert (line.text, line.edit) == ("the blue mountain, he wore today", "repaired")
    assert line.support == 2.0  # of the line as it is now


@pytest.mark.parametrize(
    ("given_nats", "heard_nats", "score"),
    [(-0.9, 3.0, 0.9), (-3.0, 0.9, 0.9), (-3.0, 3.0, 0.5)],
    ids=["the given word may be sung", "the heard word may not be sung", "heard without confidence"],
)
def test_a_word_stays_where_the_evidence_is_not_clear(given_nats, heard_nats, score):
    audio = Told(river=given_nats, mountain=heard_nats)
    line = repair("the blue river he wore today", "the blue mountain he wore today", audio, score=score)
    assert (line.text, line.edit) == ("the blue river he wore today", "kept")
    assert line.words == line.text.split()


def test_a_word_that_sounds_alike_was_misheard():
    line = repair("the blue river he wore today", "the blue rivers he wore today", Told(river=-3.0, rivers=3.0))
    assert line.edit == "kept"


@pytest.mark.parametrize(
    ("given", "heard", "edit"),
    [
        ("the river wore clouds today", "the mountain wore people today", "repaired"),  # 2 of 5
        ("the river wore clouds home apples today", "the mountain wore people home engine today", "kept"),  # 3 of 7
    ],
)
def test_a_line_with_too_many_other_words_is_another_line(given, heard, edit):
    audio = Told(river=-3.0, clouds=-3.0, apples=-3.0, mountain=3.0, people=3.0, engine=3.0)
    line = repair(given, heard, audio)
    assert (line.text, line.edit) == (heard if edit == "repaired" else given, edit)


def test_capitals_and_marks_are_those_of_the_given_word():
    line = repair("River, he wore today", "mountain he wore today", Told(river=-3.0, mountain=3.0))
    assert line.text == "Mountain, he wore today"


@pytest.mark.parametrize(
    ("given", "heard", "text"),
    [
        ("the blue river runs", "the blue Mountain runs", "the blue Mountain runs"),  # a name, or a German noun
        ("river runs so blue", "Mountain runs so blue", "mountain runs so blue"),  # the recogniser's sentence begins
        ("river runs so blue", "I runs so blue", "I runs so blue"),
        ("the blue (river) runs", "the blue Mountain. runs", "the blue (Mountain) runs"),
    ],
)
def test_a_capital_that_only_begins_a_sentence_is_left_out(given, heard, text):
    audio = Told(**{"river": -3.0, "(river)": -3.0, "(mountain)": 3.0, "mountain": 3.0, "i": 3.0})
    assert repair(given, heard, audio).text == text


def test_the_word_itself_is_replaced_and_not_its_letters_in_other_words():
    line = repair("the other art he saw today", "the other art you saw today", Told(he=-3.0, you=3.0))
    assert line.text == "the other art you saw today"
    line = repair("shines a in today", "shines moon in today", Told(a=-3.0, moon=3.0))
    assert line.text == "shines moon in today"
    (line,) = give("the moon — in here today")
    line.words = ["the", "moon—", "in", "here", "today"]  # as split_words writes them
    words = hear("the river in here today", 2)
    locate_lines([line], words)
    repair_line(line, words, Told(**{"moon—": -3.0, "river": 3.0}))
    assert line.text == "the river — in here today"


def test_a_line_that_was_not_heard_is_not_repaired():
    (line,) = give(GIVEN)
    repair_line(line, hear(HEARD, 2), Told(he=-3.0, she=3.0))
    assert line.edit == "kept"
