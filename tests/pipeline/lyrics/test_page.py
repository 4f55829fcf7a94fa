"""Whole files as sites and players write them: what is left to sing, under which sections, from when."""

import pytest

from pipeline.lyrics.encoding import clean_text
from pipeline.lyrics.parse import ParsedLyrics, parse_lyrics

GENIUS = """TranslationsFrançaisQuiet Harbor Lyrics
[Intro: Ada Merrow & *Jon Halloway*]
Yeah, *yeah*

[Verse 1: Ada Merrow]
<i>I row at dawn</i> (At dawn)
You might also like
[Chorus: Both]
Quiet harbor [x2]

[Guitar Solo]

[Chorus]

[Outro]
(Harbor)42Embed"""
NETEASE = """[ti:渡口]
{"t":0,"c":[{"tx":"作词: "},{"tx":"林小舟"}]}
[00:00.20] 作曲 : 王大山/李雷
[00:01.20]和声编写 Backing Vocals Arrangement：林小舟
[00:01.40]录音师 Recording Engineer：李雷@北岸录音棚
[00:02.00]【未经著作权人许可 不得翻唱 翻录或使用】
[00:12.50]请你带我回到那个家
[00:12.50]Please take me back to that home
[00:17.20]门前开着红色的山茶
[00:17.20]Red camellias bloom at the door
[00:22.00]
[00:40.00][01:10.00]啦啦啦啦
[00:40.00][01:10.00]La la la la
[03:01.00]-END-"""
AZLYRICS = """Jon Halloway Lyrics
"Quiet Harbor"
(feat. Ada Merrow)

[Verse 1:]
I row at dawn
[Chorus:]
Quiet harbor
[Chorus x2]
Submit Corrections
Thanks to ada for adding these lyrics
Writer(s): Ada Merrow, Jon Halloway"""
SUNO = """[Style: dreamy pop, female vocal, 92 BPM]
[Intro - soft piano]
[Verse 1 | whispered]
I row at dawn
[CHORUS][Powerful]
Quiet harbor (ooh)
[Short Instrumental Outro]"""
LRCLIB = (
    "[id: abc]\n[00:01.00] ♪\n[00:12.20] I row\n[00:15.20] \n[00:15.90] The water\n[00:19.00] ♪\n[00:30.00] Harbor\n"
)
KUGOU = "[0,1500]<0,500,0>请<500,500,0>你\n[1500,1500]<0,500,0>go <500,500,0>on"
YRC = "[12500,4700](12500,500,0)请(13000,500,0)你\n[17200,900](17200,500,0)go (17700,500,0)on"
CHORDPRO = "{title: Quiet Harbor}\n{start_of_chorus}\n[Am]Quiet [G]harbor\n{end_of_chorus}\n{c: Verse}\nI [C]row"
FRENCH = (
    "Paroles de la chanson Le Port par Ada\nCouplet 1 :\nJe rame\n{Refrain:}\nPort\nCouplet 2 :\nL'eau\n{au Refrain}"
)
GERMAN = (
    "Songtext von Ada Merrow – Der Hafen\n1. Strophe:\nIch rudere\nRefrain:\nHafen\n2. Strophe:\nWasser\nRefrain (2x)"
)
MARKDOWN = "# Quiet Harbor\n\n**Verse 1**\n\nI row  \n> at dawn\n\n---\n\n**Chorus**\n\nHarbor"
TTML = '<tt><body><p begin="1.0" end="3.0">I row</p><p begin="4.0" end="6.0">at dawn</p></body></tt>'


def shown(parsed: ParsedLyrics) -> str:
    """Sections and lines as one text."""
    parts: list[str] = []
    for line in parsed.lines:
        text = line.text if line.time_s is None else f"{line.time_s:g}={line.text}"
        parts.append(f"{line.section_index}{(line.section or '-')[0]}:{text}{'+' * (line.edit == 'expanded')}")
    return " ".join(parts)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (
            GENIUS,
            "0i:Yeah, yeah 1v:I row at dawn 2c:Quiet harbor 2c:Quiet harbor+ 4c:Quiet harbor+ 4c:Quiet harbor+ "
            "5o:Harbor",
        ),
        (NETEASE, "-1-:12.5=请你带我回到那个家 -1-:17.2=门前开着红色的山茶 -1-:40=啦啦啦啦 -1-:70=啦啦啦啦+"),
        (AZLYRICS, "0v:I row at dawn 1c:Quiet harbor 2c:Quiet harbor+ 3c:Quiet harbor+"),
        (SUNO, "1v:I row at dawn 2c:Quiet harbor"),
        (LRCLIB, "-1-:12.2=I row -1-:15.9=The water -1-:30=Harbor"),
        (KUGOU, "-1-:0=请你 -1-:1.5=go on"),
        (YRC, "-1-:12.5=请你 -1-:17.2=go on"),
        (CHORDPRO, "0c:Quiet harbor 1v:I row"),
        (FRENCH, "0v:Je rame 1c:Port 2v:L'eau 3c:Port+"),
        (GERMAN, "0v:Ich rudere 1c:Hafen 2v:Wasser 3c:Hafen+ 4c:Hafen+"),
        (MARKDOWN, "0v:I row 0v:at dawn 1c:Harbor"),
        (TTML, "-1-:1=I row -1-:4=at dawn"),
    ],
)  # fmt: skip
def test_what_is_left_to_sing(page: str, expected: str) -> None:
    assert shown(parse_lyrics(clean_text(page))) == expected


def test_stanzas_are_parted_by_blanks_bars_stamps_and_headers() -> None:
    assert [line.stanza for line in parse_lyrics(LRCLIB).lines] == [0, 1, 2]
    parsed = parse_lyrics("a day\nb day\n\n\nc day\n* * *\nd day\n<br/>\ne day\n[Chorus]\nf day\nhttp://a.com\ng day")
    assert [line.stanza for line in parsed.lines] == [0, 0, 1, 2, 3, 4, 4]
