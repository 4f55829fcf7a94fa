"""Manifests as users write them: read as they are meant, or refused with file, row, column and remedy."""

import csv
import json
import os
import re
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalogue import manifest_parquet
from pipeline.catalogue.inputs import find_songs
from pipeline.catalogue.manifest import MAX_LYRICS_CELL_BYTES
from pipeline.input_file import InputError
from pipeline.lyrics.encoding import MAX_LYRICS_BYTES

from ..measured import call_measured


def read(path, text: str | bytes):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return find_songs(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("commas.csv", r"commas.csv: row 1 \(line 2\) has 4 fields, expected 2 \(audio, lyrics\); put quotes around"),
        ("open_quote.csv", r"open_quote.csv: row 1 \(line 2\), column 'lyrics': a quote is opened and not closed"),
        ("doubled_column.csv", "doubled_column.csv: column 'lyrics' stands there twice"),
        ("misspelt_column.csv", "misspelt_column.csv: column 'lyric' is not known; did you mean 'lyrics'?"),
    ],
)
def test_cases_of_users_that_are_refused(shared, name, message):
    with pytest.raises(InputError, match=message) as caught:
        find_songs(shared / "cases" / name)
    assert "\n" not in str(caught.value)


def test_cases_of_users_that_are_read(shared):
    (song,) = find_songs(shared / "cases" / "nan.csv")
    assert (song.lyrics_text, song.lyrics_path, song.language) == (None, None, "")
    japanese, english = find_songs(shared / "cases" / "raw_language.jsonl")
    assert (japanese.language, english.language) == ("", "en")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('audio,lyrics\na.mp3,"she said \\"hi\\" to me"\n', r'row 1 \(line 2\), column .lyrics.: .*write ""'),
        ('audio,lyrics\nb.mp3,x\na.mp3,"la \\"\n', r'row 2 \(line 3\): \\" is no quote in CSV'),
        ('audio,lyrics\na.mp3,"la la\nb.mp3,lo\nc.mp3,"li li\n', r"row 1 \(line 2\), column 'lyrics': text behind"),
        (
            'audio,lyrics\na.mp3,"la la\nb.mp3,"\n',
            r"column 'lyrics' holds what looks like a row of its own \('b.mp3,'\)",
        ),
        ('audio,lyrics,title\na.mp3,"la la,x\nb.mp3,lo",y\n', "looks like a row of its own"),
        ("audio,lyrics\na.mp3,la\n\nb.mp3\n", r"row 2 \(line 4\) has 1 field, expected 2"),
        ("Audio,lyrics\na.mp3,la\n", "column 'Audio' is not known; did you mean 'audio'"),
        ("audio,langauge\na.mp3,en\n", "column 'langauge' is not known; did you mean 'language'"),
        ("audio,lang\na.mp3,en\n", "did you mean 'language'"),
        ("audio_path,lyrics\na.mp3,la\n", "did you mean 'audio'"),
        ("name,genre\na.mp3,rock\n", r"no 'audio' among the columns \(name, genre\)"),
        ("", "no 'audio' among the columns"),
        ("audio,language\na.mp3,Klingon\n", r"row 1 \(line 2\): language 'Klingon' is not known"),
        ("audio,language\na.mp3,Englsh\n", "did you mean 'english'"),
        ("audio,lyrics\na.mp3,été\n".encode("latin-1"), "line 2 is not UTF-8; save the file as UTF-8"),
        ("audio\tlyrics\r\na.mp3\tx\r\n".encode("utf-16")[:-1], "line .*; save the file as UTF-8"),
        ("audio,lyrics\n,la\n", r"row 1 \(line 2\): no 'audio'"),
        (
            "audio,title\na.mp3,x\na.mp3,y\n",
            r"row 2 \(line 3\): song_id 'a' stands there twice, first in row 1 \(line 2\)",
        ),
    ],
)
def test_csv_that_can_be_read_in_two_ways_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "songs.csv", text)
    assert str(tmp_path / "songs.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\naudio;lyrics\na.mp3;la, la\n",
        "audio;lyrics\r\na.mp3;la, la\r\n",
        "audio\tlyrics\na.mp3\tla, la\n",
        "\ufeffaudio,lyrics\na.mp3,\"la, la\"\n",
        'lyrics, audio\n"la, la",a.mp3\n',
        "audio,lyrics\ra.mp3,\"la, la\"\r",
        "audio,lyrics,,\na.mp3,\"la, la\",,\n,,,\n",
        'audio\tlyrics\r\na.mp3\t"la, la"\r\n'.encode("utf-16"),
        'audio,lyrics,genre\na.mp3,"la, la",rock\n',
    ],
)  # fmt: skip
def test_csv_of_spreadsheets_is_read(tmp_path, text):
    (song,) = read(tmp_path / "songs.csv", text)
    assert (song.audio, song.lyrics_text) == ("a.mp3", "la, la")


