"""Decoding of lyrics files: every encoding the web uses, and everything that is no text."""

import errno
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.input_file import MachineReadError
from pipeline.lyrics.encoding import MAX_LYRICS_BYTES, LyricsError, clean_text, decode_lyrics, read_lyrics, read_text

CHINESE = "窗外的雨声敲着旧木门\n我把信纸折成一只小船\n让它漂向很远的海"
TRADITIONAL = "請你帶我回到那個家\n門前開着紅色的山茶\n我們坐在學校的操場"
FRENCH = "même si mon réveil ne sonne pas\net qu'on m'attend, c'est élémentaire\nça créée l’été"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "utf-8"),
        (CHINESE, "utf-8-sig"),
        (CHINESE, "utf-16"),
        (CHINESE, "utf-32"),
        (CHINESE, "gbk"),
        (CHINESE, "gb18030"),
        ("[ti:渡口]\n" + CHINESE, "gbk"),
        (TRADITIONAL, "gbk"),
        (TRADITIONAL, "big5hkscs"),
        (FRENCH, "cp1252"),
        (FRENCH.replace("’", "'"), "latin-1"),
        ("das ist die Zeit für Veränderung\nweißt du, schön", "latin-1"),
        ("¿Dónde estás, niño? Mañana", "latin-1"),
        ("plain words", "ascii"),
        ("plain words\nof a song", "utf-16-le"),
        ("plain words\nof a song", "utf-16-be"),
        ("", "utf-8"),
    ],
)
def test_decodes_what_was_encoded(text: str, encoding: str) -> None:
    assert decode_lyrics(text.encode(encoding)) == text


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 4,
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00" * 8,
        b"fLaC\x00\x00\x00\x22\x10\x00\x10\x00\x00\x05\x8f\x00" * 20,
        b"\x00" * 100,
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf\xff\xff\xff",
        b"\xff\xfe" + b"\x00\xd8" * 10,
    ],
)
def test_refuses_binary_data(data: bytes) -> None:
    with pytest.raises(LyricsError):
        decode_lyrics(data)


def test_refuses_more_than_a_megabyte() -> None:
    with pytest.raises(LyricsError, match="over 1000000 bytes"):
        decode_lyrics(b"a" * (MAX_LYRICS_BYTES + 1))


def test_removes_invisible_characters_and_normalises() -> None:
    dirty = "he\u200dllo\u200bw\x00orld\u202e\ufeff\r\ncafe\u0301\u2028so\u00adft\ttab\x07\rend"
    assert clean_text(dirty) == "hello world\ncaf\u00e9\nsoft\ttab\nend"


def test_piled_up_accents_are_cut() -> None:
    assert len(clean_text("a" + "\u0301\u0316" * 50_000)) <= 5


@settings(deadline=None)  # a busy machine is no fault of the code
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_lyrics_error(data: bytes) -> None:
    try:
        text = decode_lyrics(data)
    except LyricsError:
        return
    assert clean_text(text) == text


LYRICS = {
    "pl": "Czekam na ciebie przy oknie\nże już świt, a ja wciąż śpię\nPóźno już, zgaś światło",
    "cs": "Čekám tě u okna každý den\npříliš žluťoučký kůň pěl ódy",
    "hu": "Várlak az ablaknál minden nap\nőszi szél fúj, tűnődöm én",
    "hr": "Čekam te kraj prozora\nžao mi je što si otišla, đavole",
    "tr": "Seni bekliyorum pencerede\ngüneş doğuyor, içim ağlıyor, İstanbul",
    "lt": "Laukiu tavęs prie lango\nžvaigždės šviečia, širdis dūžta",
    "fr": FRENCH.replace("’", "'"),
    "es": "¿Dónde estás, niño? Mañana será otro día\nel corazón",
    "pt": "não sei por que você se foi\nquantas saudades, coração",
    "de": "Für dich allein, über den Wolken\nweißt du, schön",
    "sv": "Här är jag, nu går vi hem över ängen",
    "is": "Þú ert það besta sem ég á\nég sé þig aðeins í draumum",
    "ru": "Привет, мой мир\nя жду тебя у окна",
    "uk": "Я чекаю тебе біля вікна\nмоя єдина, їду до тебе",
    "el": "Σε περιμένω στο παράθυρο\nη αγάπη μου είναι εδώ",
    "he": "אני מחכה לך ליד החלון",
    "ar": "أنا أنتظرك عند النافذة كل يوم",
    "th": "ฉันรอเธออยู่ที่หน้าต่าง\nทุกวันคืน",
    "ko": "창밖에 비가 내려요\n나는 너를 기다려요 oh baby",
    "ja": "夜の窓に雨が降る\n古い手紙を読み返す",
}
CODECS_OF = {
    **dict.fromkeys(("pl", "cs", "hu", "hr"), ("cp1250", "iso8859_2")),
    **dict.fromkeys(("fr", "es", "pt", "de", "sv"), ("cp1252", "latin-1", "mac_roman", "cp850")),
    "tr": ("cp1254", "iso8859_9"),
    "lt": ("cp1257",),
    "is": ("cp1252",),
    "ru": ("cp1251", "koi8_r", "cp866"),
    "uk": ("cp1251",),
    "el": ("cp1253", "iso8859_7"),
    "he": ("cp1255",),
    "ar": ("cp1256",),
    "th": ("cp874",),
    "ko": ("euc_kr", "cp949"),
    "ja": ("cp932", "euc_jp"),
}


