import pytest

from pipeline.syllables import count_syllables


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("the", 1), ("window", 2), ("Beautiful,", 3), ("love", 1), ("little", 2), ("rhythm", 1), ("don't", 1),
        ("(yeah)", 1), ("belle", 2), ("amour", 2), ("l'amour", 2), ("sœur", 1), ("élève", 2), ("café", 2), ("été", 2),
        ("corazón,", 3), ("todavía", 3), ("¡Contigo!", 3), ("über", 2), ("Mädchen", 2), ("Sehnsucht", 2),
        ("我", 1), ("我们", 2), ("любовь", 1), ("...", 1), ("", 1),
    ],
)  # fmt: skip
def test_syllables_of_a_word(word, count):
    assert count_syllables(word) == count