def test_quotes_and_line_breaks_within_a_field_are_kept(tmp_path):
    lyrics = 'she said "hi"\nto me, and more\nplay song.mp3 again'
    with (tmp_path / "songs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audio", "lyrics"), ("a.mp3", lyrics)])
    (song,) = find_songs(tmp_path / "songs.csv")
    assert song.lyrics_text == lyrics


def test_columns_that_are_not_read_are_told(tmp_path, caplog):
    read(tmp_path / "songs.jsonl", '{"audio": "a.mp3", "genre": "rock", "bpm": 120, "audio_md5": "0"}')
    assert "columns that are not read: audio_md5, bpm, genre" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audio": "a.mp3", "lyrics": "x"}\n\n{"audio": "b.mp3", "lyric": "x"}', r"row 2 \(line 3\): column 'lyric'"),
        ('{"audio": "a.mp3", "audio": "b.mp3"}', "row 1: .*key 'audio' stands there twice"),
        ('{"audio": "a.mp3",}', "row 1: cannot be read as JSON"),
        ('[{"audio": "a.mp3"}]', "row 1 is list, expected an object"),
        ("[" * 100_000, "row 1: cannot be read as JSON"),
        ('{"audio": "a.mp3", "song_id": ' + "9" * 5_000 + "}", "row 1: cannot be read as JSON"),
        ('{"audio": "a.mp3", "title": true}', "row 1: 'title' is a bool, expected text"),
        ('{"audio": "a.mp3", "title": 1e999}', "row 1: 'title' is a float, expected text"),
        (b'{"audio": "a.mp3", "title": "\xe9"}', "line 1 is not UTF-8"),
        ('{"audio": "https://example.org/a.mp3"}', "is an address; download the file"),
        ('{"audio": "file://server/share/a.mp3"}', "is an address; download the file"),
        ('{"audio": "C:\\\\music\\\\a.mp3"}', "is a path of Windows"),
        ('{"audio": "../a.mp3"}', "lies outside the manifest's folder"),
    ],
)
def test_json_that_is_wrong_names_its_row(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "songs.jsonl", text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "NULL", "null", "<NA>", "", " "])
def test_what_stands_for_nothing_is_nothing(tmp_path, missing):
    row = {"audio": "a.mp3", **dict.fromkeys(("lyrics", "lyrics_path", "song_id", "language", "title"), missing)}
    (song,) = read(tmp_path / "songs.jsonl", json.dumps(row))
    assert (song.song_id, song.lyrics_text, song.lyrics_path, song.language, song.title) == ("a", None, None, "", "")
    (song,) = read(tmp_path / "more.jsonl", '{"audio": "a.mp3", "lyrics": NaN}')
    assert song.lyrics_text is None


def test_names_of_files_are_taken_as_they_are_meant(tmp_path):
    folder, link = tmp_path / "real", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    (folder / "back\\slash.mp3").write_bytes(b"x")
    names = ["file://" + str(folder / "a%20b.mp3"), "sub\\c.mp3", "back\\slash.mp3", str(link / "d.mp3"), "./e.mp3"]
    text = "\n".join(json.dumps({"audio": name, "song_id": number}) for number, name in enumerate(names))
    songs = read(folder / "songs.jsonl", text)
    assert [song.audio for song in songs] == ["a b.mp3", "sub/c.mp3", "back\\slash.mp3", "d.mp3", "e.mp3"]
    assert [song.song_id for song in songs] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("zh-CN", "zh"),
        ("zh_Hant_TW", "zh"),
        ("pt-BR", "pt"),
        ("EN", "en"),
        ("deu", "de"),
        ("日本語", "ja"),
        ("Chinese (Mandarin)", "zh"),
        ("Brazilian Portuguese", "pt"),
        ("nb", "no"),
        ("yue", "zh"),
        ("und", ""),
    ],
)
def test_languages_become_iso_639_1(tmp_path, name, code):
    (song,) = read(tmp_path / "songs.jsonl", json.dumps({"audio": "a.mp3", "language": name}))
    assert song.language == code


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_lyrics_that_are_too_long_are_their_own_song_s_problem(tmp_path, suffix):
    """More than 131,072 characters, csv's own limit, is fine; more than a megabyte is no song."""
    assert MAX_LYRICS_CELL_BYTES == MAX_LYRICS_BYTES
    rows = [{"audio": f"{number}.mp3", "lyrics": "la " * size} for number, size in enumerate((1, 200_000, 400_000))]
    path = tmp_path / f"songs{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    before = csv.field_size_limit()
    short, long, too_long = find_songs(path)
    assert csv.field_size_limit() == before
    assert (short.problem, long.problem) == ("", "")
    assert len(long.lyrics_text) == 600_000
    assert re.search(r"row 3.*: lyrics of 1200000 bytes, expected at most 1000000", too_long.problem)


