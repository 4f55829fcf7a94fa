import random
import struct
import time
from dataclasses import replace

import av
import numpy as np
import pytest

from pipeline.audio.decode import AudioDecodeError, decode_audio
from pipeline.catalogue.inputs import SongInput
from pipeline.catalogue.tags import MAX_NAME_CHARS, Tags, fill_from_tags, read_tags
from pipeline.lyrics.encoding import MAX_LYRICS_BYTES
from pipeline.lyrics.parse import parse_lyrics

TITLE_AND_ARTIST = {"title": "Night Walk", "artist": "The Somebodies"}


def write(path, container, codec, tags, stream_tags=None):
    rate, options = (48_000, {}) if codec == "libopus" else (44_100, {})
    with av.open(str(path), "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout="stereo", bit_rate=128_000)
        out.metadata.update(tags)
        stream.metadata.update(stream_tags or {})
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate)
        frame = av.AudioFrame.from_ndarray(np.full((1, 2 * rate), 0.1, np.float32), format="flt", layout="stereo")
        frame.rate, frame.pts = rate, 0
        frame_size = stream.codec_context.frame_size or 4_096
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            fifo.write(part)
        while part := fifo.read(frame_size, partial=True):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


def synchsafe(number):
    return bytes(number >> 7 * place & 0x7F for place in (3, 2, 1, 0))


def frame(name, content, version=3, flags=b"\0\0"):
    size = synchsafe(len(content)) if version == 4 else struct.pack(">I", len(content))
    return name + size + flags + content


def id3(*frames, version=3, flags=0):
    body = b"".join(frames)
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(body)) + body


def sylt(*segments, encoding=3, unit=2, content=1, codec="utf-8", end=b"\0"):
    body = bytes([encoding]) + b"eng" + bytes([unit, content]) + end
    return body + b"".join(text.encode(codec) + end + struct.pack(">I", time_ms) for time_ms, text in segments)


@pytest.fixture(scope="module")
def mp3(tmp_path_factory):
    """Return the bytes of one second of MP3 without any tag."""
    path = write(tmp_path_factory.mktemp("mp3") / "a.mp3", "mp3", "libmp3lame", {})
    data = path.read_bytes()
    return data[10 + sum(byte << 7 * place for place, byte in enumerate(reversed(data[6:10]))) :]


@pytest.fixture
def tagged(tmp_path, mp3):
    """Return a function that writes an MP3 with the given tag before its audio."""

    def make(tag):
        path = tmp_path / "tagged.mp3"
        path.write_bytes(tag + mp3)
        return path

    return make


@pytest.mark.parametrize(
    ("suffix", "container", "codec", "has_language"),
    [
        ("mp3", "mp3", "libmp3lame", True),
        ("m4a", "ipod", "aac", False),
        ("flac", "flac", "flac", True),
        ("opus", "ogg", "libopus", True),
        ("mka", "matroska", "flac", True),
        ("wma", "asf", "wmav2", True),
    ],
)
def test_every_container_says_the_same(tmp_path, suffix, container, codec, has_language):
    tags = TITLE_AND_ARTIST | {"language": "deu", "lyrics": "eins zwei\ndrei é"}
    on_stream = tags if suffix == "opus" else None
    found = read_tags(write(tmp_path / f"a.{suffix}", container, codec, tags, on_stream))
    language = "de" if has_language else ""
    assert found == Tags("Night Walk", "The Somebodies", language, "eins zwei\ndrei é")


def test_a_wav_has_a_title_and_no_lyrics(tmp_path):
    path = write(tmp_path / "a.wav", "wav", "pcm_s16le", TITLE_AND_ARTIST | {"language": "deu", "lyrics": "la"})
    assert read_tags(path) == Tags("Night Walk", "The Somebodies", "de", "")


def test_a_file_without_tags_says_nothing(tagged):
    assert read_tags(tagged(b"")) == Tags()


@pytest.mark.parametrize("key", ["LYRICS", "Lyrics", "UNSYNCEDLYRICS", "UNSYNCED LYRICS", "SYNCEDLYRICS"])
def test_vorbis_comments_have_lyrics_under_several_names(tmp_path, key):
    path = write(tmp_path / "a.flac", "flac", "flac", {key: "one\ntwo"})
    assert read_tags(path).lyrics == "one\ntwo"


def test_a_language_that_stands_on_the_stream_says_nothing_of_the_song(tmp_path):
    path = write(tmp_path / "a.m4a", "ipod", "aac", {}, {"language": "eng"})
    assert read_tags(path).language == ""


