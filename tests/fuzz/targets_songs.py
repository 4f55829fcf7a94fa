"""Targets: lyrics, manifests and audio, as users bring them."""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from pipeline.audio.decode import decode_audio
from pipeline.audio.file import AudioDecodeError, AudioFile
from pipeline.audio.headers import counted_duration_s, find_flac_streams, present_share, read_ogg_pages
from pipeline.catalogue.inputs import find_songs
from pipeline.catalogue.tags import read_tags
from pipeline.cleaning.records import SONGS_SCHEMA
from pipeline.encoding.plan_shards import songs_from_clean
from pipeline.input_file import InputError
from pipeline.lyric_formats.document import Changes
from pipeline.lyric_formats.formats import FORMATS, guess_format
from pipeline.lyric_formats.lyrics_files import read_rows
from pipeline.lyrics.encoding import LyricsError, clean_text, decode_lyrics
from pipeline.lyrics.parse import parse_lyrics

from .seeds_lyrics import FORMAT_SEEDS, KARAOKE, PLAIN, TIMED
from .tagged_audio import tagged_files
from .target import Target, as_raw_file, in_file

_LYRICS_MODULES = tuple(
    f"pipeline.lyrics.parse{part}"
    for part in ("", "_source", "_stamps", "_cues", "_json", "_tables", "_ultrastar", "_xml", "_headers", "_metadata",
                 "_repeats", "_bilingual", "_page", "_plain", "_simple", "_singers")
)  # fmt: skip


def _encodings() -> list[bytes]:
    text = "歌詞 la là лето 사랑 愛"
    names = ("utf-8", "utf-16", "utf-32", "gb18030", "utf-8-sig")
    others = [
        ("歌詞的愛", "big5"),
        ("愛してる", "shift_jis"),
        ("愛してる", "euc_jp"),
        ("사랑해", "cp949"),
        ("лето", "cp1251"),
    ]
    return [text.encode(name) for name in names] + [part.encode(name) for part, name in others] + [b"\x88\x62"]


def _decode(data: bytes) -> None:
    decode_lyrics(data).encode()  # what is read can be written


def _parse(data: bytes) -> None:
    parse_lyrics(clean_text(data.decode("utf-8", "replace")))


def _decode_and_parse(data: bytes) -> None:
    parse_lyrics(decode_lyrics(data))


def _read_formats(data: bytes) -> None:
    text = clean_text(data.decode("utf-8", "replace"))
    with suppress(LyricsError):
        FORMATS[guess_format(text)].read(text, Changes())


def _read_format(name: str) -> Callable[[bytes], object]:
    return lambda data: FORMATS[name].read(clean_text(data.decode("utf-8", "replace")), Changes())


def _parquet() -> list[bytes]:
    columns = {"audio": ["a.mp3", "b.mp3"], "lyrics": ["la", "lo"], "language": ["en", ""]}
    found = []
    for compression in ("snappy", "zstd", "none"):
        stream = io.BytesIO()
        pq.write_table(pa.table(columns), stream, compression=compression)
        found.append(stream.getvalue())
    return found


def _songs_parquet() -> list[bytes]:
    spans = {"start_s": 0.0, "end_s": 1.0}
    row = {
        "song_id": "a", "audio": "a.wav", "sha256": "0" * 64, "duration_s": 20.0, "verdict": "keep", "language": "en",
        "lines": [{"text": "la", "section": "verse", "source": "lyrics", "edit": "kept", "score": 0.5, **spans}],
        "words": [{"text": "la", "score": 0.5, "line": 0, **spans}],
        "sections": [{"label": "verse", **spans}], "songbloom_lyrics": "[verse] la.", "warnings": [], "reason": "",
    }  # fmt: skip
    stream = io.BytesIO()
    names = ["song_id", "audio", "sha256", "duration_s", "language", "verdict", "reason", "lines", "words", "sections",
             "songbloom_lyrics"]  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row], schema=SONGS_SCHEMA).select(names), stream, compression="none")
    return [stream.getvalue()]


def _plan(path: Path) -> object:
    (path.parent / "a.wav").touch()
    return songs_from_clean(path.parent, path.parent, {})


