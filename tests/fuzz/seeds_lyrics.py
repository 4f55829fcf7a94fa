"""Small lyrics in every format that is read: the inputs that fuzzing starts from."""

PLAIN = [
    text.encode()
    for text in (
        "[Verse 1: Somebody]\nFirst line (x2)\n(ooh) second\n\n[Chorus]\nla la\n",
        "[ti:A song]\n[00:01.00]<00:01.00>First <00:01.50>line\n[00:03.00][00:05.00]again\n[offset:+200]\n",
        "第三行 / third line\n[副歌] x2\nJe t'aime / I love you\n",
        "Composed by: Nobody\nTitle - Artist\nwww.example.com\n12EmbedShare\nla\n",
        "A: hello\nB: you\nAm  G  C\nrepeat chorus\n♪ ♪\n",
    )
] + ["歌\x00詞".encode("gbk"), b"\x88\x62", "la\nlo".encode("utf-16")]

TIMED = [
    text.encode()
    for text in (
        "1\n00:00:01,000 --> 00:00:02,000\n<i>caption</i>\n\n2\n00:00:02,000 --> 00:00:03,000\nnext\n",
        "WEBVTT\nLanguage: en\n\nNOTE x\n\n00:01.000 --> 00:02.000 align:start\n<v Ann>one<00:01.500><c> two</c>\n",
        "0:00:01.000,0:00:02.000\nsub[br]viewer\n\n0:00:03.000,0:00:04.000\nnext\n",
        "<SAMI><BODY>\n<SYNC Start=1000><P Class=ENCC>one<br>two\n<SYNC Start=3000><P Class=ENCC>&nbsp;",
        "[Events]\nFormat: Layer, Start, End, Style, Text\n"
        "Dialogue: 0,0:00:01.00,0:00:02.00,A,{\\k20}one {\\k30}two\\Nx\n",
        '<tt xmlns:ttm="m" xml:lang="en"><body><div itunes:song-part="Verse">'
        '<p begin="1.0" end="00:02.5" ttm:agent="v1">'
        '<span begin="1.0" end="1.5">one</span> <span ttm:role="x-bg">(bg)</span></p></div></body></tt>',
        '<timedtext><body><p t="1000" d="900"><s>one</s><s t="300"> two</s></p></body></timedtext>',
        '<transcript><text start="1.5" dur="2">a &amp;amp; b</text></transcript>',
        "#TITLE:Song\n#ARTIST:A\n#BPM:300,5\n#GAP:1000\n: 0 4 10 one\n* 6 4 10  two\n- 12\nF 14 2 0 x\nP2\nE\n",
        "0.5\t1.5\tone two\n\\\t100.0\t200.0\n2,5\t3,5\tthree\n",
        "start\tend\ttext\n1000\t2000\tone\n2000\t3000\t two\n",
        'start,end,text\n1000,2000,"one ""x"""\n',
        '{"language": "en", "segments": [{"start": 1.0, "end": 2, "text": " one two", "words": '
        '[{"word": " one", "start": 1.0}, {"text": " two", "start": 1.5}]}]}',
        '{"syncedLyrics": "[00:01.00]a\\n[00:02.00]b", "plainLyrics": "a\\nb"}',
        '{"lyrics": {"lines": [{"startTimeMs": "1000", "words": "one", "endTimeMs": "0"}]}}',
        '[{"time": {"total": 1.5}, "text": "one"}, {"offsets": {"from": 10, "to": 20}, "text": "<|x|>"}]',
        '{"chunks": [{"timestamp": [1.0, null], "text": "a"}], "result": {"language": "de"}}',
    )
]

KARAOKE = [
    text.encode()
    for text in (
        "[1000,2000]<0,500,0>one <500,500,0>two\n[3000,100]<0,100,0>x\n[language:eyJjb250ZW50IjpbXX0=]\n",  # KRC
        "[1000,2000]one(1000,500) two(1500,500)\n[3500,500]x(3500,500)\n",  # QRC
        '[1000,2000](1000,500,0)one (1500,500,0)two\n{"t":0,"c":[{"tx":"By: "},{"tx":"A"}]}\n',  # YRC
        "[00:01.00]la lo\n[00:01.00][tt]<0,0><500,3>\n[00:02.50]v\n[00:02.50][tt]<0,0><100,1><300,1>\n",  # LRCX
        '<QrcInfos><Lyric_1 LyricType="1" LyricContent="[ti:x] [1000,900]one(1000,400)&quot; [2000,9]z(2000,9)"/>',
    )
]

FORMAT_SEEDS = [
    text.encode()
    for text in (
        "[intro] [intro] , [verse] One line. Two , [chorus] Three , [outro]",
        '{"idx": "a", "gt_lyric": "[intro-short] ; [verse] One. Two. ; [outro-medium]", "descriptions": "pop"}\n',
        "[intro-short] ; [verse] One. Two ; [inst-long] ; [chorus] Three",
        '{"messages": [{"role": "user", "content": "Please write [Intro][desc:slow][lyrics:one\\ntwo]"}, {"role": '
        '"assistant", "content": "x"}]}\n',
        "[Genre] pop, female\n[verse]\nOne\n\n[chorus - whispered]\nTwo (ad-lib)\n",
        "[length:01:00.00]\n[00:01.00]one\n[00:02.00]<00:02.00>two <00:02.50>three\n",
        "#TITLE:Song\n#BPM:300\n#GAP:0\n#END:9000\nF 0 4 0 one\nF 6 4 0  two\n- 12\nE\n",
    )
]
