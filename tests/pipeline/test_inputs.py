import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs import InputError, find_songs


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