def audio_files() -> Iterator[bytes]:
    """Yield short recordings in every format that can be written here, and lists that are no audio."""
    tone = 0.1 * np.sin(np.arange(400) / 9.0)
    for kind in ("WAV", "RF64", "W64", "CAF", "FLAC", "OGG", "MP3", "AIFF", "AU"):
        stream = io.BytesIO()
        soundfile.write(stream, tone, 8_000, format=kind)
        yield stream.getvalue()
    yield from (b"ffconcat version 1.0\nfile a.mp3\n", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\na.ts\n")


def _read_headers(data: bytes) -> None:
    file = AudioFile(as_raw_file(data), Path("song.mp3"))
    for read in (present_share, counted_duration_s, find_flac_streams, read_ogg_pages):
        with suppress(AudioDecodeError):
            read(file)
    file.raise_fault()


SONG_TARGETS = (
    Target(
        name="lyrics",
        run=_decode_and_parse,
        errors=(LyricsError,),
        seeds=lambda: PLAIN,
        modules=_LYRICS_MODULES,
        max_bytes=1 << 8,
    ),
    Target(
        name="lyrics.timed",
        run=_parse,
        errors=(),
        seeds=lambda: TIMED,
        modules=_LYRICS_MODULES,
        max_bytes=1 << 9,
    ),
    Target(
        name="lyrics.karaoke",
        run=_parse,
        errors=(),
        seeds=lambda: KARAOKE,
        modules=_LYRICS_MODULES,
        max_bytes=1 << 8,
    ),
    Target(
        name="encodings",
        run=_decode,
        errors=(LyricsError,),
        seeds=_encodings,
        modules=("pipeline.lyrics.encoding", "pipeline.lyrics.legacy_encodings"),
        max_bytes=1 << 8,
    ),
    Target(
        name="formats",
        run=_read_formats,
        errors=(),
        seeds=lambda: [*PLAIN, *TIMED, *FORMAT_SEEDS],
        modules=("pipeline.lyric_formats",),
        max_bytes=1 << 8,
    ),
    *(
        Target(
            name=f"format.{name}",
            run=_read_format(name),
            errors=(LyricsError,),
            seeds=lambda: FORMAT_SEEDS,
            modules=("pipeline.lyric_formats",),
            max_bytes=1 << 8,
        )
        for name in ("songbloom", "songgeneration", "muse", "ultrastar")
    ),
    *(
        Target(
            name=f"manifest.{suffix}",
            run=in_file(f"m/songs.{suffix}", find_songs),
            errors=(InputError,),
            seeds=lambda seed=seed: [seed],
            modules=(
                "pipeline.catalogue.inputs",
                "pipeline.catalogue.manifest",
                "pipeline.catalogue.manifest_text",
                "pipeline.catalogue.manifest_columns",
            ),
            max_bytes=1 << 9,
        )
        for suffix, seed in (
            ("csv", b'audio,lyrics,language\na.mp3,la,en\nb.mp3,"l\na",\n'),
            ("jsonl", b'{"audio": "a.mp3", "lyrics": "la", "title": "t"}\n{"audio": "b/c.mp3"}\n'),
        )
    ),
    Target(
        name="manifest.parquet",
        run=in_file("m/songs.parquet", find_songs),
        errors=(InputError,),
        seeds=_parquet,
        modules=(
            "pipeline.catalogue.inputs",
            "pipeline.catalogue.manifest",
            "pipeline.catalogue.manifest_parquet",
            "pipeline.catalogue.manifest_columns",
        ),
    ),
    Target(
        name="songs.parquet",
        run=in_file("clean/songs.parquet", _plan),
        errors=(InputError,),
        seeds=_songs_parquet,
        modules=("pipeline.encoding.plan_shards",),
        max_bytes=1 << 14,
    ),
    Target(
        name="songs.parquet.rows",
        run=in_file("rows/songs.parquet", lambda path: list(read_rows(path))),
        errors=(InputError,),
        seeds=_songs_parquet,
        modules=("pipeline.lyric_formats",),
        max_bytes=1 << 14,
    ),
    Target(
        name="audio.headers",
        run=_read_headers,
        errors=(),
        seeds=lambda: [data[:2_000] for data in audio_files()],
        modules=("pipeline.audio.headers",),
    ),
    Target(
        name="tags",
        run=lambda data: read_tags(AudioFile(as_raw_file(data), Path("song.mp3"))),
        errors=(AudioDecodeError,),
        seeds=tagged_files,
        modules=("pipeline.catalogue.tags",),
    ),
    Target(
        name="audio",
        run=lambda data: decode_audio(AudioFile(as_raw_file(data), Path("song.mp3")), max_duration_s=60.0),
        errors=(AudioDecodeError,),
        seeds=lambda: list(audio_files()),
        modules=(),
        max_bytes=1 << 13,
    ),
)
