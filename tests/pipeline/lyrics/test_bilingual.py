"""Translations and romanisations beside the sung lines.

bilingual_lines.tsv: language, sung line, the line in Latin letters, the line in English; six lines a language.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.lyrics.parse import parse_lyrics

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
        spelled = {*PINYIN, *ROMAJI}
        for drop in parsed.dropped:
            line = drop.text.rpartition("]")[2]
            assert drop.reason == ("romanisation" if line in spelled else "translation"), line


def test_a_hook_in_two_languages_stays() -> None:
    assert len(parse_lyrics("我们一起走\nlet us go\n我爱你\nI love you\n" * 6).lines) == 24


def read_languages() -> dict[str, tuple[list[str], list[str], list[str]]]:
    """Return for each language the sung lines, their romanisation, their translation."""
    found: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for row in (Path(__file__).parent / "bilingual_lines.tsv").read_text(encoding="utf-8").splitlines():
        language, *lines = row.split("\t")
        for column, line in zip(found.setdefault(language, ([], [], [])), lines, strict=True):
            column.append(line)
    return found


LANGUAGES = read_languages()


def nearly_stamped(*columns: list[str]) -> str:
    """Stamps 10 ms apart."""
    rows = zip(*columns, strict=True)
    return "\n".join(f"[00:{10 + n}.{k:02d}]{line}" for n, lines in enumerate(rows) for k, line in enumerate(lines))


def in_blocks(*columns: list[str]) -> str:
    return "\n\n".join(stamped(column) for column in columns)


def slashed(*columns: list[str]) -> str:
    return "\n".join(" / ".join(lines) for lines in zip(*columns, strict=True))


def bracketed(*columns: list[str]) -> str:
    return "\n".join(f"{lines[0]} ({lines[1]})" for lines in zip(*columns, strict=True))


def subtitled(*columns: list[str]) -> str:
    rows = enumerate(zip(*columns, strict=True))
    return "\n\n".join(f"00:{n + 10}.000 --> 00:{n + 11}.000\n" + "\n".join(lines) for n, lines in rows)


WAYS = [stamped, nearly_stamped, in_blocks, slashed, bracketed, subtitled, alternating]


def check(text: str, sung: list[str], reasons: set[str], **known: str) -> None:
    parsed = parse_lyrics(text, keep_traditional=True, **known)  # type: ignore[arg-type]
    assert [line.text for line in parsed.lines] == sung
    assert {drop.reason for drop in parsed.dropped} - {"timestamp"} == reasons


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("write", WAYS)
def test_translations_go_in_every_script_and_every_way(language: str, write: Callable[..., str]) -> None:
    sung, _, english = LANGUAGES[language]
    code = {"yue": "zh"}.get(language, language)
    check(write(sung, english), sung, {"translation"})
    check(write(sung, english), sung, {"translation"}, language=code)
    check(write(sung, english), english, {"translation"}, language="en")
    if write is not bracketed:
        check(write(english, sung), english, {"translation"})
        check(write(english, sung), sung, {"translation"}, language=code)
        check(write(english, sung), sung, {"translation"}, title=sung[2])
        check(write(english, sung), sung, {"translation"}, artist=sung[3])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("write", [stamped, nearly_stamped, in_blocks, slashed, subtitled, alternating])
def test_romanisations_go_in_every_order(language: str, write: Callable[..., str]) -> None:
    sung, latin, english = LANGUAGES[language]
    check(write(latin, sung), sung, {"romanisation"})
    check(write(sung, latin), sung, {"romanisation"})
    check(write(latin, sung, english), sung, {"romanisation", "translation"})
    check(write(sung, latin, english), sung, {"romanisation", "translation"})


def test_two_languages_of_one_script_are_told_apart_under_equal_stamps() -> None:
    french = [
        "La pluie sur la fenêtre ce soir",
        "Je lis encore la lettre",
        "La mer est loin de nous",
        "Je t'attends ici",
    ]
    check(stamped(french, ENGLISH), french, {"translation"})
    check(stamped(ENGLISH[:4], french), french, {"translation"}, language="fr")
    duet = stamped(ENGLISH, ENGLISH[::-1])
    assert parse_lyrics(duet).dropped == ()


def test_a_hook_in_another_language_stays_where_its_song_is_translated() -> None:
    korean, _, english = LANGUAGES["ko"]
    sung = [*korean[:3], "Baby don't cry tonight", *korean[3:]]
    read = [*english[:3], "Please no more tears", *english[3:]]
    check(stamped(sung, read), sung, {"translation"}, language="ko")


def test_japanese_lines_without_kana_are_sung() -> None:
    japanese, _, english = LANGUAGES["ja"]
    sung = [*japanese, "永遠"]
    check(stamped(sung, [*english, "Forever and ever"]), sung, {"translation"}, language="ja")


def test_english_ad_libs_in_parentheses_are_no_translation() -> None:
    korean = LANGUAGES["ko"][0]
    text = "\n".join([f"{korean[0]} (oh baby)", f"{korean[1]} (yeah)", f"{korean[2]} (come on)", *korean[3:]])
    assert len(parse_lyrics(text).lines) == len(korean)
    assert parse_lyrics(text).dropped == ()


def stanzas(lines: list[str]) -> str:
    return "\n".join([*lines[:3], "", *lines[3:]])


@pytest.mark.parametrize(
    ("text", "language", "sung"),
    [
        (f"{stanzas(CHINESE)}\n\n{stanzas(ENGLISH)}", None, CHINESE),
        (f"{stanzas(ENGLISH)}\n\n{stanzas(CHINESE)}", None, ENGLISH),
        (f"{stanzas(ENGLISH)}\n\n{stanzas(CHINESE)}", "zh", CHINESE),
        ("\n".join([*CHINESE, "---", *ENGLISH]), None, CHINESE),
        (f"{stanzas(CHINESE)}\n\n{stanzas(ENGLISH)}", "ko", CHINESE + ENGLISH),
        (f"{stanzas(CHINESE)}\n\n{stanzas(ENGLISH[:5])}", None, CHINESE + ENGLISH[:5]),
        ("\n".join([*CHINESE, "", *ENGLISH]), None, CHINESE + ENGLISH),  # one verse in each language
        (f"{stanzas(CHINESE)}\n{stanzas(ENGLISH)}", None, CHINESE + ENGLISH),  # no stanza ends where the language does
    ],
)
def test_a_second_block_without_stamps_is_a_translation(text: str, language: str | None, sung: list[str]) -> None:
    parsed = parse_lyrics(text, language=language)
    assert [line.text for line in parsed.lines] == sung
    reasons = {line.reason for line in parsed.dropped} - {"symbols"}
    assert reasons == (set() if len(sung) > 6 else {"translation"})
