"""Lines that nobody sings, and lines that only look like them."""

import pytest

from pipeline.lyrics.metadata import classify_metadata, find_names, is_title_line, looks_like_title_line

NOT_SUNG = {
    "metadata": [
        "[by:lrcmaker99]",
        "[ar:The Tin Lanterns]",
        "Am G C F",
        "Em7 D/F# G",
        "[offset:+120]",
        "[length: 03:21]",
    ],
    "credits": [
        "Written by The Tin Lanterns / Jon Halloway",
        "Artist: Willow Pike",
        "OP: 北岸乐队 音乐版权有限公司",
        "Produced by Jon Halloway",
        "Lyrics by: Ada Merrow",
        "Music: X",
        "Lyrics & Music: Y",
        "作词: 林小舟",
        "作词:林小舟 作曲:林小舟",
        "词:林小舟",
        "曲 : 林小舟",
        "词/曲: 林小舟",
        "编曲:北岸乐队",
        "制作人 Producer: 王",
        "混音师:某",
        "作词 林小舟",
        "OP: x",
        "SP:y",
        "Title: Hello",
        "Mixed and mastered by Big Studio",
        "Composed by John Lennon & Paul McCartney",
        "ISRC: ABC123",
        "Executive Producer: Foo",
        "Guitar: X",
        "Arranged by 林小舟",
        "Album: Foo Bar",
        "音乐总监: 王",
        "和声编写/和声: 林",
        "Translated by Foo",
        "Vocal: Bar",
        "Year: 2001",
        "Lead Guitar: Foo",
        "编曲 / 制作: 某",
    ],
    "copyright": [
        "© 2021 The Tin Lanterns Music. All rights reserved.",
        "All rights reserved",
        "Copyright 2020 Foo",
        "未经著作权人许可 不得翻唱",
        "Lyrics © Sony/ATV Music Publishing LLC",
    ],
    "url": [
        "https://www.example.com/lyrics/morning-paper",
        "www.example.org - more lyrics every day",
        "Lyrics from www.foo.com",
        "更多歌词请访问 www.a.cn",
        "contact me@foo.com",
    ],
    "provider": [
        "Submit Corrections",
        "35 Contributors",
        "Lyrics provided by LyricFind",
        "Source: Musixmatch",
        "Embed",
        "12Embed",
        "You might also like",
        "歌词来自某网",
        "12 ContributorsHello Lyrics",
        "Lyrics",
        "此歌曲为没有填词的纯音乐,请您欣赏",
        "Thanks to foo for correcting these lyrics",
        "See Willow Pike Live",
        "Get tickets as low as $30",
        "Read More",
    ],
}
SUNG = [
    "I wrote a little message and I let it float",
    "Written by the hand of God",
    "Written in the stars",
    "Music makes me lose control",
    "music by the river",
    "Lyrics come and go",
    "Words by the fire",
    "You might also",
    "About",
    "Key to my heart: open it",
    "Girl: I really can't stay",
    "Say my name",
    "I said: hello",
    "She told me: wait",
    "A a a",
    "A",
    "Oh my love - my darling",
    "All the right moves",
    "Copy that",
    "词不达意",
    "曲终人散",
    "唱着一首没写完的话",
    "吉他弹着",
    "鼓声响起",
    "作词的人",
    "我说:你好",
    "我听见你唱:啦啦啦",
    "The song by the sea",
    "Dance all night - feel the beat",
    "www",
    "I'm on it.co",
    "Get tickets",
    "See you live",
    "Track me down: find me",
    "sung by the angels",
    "Strings of my heart",
    "Produced by magic",
    "Bass drop: go",
    "Don't add it",
    "print it out",
    "download it",
    "Share it with me",
    "Love: the only word",
    "Text me: I'm lonely",
    "音乐响起",
    "来源于你",
]


@pytest.mark.parametrize(("line", "reason"), [(line, reason) for reason, lines in NOT_SUNG.items() for line in lines])
def test_metadata_has_a_reason(line: str, reason: str) -> None:
    assert classify_metadata(line) == reason


@pytest.mark.parametrize("line", SUNG)
def test_lyrics_are_no_metadata(line: str) -> None:
    assert classify_metadata(line) is None


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("[ar:The Tin Lanterns]", {"the tin lanterns"}),
        ("[offset:+120]", set()),
        ("Written by Ada Merrow & Jon Halloway", {"ada merrow", "jon halloway", "ada merrow jon halloway"}),
        ("© 2021 The Tin Lanterns Music. All rights reserved.", {"the tin lanterns"}),
        ("作词:林小舟", {"林小舟"}),
    ],
)
def test_names_in_metadata(line: str, names: set[str]) -> None:
    assert find_names(line) == names


def test_title_lines() -> None:
    assert is_title_line("The Long Way Down - The Tin Lanterns", {"the tin lanterns"})
    assert is_title_line("Quiet Harbor by Ada", {"quiet harbor"})
    assert not is_title_line("love - my darling", {"ada"})
    assert not is_title_line("love-ada", {"ada"})
    assert looks_like_title_line("Quiet Harbor – Ada Merrow")
    assert not looks_like_title_line("Oh my love - my darling")
    assert not looks_like_title_line("Quiet Harbor")