@pytest.mark.parametrize(
    ("language", "encoding"), [(language, codec) for language, codecs in CODECS_OF.items() for codec in codecs]
)
def test_encodings_of_many_languages_are_told_from_each_other(language: str, encoding: str) -> None:
    text = LYRICS[language]
    for known in ("", language):
        read = read_text(text.encode(encoding), known)
        assert read.text == text, read
        assert read.warnings == ()


@pytest.mark.parametrize("language", ["ja", "ko", "ru"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_needs_no_mark(language: str, encoding: str) -> None:
    assert decode_lyrics(LYRICS[language].encode(encoding)) == LYRICS[language]


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("euc_kr", "euc_kr"), ("euc_jp", "euc_jp"), ("shift_jis", "shift_jis"), ("cp1250_polish", "cp1250")],
)
def test_cases_of_users_are_read(shared: Path, name: str, encoding: str) -> None:
    data = (shared / "cases" / f"{name}.txt").read_bytes()
    assert read_lyrics(shared / "cases" / f"{name}.txt") == data.decode(encoding)


def test_utf_8_that_is_cut_or_has_a_western_line_is_read_with_a_warning(shared: Path) -> None:
    data = (shared / "cases" / "cut_utf8_japanese.txt").read_bytes()
    read = read_text(data)
    assert read.text == data.decode("utf-8", "replace")
    assert read.warnings == ("lyrics_encoding: UTF-8 that is cut in the middle of its last character",)
    read = read_text("été à la mer\noù êtes-vous\n".encode() + "déjà vu\n".encode("latin-1"))
    assert read.text == "été à la mer\noù êtes-vous\ndéjà vu\n"
    assert read.warnings == ("lyrics_encoding: UTF-8, but 1 of 3 lines are not and were read as Western",)


def test_readings_that_are_equally_good_are_told_and_the_language_decides() -> None:
    data = "да".encode("cp1251")
    assert re.fullmatch("lyrics_encoding: read as cp1251, cp1255 is as likely", read_text(data).warnings[0])
    for language in ("ru", "he"):
        assert read_text(data, language).text == data.decode({"ru": "cp1251", "he": "cp1255"}[language])


@pytest.mark.parametrize("encoding", ["iso2022_jp", "iso2022_kr", "hz"])
def test_encodings_of_seven_bits_are_no_ascii(encoding: str) -> None:
    text = {"iso2022_jp": LYRICS["ja"], "iso2022_kr": LYRICS["ko"], "hz": CHINESE}[encoding]
    assert decode_lyrics(text.encode(encoding)) == text
    assert decode_lyrics(b"oh ~{no~} my ~ love {") == "oh ~{no~} my ~ love {"


def test_persian_and_khmer_in_utf_16_have_joiners() -> None:
    for text in ("من می\u200cخواهم بروم\nبه خانه", "ខ្ញុំ\u200bស្រលាញ់\nអ្នក"):
        for encoding in ("utf-16-le", "utf-16-be"):
            assert decode_lyrics(text.encode(encoding)) == clean_text(text)


