import json
import logging
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalogue.inputs import LOCK, find_songs, scan
from pipeline.input_file import InputError


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_songs_and_their_lyrics_are_found_in_a_tree(tmp_path):
    put(tmp_path, "a.mp3", "a.txt", "b/c.FLAC", "b/c.lrc", "b/c.txt", "d/mix.wav", "d/lyrics.txt", "e/1.ogg", "e/2.ogg")
    put(tmp_path, "e/lyrics.txt", "notes.pdf", "f/alone.m4a")
    songs = {song.song_id: song for song in find_songs(tmp_path)}
    assert list(songs) == ["a", "b/c", "d/mix", "e/1", "e/2", "f/alone"]
    lyrics = {
        name: song.lyrics_path and song.lyrics_path.relative_to(tmp_path).as_posix() for name, song in songs.items()
    }
    assert lyrics == {
        "a": "a.txt",
        "b/c": "b/c.lrc",
        "d/mix": "d/lyrics.txt",
        "e/1": None,
        "e/2": None,
        "f/alone": None,
    }


def test_two_files_of_one_name_are_two_songs(tmp_path):
    put(tmp_path, "a.mp3", "a.flac")
    assert [song.song_id for song in find_songs(tmp_path)] == ["a.flac", "a.mp3"]


def test_a_link_back_to_a_folder_is_walked_once(tmp_path):
    put(tmp_path, "x/a.mp3")
    (tmp_path / "x" / "self").symlink_to(tmp_path / "x")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert [song.song_id for song in find_songs(tmp_path)] == ["loop", "x/a"]


def test_a_name_that_is_no_text_is_named_and_not_lost(tmp_path):
    put(tmp_path, "a.mp3")
    os.rename(tmp_path / "a.mp3", os.fsencode(tmp_path) + b"/\xff.mp3")
    (song,) = find_songs(tmp_path)
    assert "UTF-8" in song.problem
    assert song.audio.encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_manifests_say_the_same_in_every_format(tmp_path, suffix):
    put(tmp_path, "audio/a.mp3", "audio/a.txt", "audio/b.mp3")
    rows = [
        {"audio": "audio/a.mp3", "lyrics": "", "song_id": "one", "language": "en", "title": "T", "artist": ""},
        {"audio": "audio/b.mp3", "lyrics": "la, la\nla", "song_id": "", "language": "", "title": "", "artist": "B"},
    ]
    path = tmp_path / f"songs{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        path.write_text("audio,lyrics,song_id,language,title,artist\n"
                        'audio/a.mp3,,one,en,T,\naudio/b.mp3,"la, la\nla",,,,B\n')  # fmt: skip
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    second, first = find_songs(path)
    assert (first.song_id, first.language, first.title) == ("one", "en", "T")
    assert first.lyrics_path == tmp_path / "audio" / "a.txt"
    assert (second.song_id, second.lyrics_text, second.artist) == ("audio/b", "la, la\nla", "B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audio": "../../etc/passwd"}', "outside"),
        ('{"audio": "a.mp3", "lyrics_path": "/etc/passwd"}', "outside"),
        ('{"lyrics": "x"}', "no 'audio'"),
        ('{"audio": "a.mp3", "song_id": "x"}\n{"audio": "b.mp3", "song_id": "x"}', "twice"),
        ("[1]", "expected an object"),
        ("{", "cannot be read"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_which_row(tmp_path, text, message):
    (tmp_path / "songs.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        find_songs(tmp_path / "songs.jsonl")


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no songs found"):
        find_songs(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_songs(tmp_path / "raw")


def test_a_name_that_looks_like_another_name_with_its_suffix_is_a_song_of_its_own(tmp_path):
    put(tmp_path, "a.mp3", "a.flac", "a.mp3.wav")
    ids = [song.song_id for song in find_songs(tmp_path)]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "."}, "names no file"),
        ({"audio": "a" * 5000}, "names no file"),
        ({"audio": "a\0.mp3"}, "names no file"),
        ({"audio": "a.mp3", "lyrics": ["l1", "l2"]}, "'lyrics' is a list"),
        ({"audio": "a.mp3", "language": {"en": 1}}, "'language' is a dict"),
    ],
)
def test_manifest_values_of_another_kind_are_refused(tmp_path, row, message):
    (tmp_path / "songs.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        find_songs(tmp_path / "songs.jsonl")


def test_half_an_emoji_is_replaced(tmp_path):
    (tmp_path / "songs.jsonl").write_text('{"audio": "a.mp3", "title": "x \\ud83c", "lyrics": "la \\ud83c la"}')
    (song,) = find_songs(tmp_path / "songs.jsonl")
    assert song.title == "x ?"
    assert song.lyrics_text.encode()


def count_files(root):
    return sum(len(names) for _, _, names in os.walk(root))


def test_every_file_of_a_folder_counts_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "a.mp3", "a.flac", "a.lrc", "a.txt", "b.mp3", "b.en.lrc", "c.mp3", "lost.LRC", "cover.JPG", "x.json")
    put(tmp_path, "._a.mp3", ".DS_Store", "__MACOSX/._b.mp3", "__MACOSX/d/e.mp3", ".Trash-1000/files/f.mp3", "Makefile")
    put(tmp_path, "@eaDir/g.mp3/x.jpg", "songs.csv", "odd.thisisnosuffixatall")
    (tmp_path / "c.lrc").touch()
    found = scan(tmp_path)
    assert [song.audio for song in found.songs] == ["a.flac", "a.mp3", "b.mp3", "c.mp3"]
    assert found.passed_over == {
        ".mp3: left behind by a file system": 4,
        "no suffix: not audio or lyrics": 2,
        ".csv: not audio or lyrics": 1,
        ".jpg: left behind by a file system": 1,
        ".jpg: not audio or lyrics": 1,
        ".json: not audio or lyrics": 1,
        ".lrc: empty": 1,
        ".lrc: no song of this name": 1,
        ".txt: other lyrics of the song are preferred": 1,
        "no suffix: left behind by a file system": 1,
    }
    lyrics = {song.lyrics_path for song in found.songs if song.lyrics_path}
    assert len(found.songs) + len(lyrics) + sum(found.passed_over.values()) == count_files(tmp_path)
    assert "passed over: 4 .mp3: left behind by a file system; 2 no suffix: not audio or lyrics; 1 .csv" in caplog.text
    assert find_songs(tmp_path) == found.songs


