"""Translations and romanisations beside the sung lines."""

import pytest

from pipeline.lyrics import parse_lyrics

ENGLISH = [
    "I row at dawn",
    "The harbor sleeps",
    "No one is calling",
    "The tide is low",
    "I sing alone",
    "And turn for home",
]
CHINESE = ["黎明时我划船", "海港睡着了", "没有人呼唤", "潮水退去", "我独自歌唱", "然后回家"]
PINYIN = ["lí míng shí wǒ huá chuán", "hai gang shui zhe le", "méi yǒu rén hū huàn", "chao shui tui qu"]
JAPANESE = ["夜明けに漕ぐ", "港は眠る", "誰も呼ばない", "潮が引く"]
ROMAJI = ["yoake ni kogu", "minato wa nemuru", "dare mo yobanai", "shio ga hiku"]


def stamped(*columns: list[str]) -> str:
    return "\n".join(f"[00:{n:02d}.00]{line}" for n, lines in enumerate(zip(*columns, strict=False)) for line in lines)


def alternating(*columns: list[str]) -> str:
    return "\n".join(line for lines in zip(*columns, strict=False) for line in lines)


@pytest.mark.parametrize(
    ("text", "language", "sung"),
    [
        (stamped(ENGLISH, CHINESE), None, ENGLISH),
        (stamped(CHINESE, ENGLISH), None, CHINESE),
        (stamped(CHINESE, ENGLISH), "en", ENGLISH),
        (stamped(ENGLISH[:2], CHINESE), None, None),  # two pairs prove nothing
        (stamped(CHINESE, ENGLISH), "ko", None),  # neither is Korean
        (stamped(ROMAJI, JAPANESE, CHINESE), None, JAPANESE),
        (stamped(ENGLISH, JAPANESE), None, ENGLISH[:4]),
        (stamped(PINYIN, CHINESE), None, CHINESE[:4]),
        (alternating(CHINESE, PINYIN), None, CHINESE[:4]),
        (alternating(ENGLISH, CHINESE), None, ENGLISH),
        (alternating(ENGLISH[:4], CHINESE), None, None),
        ("\n".join(ENGLISH + CHINESE), None, None),  # sung in two languages
        (stamped(ENGLISH), None, None),
    ],
)
def test_only_the_sung_line_of_a_pair_stays(text: str, language: str | None, sung: list[str] | None) -> None:
    parsed = parse_lyrics(text, language=language)
    assert len(parsed.lines) + len(parsed.dropped) == len(text.split("\n"))
    if sung is None:
        assert parsed.dropped == ()
    else:
        assert [line.text for line in parsed.lines] == sung
        assert {drop.reason for drop in parsed.dropped} == {"translation"}


def test_a_hook_in_two_languages_stays() -> None:
    assert len(parse_lyrics("我们一起走\nlet us go\n我爱你\nI love you\n" * 6).lines) == 24
