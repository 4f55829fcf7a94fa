import pytest

from pipeline.text_language import identify_text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The river opens every door and I will follow you to the sea", "en"),
        ("Las gatas solo piden perreo y el que no baile se va de la pista", "es"),
        ("Je ne sais pas où tu vas mais je te suis dans la nuit", "fr"),
        ("Ich weiß nicht wo du bist und der Regen fällt auf mein Haus", "de"),
        ("河流打开每一扇门 我会跟着你走 oh yeah", "zh"),
        ("川がすべての扉を開ける", "ja"),
        ("강은 모든 문을 연다", "ko"),
        ("Река открывает двери", "ru"),
        ("la la la la la", ""),
        ("", ""),
        ("1 2 3 !!", ""),
    ],
)
def test_script_and_function_words_tell(text, code):
    assert identify_text(text) == code


def test_songs_at_hand(shared):
    expected = {"Guayeteo": "es", "Séculaire": "fr", "Veränderung": "de", "de_bonne": "fr", "muse_zh": "zh"}
    for path in (shared / "songs_real" / "lyrics").glob("*.txt"):
        if not path.name.endswith(".words.txt"):
            code = next(code for name, code in expected.items() if path.name.startswith(name))
            assert identify_text(path.read_text()) == code
