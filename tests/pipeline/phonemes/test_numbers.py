"""Numbers as words."""

import pytest

from pipeline.phonemes.numbers import expand_chinese, expand_english


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 7 13 20 21 100 101", "zero seven thirteen twenty twenty-one one hundred one hundred one"),
        ("1999 1905", "nineteen ninety-nine nineteen oh five"),
        ("1800 2000 2005 2024", "eighteen hundred two thousand two thousand five twenty twenty-four"),
        ("1000 3001", "one thousand three thousand one"),
        ("123456", "one hundred twenty-three thousand, four hundred fifty-six"),
        ("1st 2nd 12th 20th 101st", "first second twelfth twentieth one hundred and first"),
        ("£20 007", "twenty pounds seven"),
        ("9" * 20, " ".join(["nine"] * 20)),
        ("no digits ２", "no digits ２"),
    ],
)
def test_english(text: str, words: str) -> None:
    assert expand_english(text) == words


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("0", "零"),
        ("10", "十"),
        ("24", "二十四"),
        ("105", "一百零五"),
        ("110", "一百一十"),
        ("1010", "一千零一十"),
        ("20003", "二万零三"),
        ("123456", "十二万三千四百五十六"),
        ("1999", "一九九九"),
        ("007", "零零七"),
        ("13800138000", "一三八零零一三八零零零"),
    ],
)
def test_chinese(digits: str, words: str) -> None:
    assert expand_chinese(digits) == words