def test_accents_of_a_western_song_are_no_chinese_and_no_russian() -> None:
    for text in (
        "Não há mais ninguém\nno fim da tarde",
        "We wait in the café\nall night long",
        "Ik ga naar België\nin de zomer",
    ):
        for encoding in ("cp1252", "mac_roman", "cp850"):
            assert decode_lyrics(text.encode(encoding)) == text


LEADS = [bytes([first, second]) for first in range(0x81, 0xFF) for second in (0x30, 0x40, 0x62, 0x64, 0xA3, 0xA5)]
MARKS = [b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff", b"\xef\xbb\xbf", b"\x84\x31\x95\x33", b"\xff\xfe", b"\xfe\xff"]
CODECS = ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "big5hkscs", "cp1252", "latin-1"]


@pytest.mark.parametrize(
    "data", [b"\x88\x62", b"\x88\x64" * 40, b"la la\n\x88\xa3\x88\xa5\n", b"\xa4\xa4\x88\x62\xa4\xe5"]
)
def test_two_characters_of_one_code_are_no_error(data: bytes) -> None:
    """Big5-HKSCS has four codes for a letter with an accent that it has by itself nowhere."""
    try:
        assert decode_lyrics(data).encode()
    except LyricsError:
        return


def test_random_bytes_in_every_encoding_decode_or_raise_lyrics_error() -> None:
    generator = random.Random(7)
    codes = (0x20, 0x61, 0xE9, 0x401, 0x3042, 0x4E00, 0x6211, 0x1F3B5)
    num_read = 0
    for number in range(1_000):
        text = "".join(map(chr, generator.choices(codes, k=9)))
        data = (
            generator.randbytes(number % 24 + 1),
            b"".join(generator.choices(LEADS, k=number % 9 + 1)),
            text.encode(generator.choice(CODECS), "replace") + generator.randbytes(number % 3),
            b"la la " + generator.randbytes(number % 4 + 1) + b" la la",
            generator.choice(MARKS) + generator.randbytes(number % 16),
        )[number % 5]
        try:
            decoded = decode_lyrics(data)
        except LyricsError:
            continue
        num_read += 1
        assert decoded.encode().decode() == decoded
    assert num_read > 250


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_machine_that_cannot_read_is_no_fault_of_the_lyrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*arguments: object, **settings: object) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.txt").write_text("la")
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(MachineReadError, match=os.strerror(number)):
        read_lyrics(tmp_path / "a.txt")


def test_read_lyrics_refuses_what_is_no_file(tmp_path: Path) -> None:
    pipe, loop, folder = tmp_path / "pipe", tmp_path / "loop", tmp_path / "folder"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    for path in (pipe, loop, folder, tmp_path / "missing"):
        with pytest.raises(LyricsError, match=path.name):
            read_lyrics(path)


def test_an_empty_file_holds_no_lyrics(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_lyrics(tmp_path / "a.txt") == ""


def test_read_lyrics_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CHINESE.encode("gbk"))
    assert read_lyrics(tmp_path / "a.txt") == CHINESE


@pytest.mark.parametrize(
    "text", ["Don’t say café, “mi corazón”", "Für dich – allein", "我们走在路上\n唱着一首歌", "Ça va, c’est l’été"]
)
def test_saved_misreadings_are_undone(text: str) -> None:
    gaps = {0x81, 0x8D, 0x8F, 0x90, 0x9D}  # of Windows-1252; browsers show them as Latin-1 does
    misread = "".join(chr(byte) if byte in gaps else bytes([byte]).decode("cp1252") for byte in text.encode())
    assert decode_lyrics(misread.encode()) == text
    if any(char > "\u3000" for char in text):
        assert decode_lyrics(text.encode("gbk").decode("latin-1").encode()) == text


@pytest.mark.parametrize(("language", "encoding"), [("ru", "cp1251"), ("el", "iso8859_7"), ("ko", "euc_kr")])
def test_any_script_that_was_saved_as_western_is_undone(language: str, encoding: str) -> None:
    text = LYRICS[language]
    assert decode_lyrics(text.encode(encoding).decode("latin-1").encode()) == text


@pytest.mark.parametrize("text", ["ÂME ÉPERDUE", "naïve Ã", "ÉTÉ À LA MER", "ñ", "øæå", "Où êtes-vous ?", "ÎÒÔÛ"])
def test_accents_are_no_misreadings(text: str) -> None:
    assert decode_lyrics(text.encode()) == text