def test_a_cell_without_end_is_refused_by_its_line(tmp_path):
    with pytest.raises(InputError, match="line 2 has more than 16777216 characters"):
        read(tmp_path / "songs.csv", b'audio,lyrics\na.mp3,"' + b"x" * (17 << 20))
    with pytest.raises(InputError, match=r"row 1 \(line 2\), column 'lyrics': a quote is opened"):
        read(tmp_path / "songs.csv", b'audio,lyrics\na.mp3,"' + (b"la " * 400 + b"\n") * 15_000)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([["a"], ["b"]]), "column 'lyrics' is list<.*>, expected text"),
        (pa.array([0, 10**18], pa.timestamp("ns")), r"column 'lyrics' is timestamp\[ns\], expected text"),
        (pa.array([b"a", b"b"]), "column 'lyrics' is binary, expected text"),
        (pa.array([True, False]), "column 'lyrics' is bool, expected text"),
        (pa.array([1.5, 2.5]), "row 1: 'lyrics' is a float, expected text"),
        (pa.array([b"ok", b"\xff\xfe"]).view(pa.string()), "rows 1 to 2: text is not UTF-8"),
    ],
)
def test_parquet_of_another_kind_is_refused(tmp_path, column, message):
    path = tmp_path / "songs.parquet"
    pq.write_table(pa.table({"audio": ["a.mp3", "b.mp3"], "lyrics": column}), path)
    with pytest.raises(InputError, match=message) as caught:
        find_songs(path)
    assert "\n" not in str(caught.value)


def test_parquet_with_columns_misspelt_or_doubled_is_refused(tmp_path):
    names = pa.array(["a.mp3"])
    for columns, message in ((["audio", "lyric"], "did you mean 'lyrics'"), (["audio", "audio"], "stands there twice")):
        pq.write_table(pa.table([names, names], names=columns), tmp_path / "songs.parquet")
        with pytest.raises(InputError, match=message):
            find_songs(tmp_path / "songs.parquet")


@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("page_version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_parquet_of_every_writer_is_read(tmp_path, compression, page_version, use_dictionary):
    rows = [
        {"audio": f"{n:05}.mp3", "song_id": n, "lyrics": f"line {n % 7}\n" * 50, "title": None, "tags": ["x"]}
        for n in range(3_000)
    ]
    path = tmp_path / "songs.parquet"
    settings = {"compression": compression, "data_page_version": page_version, "use_dictionary": use_dictionary}
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1_000, data_page_size=10_000, **settings)
    songs = {song.song_id: song for song in find_songs(path)}
    assert len(songs) == 3_000
    assert all(songs[str(row["song_id"])].lyrics_text == row["lyrics"] for row in rows)
    pq.write_table(pa.table({"audio": pa.array(["a.mp3"]).dictionary_encode(), "lyrics": [float("nan")]}), path)
    (song,) = find_songs(path)
    assert (song.audio, song.lyrics_text) == ("a.mp3", None)


def _dictionary_bomb(path):
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(8_400, np.int32)), pa.array(["la " * 333_333]))
    pq.write_table(pa.table({"audio": [f"{n}.mp3" for n in range(8_400)], "lyrics": text}), path, compression="zstd")