@pytest.mark.parametrize("value", ["eng/kor", "eng;kor", "Klingon", "und", "XXX", ""])
def test_several_languages_or_none_are_no_language(tmp_path, value):
    assert read_tags(write(tmp_path / "a.flac", "flac", "flac", {"language": value})).language == ""


def test_uslt_is_read_in_every_encoding_and_version(tagged):
    for version in (3, 4):
        for encoding, codec in ((0, "latin-1"), (1, "utf-16"), (2, "utf-16-be"), (3, "utf-8")):
            end = b"\0\0" if encoding in (1, 2) else b"\0"
            content = bytes([encoding]) + b"eng" + (b"\xff\xfe" if encoding == 1 else b"") + end
            content += "Straße\nzwei".encode(codec)
            assert read_tags(tagged(id3(frame(b"USLT", content, version), version=version))).lyrics == "Straße\nzwei"


def test_tags_say_what_nothing_else_says(tmp_path):
    tags = Tags("Tag title", "Tag artist", "de", "tag words")
    bare = SongInput("a", tmp_path / "a.mp3", "a.mp3", hint="x_lyrics.txt: not taken")
    found = fill_from_tags(bare, tags)
    assert (found.title, found.artist, found.language) == ("Tag title", "Tag artist", "de")
    assert (found.lyrics_text, found.hint) == ("tag words", "")
    said = replace(bare, title="T", artist="A", language="ko", lyrics_path=tmp_path / "a.lrc", hint="")
    assert fill_from_tags(said, tags) == said
    assert fill_from_tags(replace(said, lyrics_path=None, lyrics_text="given"), tags).lyrics_text == "given"
    assert fill_from_tags(bare, Tags()) == bare


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("夜里的风吹过我的窗\n你说的话我还记得\n月亮照着回家的路", "gb18030"),
        ("Ночь уходит за окно\nЯ тебя не забуду никогда\nсолнце светит над рекой", "cp1251"),
    ],
)
def test_an_old_encoding_that_is_called_latin_1_is_read_as_what_it_is(tagged, text, codec):
    title = text.split("\n")[1]
    tag = id3(frame(b"TIT2", b"\0" + title.encode(codec)), frame(b"USLT", b"\0chi\0" + text.encode(codec)))
    found = read_tags(tagged(tag))
    assert (found.title, found.lyrics) == (title, text)


@pytest.mark.parametrize("text", ["Été", "Þórður Þúú", "Déjà vu à l'été\nÉtoile", "Ärger über Öl"])
def test_western_accents_stay(tagged, text):
    tag = id3(frame(b"TIT2", b"\0" + text.encode("latin-1")), frame(b"USLT", b"\0eng\0" + text.encode("latin-1")))
    found = read_tags(tagged(tag))
    assert (found.title, found.lyrics) == (text.replace("\n", " "), text)


def test_timed_lyrics_come_before_plain_ones(tagged):
    plain = frame(b"USLT", b"\3eng\0plain words")
    timed = frame(b"TXXX", b"\3LYRICS\0[00:01.00]timed words")
    assert read_tags(tagged(id3(plain, timed))).lyrics == "[00:01.00]timed words"
    assert read_tags(tagged(id3(plain, frame(b"SYLT", sylt((1_500, "sung")))))).lyrics == "[00:01.500]sung"


@pytest.mark.parametrize(("tlan", "given", "words"), [("", "", "words"), ("jpn", "", "言葉"), ("jpn", "en", "words")])
def test_of_two_languages_the_one_that_is_sung_is_taken(tagged, tlan, given, words):
    frames = [frame(b"TLAN", b"\0" + tlan.encode())] if tlan else []
    frames += [frame(b"USLT", b"\3eng\0words"), frame(b"USLT", b"\3jpnby-a-fan\0" + "言葉".encode())]
    assert read_tags(tagged(id3(*frames)), given).lyrics == words


@pytest.mark.parametrize(
    ("encoding", "codec", "end"),
    [(0, "latin-1", b"\0"), (1, "utf-16", b"\0\0"), (2, "utf-16-be", b"\0\0"), (3, "utf-8", b"\0")],
)
@pytest.mark.parametrize("version", [3, 4])
def test_sylt_lines_keep_their_times(tagged, encoding, codec, end, version):
    content = sylt((1_000, "één"), (2_500, "twee"), (62_345, "drie"), encoding=encoding, codec=codec, end=end)
    picture = frame(b"APIC", b"\0image/png\0\3\0" + bytes(5_000), version)
    found = read_tags(tagged(id3(picture, frame(b"SYLT", content, version), version=version)))
    assert found.lyrics == "[00:01.000]één\n[00:02.500]twee\n[01:02.345]drie"


