import pytest

from pipeline.verification.syllables import count_syllables


@pytest.mark.parametrize(
    ("word", "language", "count"),
    [
        ("the", "en", 1), ("window", "en", 2), ("Beautiful,", "en", 3), ("love", "en", 1), ("little", "en", 2),
        ("rhythm", "en", 1), ("don't", "en", 1), ("(yeah)", "en", 1), ("belle", "fr", 2), ("amour", "fr", 2),
        ("l'amour", "fr", 2), ("sœur", "fr", 1), ("élève", "fr", 2), ("café", "fr", 2), ("été", "fr", 2),
        ("femme", "fr", 1), ("corazón,", "es", 3), ("todavía", "es", 3), ("¡Contigo!", "es", 3), ("noche", "es", 2),
        ("über", "de", 2), ("Mädchen", "de", 2), ("Sehnsucht", "de", 2), ("Liebe,", "de", 2),
        ("我", "zh", 1), ("我们", "zh", 2), ("любовь", "ru", 1), ("...", "en", 1), ("", "en", 1),
    ],
)  # fmt: skip
def test_syllables_of_a_word(word, language, count):
    assert count_syllables(word, language) == count