def _page_bomb(path):
    table = pa.table({"audio": [f"{n}.mp3" for n in range(280)], "lyrics": ["la " * 333_333] * 280})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def _lying_bomb(path):
    """Write a footer that says 8 MB for a page of 280 MB."""
    _page_bomb(path)
    data = path.read_bytes()
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8]
    true = _varint(2 * pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size)
    false = _varint(2 * 8_000_000)
    false = false[:-1] + bytes([false[-1] | 0x80]) + b"\x80" * (len(true) - len(false) - 1) + b"\0"
    assert len(false) == len(true)
    assert true in footer
    path.write_bytes(data[: -8 - size] + footer.replace(true, false) + data[-8:])
    assert pq.read_metadata(path).row_group(0).column(1).total_uncompressed_size == 8_000_000


def _page_beyond_the_end(path):
    """Write a page of a few bytes whose header says 1.4 GB; the rest of the file moves, and does not matter."""
    pq.write_table(pa.table({"audio": ["a.mp3"]}), path, compression="none", use_dictionary=False)
    data = path.read_bytes()
    assert data[4:7] == b"\x15\x00\x15", "a data page, and its size unpacked"
    place = 7 + next(n for n, byte in enumerate(data[7:], 1) if byte < 0x80)
    assert data[place] == 0x15
    end = place + 1 + next(n for n, byte in enumerate(data[place + 1 :], 1) if byte < 0x80)
    path.write_bytes(data[: place + 1] + _varint(2 * 1_472_025_845) + data[end:])


def _varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made += bytes([value & 0x7F | 0x80])
        value >>= 7
    return made + bytes([value])


def _row_bomb(path):
    audio = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000_000, np.int32)), pa.array(["a.mp3"]))
    table = pa.table({"audio": audio, "song_id": np.arange(4_000_000)})
    encoding = {"song_id": "DELTA_BINARY_PACKED"}
    pq.write_table(table, path, compression="zstd", use_dictionary=["audio"], column_encoding=encoding)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_dictionary_bomb, "bytes that become 256 MiB of text and more are no lyrics"),
        (_page_bomb, "bytes that become 267 MiB of text and more are no lyrics"),
        (_lying_bomb, "column 'lyrics' has a page of 280.* bytes"),
        (_row_bomb, "4000000 rows in .* bytes, expected at most"),
        (_page_beyond_the_end, r"column 'audio' has a page that ends at byte 1472\d+, the file has \d+"),
    ],
)
def test_a_small_file_that_becomes_gigabytes_is_refused_at_once(tmp_path, make, message):
    path = tmp_path / "songs.parquet"
    make(path)
    assert path.stat().st_size < 150_000
    error, seconds, peak_mib = call_measured("pipeline.catalogue.inputs", "find_songs", "InputError", path)
    assert re.search(message, error), error
    assert peak_mib < 500
    assert seconds < 3  # 0.3 s at most on a machine that does nothing else


def test_rows_and_text_have_a_limit_of_their_own(tmp_path, monkeypatch):
    pq.write_table(pa.table({"audio": [f"{n}.mp3" for n in range(100)]}), tmp_path / "songs.parquet")
    monkeypatch.setattr(manifest_parquet, "MAX_ROWS", 99)
    with pytest.raises(InputError, match="100 rows .*, expected at most 99; split"):
        find_songs(tmp_path / "songs.parquet")
    monkeypatch.setattr(manifest_parquet, "MAX_ROWS", 100)
    monkeypatch.setattr(manifest_parquet, "MAX_TEXT_BYTES", 400)
    with pytest.raises(InputError, match="of text; split"):
        find_songs(tmp_path / "songs.parquet")


def test_bytes_changed_at_random_end_in_rows_or_in_an_input_error(tmp_path):
    generator = np.random.default_rng(5)
    rows = [{"audio": f"{n}.mp3", "song_id": str(n), "lyrics": f"la {n}\nla"} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "songs.parquet")
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "songs.csv").write_text(
        "audio,song_id,lyrics\n" + "".join(f'{n}.mp3,{n},"la\nla"\n' for n in range(20))
    )
    for suffix in ("parquet", "jsonl", "csv"):
        source = (tmp_path / f"songs.{suffix}").read_bytes()
        for _ in range(200):
            data = bytearray(source)
            for place in generator.integers(0, len(data), 3):
                data[place] = generator.integers(256)
            (tmp_path / f"changed.{suffix}").write_bytes(data)
            try:
                assert find_songs(tmp_path / f"changed.{suffix}")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017 - most of them are read


def test_a_pipe_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "songs.jsonl")
    with pytest.raises(InputError, match="neither a folder nor a manifest"):
        find_songs(tmp_path / "songs.jsonl")
