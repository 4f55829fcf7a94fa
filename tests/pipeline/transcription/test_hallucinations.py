import pytest

from pipeline.song import Word
from pipeline.transcription.hallucinations import is_stuck, remove_hallucinations


def words(text: str, start_s: float = 0.0, word_s: float = 0.4, segment: int = 0) -> list[Word]:
    return [
        Word(word, start_s + k * word_s, start_s + (k + 1) * word_s, 0.9, segment)
        for k, word in enumerate(text.split())
    ]


def everywhere(start_s: float, end_s: float) -> float:
    return 1.0


def nowhere(start_s: float, end_s: float) -> float:
    return 0.0


def test_a_chorus_that_is_sung_five_times_stays():
    heard = words(" ".join(["we are the river tonight"] * 5))
    assert remove_hallucinations(heard, [-0.3], everywhere) == (heard, {})


def test_a_loop_over_silence_leaves_one_turn():
    heard = words("first line here " + "and I go " * 6)
    sung_s = heard[6].start_s  # the voice ends after the first turn
    kept, removed = remove_hallucinations(heard, [-0.3], lambda a, b: max(min(b, sung_s) - a, 0.0) / (b - a))
    assert " ".join(word.text for word in kept) == "first line here and I go"
    assert removed["loop"] + removed.get("silent", 0) == 15


def test_a_loop_faster_than_a_tongue_goes():
    heard = words("slow words are sung") + words("never again " * 12, start_s=2.0, word_s=0.02)
    kept, removed = remove_hallucinations(heard, [-0.3], everywhere)
    assert [word.text for word in kept][:4] == ["slow", "words", "are", "sung"]
    assert len(kept) <= 4 + 2
    assert sum(removed.values()) >= 22


@pytest.mark.parametrize(
    ("heard", "logprob", "voice", "reason"),
    [
        (words("what a song it was"), -1.2, everywhere, "unsure"),
        (words("subtitles by the Amara.org community"), -0.2, everywhere, "credits"),
        (words("字 幕 由 志 愿 者 提 供"), -0.2, everywhere, "credits"),
        (words("nobody can sing so many words", word_s=0.05), -0.2, everywhere, "fast"),
        (words("there is no voice here"), -0.2, nowhere, "silent"),
    ],
)
def test_phrases_that_nobody_sings_go_with_their_reason(heard, logprob, voice, reason):
    kept, removed = remove_hallucinations(heard, [logprob], voice)
    assert kept == []
    assert removed == {reason: len(heard)}


def test_only_the_phrase_goes_and_fast_rap_stays():
    """The fastest line of real songs at hand, French rap, has 32 letters a second."""
    rap = words("je rappe vite et bien ce soir", word_s=0.13)
    heard = rap + words("Thanks for watching.", start_s=4.0)
    assert remove_hallucinations(heard, [-0.3], everywhere) == (rap, {"credits": 3})


def test_thank_you_may_be_sung():
    heard = words("thank you for the music")
    assert remove_hallucinations(heard, [-0.3], everywhere) == (heard, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I found a compass. It pointed to the corner. It pointed to the corner. It pointed to the corner.", True),
        ("It was blue, " + "blue, " * 8, True),
        ("yellow, red, " * 8, True),
        ("你慢慢飞" + "心情" * 8, True),
        ("Dance with me, my darling, dance with me, my darling", False),
        ("na " * 7 + "hey", False),
        ("la di " * 7, False),
        ("the corner of the corner of the door", False),
        ("la", False),
        ("", False),
    ],
)
def test_a_decoder_that_lost_its_place(text, expected):
    assert is_stuck(text) is expected