def test_sylt_words_are_joined_to_lines_and_parsed_with_their_times(tagged):
    content = sylt((1_000, "Hel"), (1_200, "lo "), (1_500, "world"), (3_000, "\ntwo "), (3_400, "words"))
    lines = parse_lyrics(read_tags(tagged(id3(frame(b"SYLT", content)))).lyrics).lines
    assert [(line.text, line.time_s) for line in lines] == [("Hello world", 1.0), ("two words", 3.0)]
    assert lines[0].word_times == (("Hello", 1.0), ("world", 1.5))


def test_sylt_is_found_in_a_tag_that_is_unsynchronised(tagged):
    content = sylt((255 << 8, "ÿ"), (66_000, "b"), encoding=0, codec="latin-1")
    for version, flags in ((3, b"\0\0"), (4, b"\0\x02")):
        stuffed = content.replace(b"\xff\x00", b"\xff\x00\x00")
        assert len(stuffed) > len(content)
        size = struct.pack(">I", len(content)) if version == 3 else synchsafe(len(stuffed))
        tag = id3(b"SYLT" + size + flags + stuffed, version=version, flags=0x80)
        assert read_tags(tagged(tag)).lyrics == "[01:05.280]ÿ\n[01:06.000]b"


@pytest.mark.parametrize(
    "content",
    [
        sylt((1, "C"), content=5),
        sylt((1, "frames"), unit=1),
        sylt((8_000_000, "after two hours")),
        sylt((1, "a"), encoding=9),
        b"\3eng\2\1no end",
        sylt((1_000, "a"))[:-6],
        b"",
    ],
    ids=["chords", "frames", "late", "encoding", "no end", "cut", "empty"],
)
def test_sylt_that_holds_no_sung_words_in_milliseconds_is_left(tagged, content):
    assert read_tags(tagged(id3(frame(b"SYLT", content), frame(b"USLT", b"\3eng\0words")))).lyrics == "words"


def test_brackets_in_sylt_are_no_stamps(tagged):
    assert read_tags(tagged(id3(frame(b"SYLT", sylt((0, "[x] <00:01.0>"), (5, "b\r\nc")))))).lyrics == (
        "[00:00.000](x) (00:01.0)\n[00:00.005]b c"
    )


def test_names_are_one_short_line_and_placeholders_are_none(tmp_path):
    path = write(tmp_path / "a.flac", "flac", "flac", {"title": "a\n b\t" + "x" * 5_000, "artist": "Unknown Artist"})
    found = read_tags(path)
    assert found.title.startswith("a b xxx")
    assert len(found.title) == MAX_NAME_CHARS
    assert found.artist == ""


def test_lyrics_without_end_are_cut_where_the_decoder_of_lyrics_refuses_them(tmp_path):
    path = write(tmp_path / "a.flac", "flac", "flac", {"lyrics": "la " * MAX_LYRICS_BYTES})
    assert len(read_tags(path).lyrics) == MAX_LYRICS_BYTES + 1


def test_what_is_no_audio_is_said_as_when_it_is_decoded(tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"some text " * 200)
    for read in (read_tags, decode_audio):
        with pytest.raises(AudioDecodeError, match="no known audio format"):
            read(tmp_path / "a.mp3")
    with pytest.raises(AudioDecodeError, match="cannot be opened"):
        read_tags(tmp_path / "gone.mp3")


def test_tags_that_lie_about_their_sizes_end_in_tags_or_in_a_named_error(tagged):
    whole = id3(
        frame(b"TIT2", b"\3Title", 4),
        frame(b"SYLT", sylt((1_000, "\na"), (2_000, "\nb")), 4),
        frame(b"USLT", b"\1eng\xff\xfe\0\0" + "words".encode("utf-16"), 4),
        version=4,
    )
    draw = random.Random(0)
    started = time.monotonic()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(3, len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        try:
            found = read_tags(tagged(bytes(data)))
        except AudioDecodeError:
            continue
        assert found.lyrics.encode() is not None
        assert found.title.encode() is not None
    assert time.monotonic() - started < 60


def test_a_tag_of_many_tiny_segments_is_read_at_once(tagged):
    tag = id3(frame(b"SYLT", sylt(*[(1, "\n")] * 190_000)), frame(b"SYLT", sylt(*[(1, "")] * 190_000)))
    started = time.monotonic()
    read_tags(tagged(tag))
    assert time.monotonic() - started < 5
