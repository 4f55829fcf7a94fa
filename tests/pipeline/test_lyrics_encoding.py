"""Decoding of lyrics files: every encoding the web uses, and everything that is no text."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lyrics_encoding import MAX_LYRICS_BYTES, LyricsError, clean_text, decode_lyrics, read_lyrics

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
        "Привет, мой мир".encode("cp1251"),
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
    dirty = "he\u200bllo\u202e\ufeff w\x00orld\r\ncafe\u0301\u2028so\u00adft\ttab\x07\rend"
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


def test_read_lyrics_refuses_what_is_no_file(tmp_path: Path) -> None:
    pipe, loop, folder = tmp_path / "pipe", tmp_path / "loop", tmp_path / "folder"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    for path in (pipe, loop, folder, tmp_path / "missing"):
        with pytest.raises(LyricsError, match=path.name):
            read_lyrics(path)


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


@pytest.mark.parametrize("text", ["ÂME ÉPERDUE", "naïve Ã", "ÉTÉ À LA MER", "ñ", "øæå", "Où êtes-vous ?", "ÎÒÔÛ"])
def test_accents_are_no_misreadings(text: str) -> None:
    assert decode_lyrics(text.encode()) == text