def test_a_language_in_the_name_of_lyrics_is_that_of_the_song(tmp_path):
    put(tmp_path, "song.mp3", "song.ko.lrc", "other.mp3", "other.lrc")
    assert [(song.song_id, song.language) for song in find_songs(tmp_path)] == [("other", ""), ("song", "ko")]


def test_lyrics_in_another_folder_are_hinted_at(tmp_path):
    put(tmp_path, "audio/My Song.mp3", "lyrics/my_song.txt", "audio/01.mp3", "lyrics/01.txt")
    first, song = find_songs(tmp_path)
    assert song.lyrics_path is None
    assert song.hint == (
        "lyrics/my_song.txt: not taken for its lyrics; call the file My Song.txt beside it, or name it in a manifest's "
        "lyrics_path"
    )
    assert first.hint == ""  # "01" is a name that any song may have


def test_what_cleaning_wrote_is_no_input(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "a.mp3", f"clean/{LOCK}", "clean/vocals/a.flac", "clean/lyrics/a.lrc", "b/c.mp3")
    assert [song.song_id for song in find_songs(tmp_path)] == ["a", "b/c"]
    assert "clean: not read, cleaning wrote it" in caplog.text
    with pytest.raises(InputError, match="cleaning wrote this folder; name the one with the audio"):
        find_songs(tmp_path / "clean")


def test_a_folder_without_songs_says_what_it_holds(tmp_path):
    put(tmp_path, "a.pdf", "b.pdf", "c.lrc")
    with pytest.raises(InputError, match=r"no songs found \(passed over: 2 .pdf: not audio or lyrics; 1 .lrc: no song"):
        find_songs(tmp_path)


def test_a_manifest_finds_lyrics_beside_its_audio_by_the_same_names(tmp_path):
    put(tmp_path, "x/Song.mp3", "x/song.en.LRC", "x/b.mp3", "x/b_lyrics.txt")
    rows = [{"audio": "x/Song.mp3"}, {"audio": "x/b.mp3", "language": "ko"}, {"audio": "gone/c.mp3"}]
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    gone, song, other = find_songs(tmp_path / "songs.jsonl")
    assert (gone.lyrics_path, gone.hint) == (None, "")
    assert (song.lyrics_path, song.language) == (tmp_path / "x/song.en.LRC", "en")
    assert (other.lyrics_path, other.language) == (None, "ko")
    assert other.hint.startswith("b_lyrics.txt: not taken for its lyrics; call the file b.txt beside it")
    assert scan(tmp_path / "songs.jsonl").passed_over == {}
