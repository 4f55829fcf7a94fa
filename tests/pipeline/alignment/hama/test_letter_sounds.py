"""What the letters of a word may sound like."""

import pytest

from pipeline.alignment.hama.letter_sounds import LANGUAGES, read_letters


def first_sounds(word: str, language: str) -> str:
    return " ".join(sound.split()[0] for sound in read_letters(word, language))


@pytest.mark.parametrize(
    ("word", "language", "sounds"),
    [
        ("Mañana", "es", "m ɑ n ɑ n ɑ"),
        ("hola", "es", "o l ɑ"),
        ("haus", "de", "h aʊ s"),
        ("schön", "de", "ʃ o n"),
        ("Träume", "de", "t ɹ ɔɪ m ɛ"),
        ("zeit", "de", "t s aɪ t"),
        ("beaux", "fr", "b o"),
        ("c'est", "fr", "s ɛ s"),
        ("chantent", "fr", "ʃ ɑ t"),
        ("café", "fr", "k ɑ f ɛ"),
        ("cafes", "fr", "k ɑ f"),
        ("les", "fr", "l ɛ"),
        ("bonne", "fr", "b o n n"),
        ("bon", "fr", "b ɔ"),
        ("cœur", "fr", "k ə ɹ"),
        ("qu'on", "fr", "k ɔ"),
        ("Привет", "es", ""),
        ("123 —!", "fr", ""),
        ("", "de", ""),
    ],
)
def test_words(word: str, language: str, sounds: str) -> None:
    assert first_sounds(word, language) == sounds


def test_a_letter_stands_for_all_sounds_that_it_commonly_has() -> None:
    assert read_letters("c", "es") == ["k s t͡ʃ"]


def test_english_and_mandarin_are_not_read_by_their_letters() -> None:
    assert not LANGUAGES & {"en", "zh"}
