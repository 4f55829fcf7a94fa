import unicodedata

import pytest

from pipeline.catalogue.pair_lyrics import LyricsFolder, is_leftover, loose_key, split_language


def pair(folder, audio, *names, is_only_song=False, content=b"la la"):
    for name in names:
        (folder / name).write_bytes(content)
    return LyricsFolder(folder, [audio, *names]).pair(audio, is_only_song=is_only_song)


@pytest.mark.parametrize(
    ("audio", "lyrics", "language"),
    [
        ("song.mp3", "Song.LRC", ""),
        ("Song.MP3", "song.lrc", ""),
        ("song.mp3", "song.mp3.lrc", ""),
        ("song.mp3", "Song.Mp3.TXT", ""),
        (unicodedata.normalize("NFD", "Café.mp3"), unicodedata.normalize("NFC", "Café.lrc"), ""),
        (unicodedata.normalize("NFC", "노래.mp3"), unicodedata.normalize("NFD", "노래.lrc"), ""),
        (unicodedata.normalize("NFD", "ÉTÉ.mp3"), unicodedata.normalize("NFC", "été.txt"), ""),
        ("Straße.mp3", "STRASSE.lrc", ""),
        ("song.mp3", "song.en.lrc", "en"),
        ("song.mp3", "song.mp3.en.lrc", "en"),
        ("song.mp3", "song.pt-BR.vtt", "pt"),
        ("song.mp3", "song.zh-Hans.lrc", "zh"),
        ("song.mp3", "song.zh-Hant-TW.lrc", "zh"),
        ("song.mp3", "song.deu.txt", "de"),
        ("a-de.mp3", "a-de-en.lrc", "en"),
        ("song.mp3", "song_ko.lrc", "ko"),
        ("song.mp3", "song [English].txt", "en"),
        ("song.mp3", "song (日本語).lrc", "ja"),
        ("title [dQw4w9WgXcQ].m4a", "title [dQw4w9WgXcQ].en.vtt", "en"),
        *[("song.mp3", f"song.{suffix}", "") for suffix in "lrcx elrc krc qrc yrc srt vtt sbv smi ass ssa".split()],
        *[("song.mp3", f"song.{suffix}", "") for suffix in "ttml json tsv".split()],
    ],
)
def test_lyrics_are_found_by_folded_names_and_language_tags(tmp_path, audio, lyrics, language):
    found = pair(tmp_path, audio, lyrics)
    assert (found.path, found.language, found.hint) == (tmp_path / lyrics, language, "")


@pytest.mark.parametrize(
    "lyrics",
    ["song2.lrc", "song (Live).lrc", "song (English version).txt", "song.info.json", "song.bak.tsv", "my song.lrc"],
)
def test_other_names_are_other_songs(tmp_path, lyrics):
    assert pair(tmp_path, "song.mp3", lyrics).path is None


@pytest.mark.parametrize(
    ("best", "others"),
    [
        ("song.lrc", ["song.txt", "song.en.lrc", "song.srt"]),
        ("song.txt", ["song.en.lrc", "song.ko.lrc"]),
        ("song.ttml", ["song.lrc"]),
        ("song.lrcx", ["song.lrc"]),
        ("song.srt", ["song.txt"]),
        ("song.txt", ["song.json", "song.tsv"]),
        ("song.en.lrc", ["song.en.txt"]),
        ("Song.LRC", ["song.txt"]),
    ],
)
def test_of_several_files_the_untagged_then_the_timed_one_is_taken(tmp_path, best, others):
    assert pair(tmp_path, "song.mp3", *others, best).path == tmp_path / best


@pytest.mark.parametrize("empty", [b"", b" \n\t\r\n", b"\xef\xbb\xbf\n", b"\xff\xfe"])
def test_an_empty_file_counts_as_none(tmp_path, empty):
    (tmp_path / "song.lrc").write_bytes(empty)
    assert (
        "song.lrc: empty" in LyricsFolder(tmp_path, ["song.mp3", "song.lrc"]).pair("song.mp3", is_only_song=True).hint
    )
    (tmp_path / "song.txt").write_text("la")
    folder = LyricsFolder(tmp_path, ["song.mp3", "song.lrc", "song.txt"])
    assert folder.pair("song.mp3", is_only_song=True).path == tmp_path / "song.txt"
    assert list(folder.passed_over()) == [("song.lrc", "empty")]


def test_what_only_its_player_reads_is_named(tmp_path):
    assert "encrypted" in pair(tmp_path, "song.mp3", "song.qrc", content=b"\x98\x25\xb0\xac" + b"\x93" * 900).hint


def test_a_pipe_and_a_dead_link_are_no_lyrics(tmp_path):
    (tmp_path / "song.lrc").symlink_to("gone.lrc")
    (tmp_path / "song.txt").mkdir()
    found = LyricsFolder(tmp_path, ["song.mp3", "song.lrc", "song.txt"]).pair("song.mp3", is_only_song=True)
    assert found.path is None
    assert "song.lrc: cannot be opened: No such file" in found.hint
    assert "song.txt: not a regular file" in found.hint


def test_two_songs_whose_names_differ_in_case_keep_their_own_lyrics(tmp_path):
    for name in ("Song.lrc", "song.txt"):
        (tmp_path / name).write_text("la")
    folder = LyricsFolder(tmp_path, ["Song.mp3", "song.mp3", "Song.lrc", "song.txt"])
    assert folder.pair("Song.mp3", is_only_song=False).path == tmp_path / "Song.lrc"
    assert folder.pair("song.mp3", is_only_song=False).path == tmp_path / "song.txt"


def test_a_song_whose_own_name_ends_like_a_language_keeps_its_lyrics(tmp_path):
    (tmp_path / "song.en.lrc").write_text("la")
    folder = LyricsFolder(tmp_path, ["song.mp3", "song.en.mp3", "song.en.lrc"])
    assert folder.pair("song.mp3", is_only_song=False).path is None
    found = folder.pair("song.en.mp3", is_only_song=False)
    assert (found.path, found.language) == (tmp_path / "song.en.lrc", "")


def test_lyrics_without_a_name_are_those_of_the_only_song(tmp_path):
    assert pair(tmp_path, "mix.wav", "Lyrics.TXT", is_only_song=True).path == tmp_path / "Lyrics.TXT"
    assert pair(tmp_path, "mix.wav", "Lyrics.TXT", is_only_song=False).path is None
    assert pair(tmp_path, "mix.wav", "lyrics.json", is_only_song=True).path is None


def test_two_languages_are_named_and_not_guessed(tmp_path):
    found = pair(tmp_path, "song.mp3", "song.en.lrc", "song.ko.lrc")
    assert found.path is None
    assert found.hint == (
        "song.en.lrc, song.ko.lrc: which language is sung is not known; call that file song.lrc, or name it in a "
        "manifest's lyrics_path"
    )


def test_a_language_that_is_known_decides_between_two(tmp_path):
    for name in ("song.en.lrc", "song.ko.lrc"):
        (tmp_path / name).write_text("la")
    folder = LyricsFolder(tmp_path, ["song.mp3", "song.en.lrc", "song.ko.lrc"])
    found = folder.pair("song.mp3", is_only_song=False, language="ko")
    assert (found.path, found.language) == (tmp_path / "song.ko.lrc", "ko")
    found = folder.pair("song.mp3", is_only_song=False, language="de")
    assert found.path is None
    assert found.hint.startswith("song.en.lrc: another language than the song's (de)")


@pytest.mark.parametrize(
    ("audio", "name"),
    [
        ("song.mp3", "song_lyrics.txt"),
        ("song.mp3", "lyrics of song.txt"),
        ("01 - My Song.mp3", "My_Song.lrc"),
        ("My Song.mp3", "01. My Song (lyrics).txt"),
        ("노래.mp3", "노래 가사.txt"),
    ],
)
def test_lyrics_under_a_name_that_is_not_taken_are_hinted_at(tmp_path, audio, name):
    hint = pair(tmp_path, audio, name).hint
    assert hint.startswith(f"{name}: not taken for its lyrics; call the file {audio[:-4]}{name[-4:]} beside it")


def test_a_lone_text_beside_the_only_song_is_hinted_at_but_no_readme(tmp_path):
    assert "words.txt" in pair(tmp_path, "mix.mp3", "words.txt", is_only_song=True).hint
    assert pair(tmp_path, "mix.mp3", "README.txt", is_only_song=True).hint == ""
    assert pair(tmp_path, "mix.mp3", "other.txt", is_only_song=False).hint == ""


def test_a_hint_is_one_line_that_can_be_written(tmp_path):
    hint = pair(tmp_path, "a\nb\udcff.mp3", "a\nb\udcff lyrics.txt").hint
    assert hint
    assert len(hint.encode().splitlines()) == 1


def test_every_file_that_no_song_takes_has_a_reason(tmp_path):
    names = ["song.lrc", "song.txt", "other.lrc", "song.info.json"]
    for name in names:
        (tmp_path / name).write_text("la")
    folder = LyricsFolder(tmp_path, ["song.mp3", *names])
    folder.pair("song.mp3", is_only_song=True)
    assert dict(folder.passed_over()) == {
        "song.txt": "other lyrics of the song are preferred",
        "other.lrc": "no song of this name",
        "song.info.json": "not audio or lyrics",
    }


@pytest.mark.parametrize("name", ["._mix.mp3", ".DS_Store", "Thumbs.db", "~$song.txt", "desktop.ini", ".nfs0001"])
def test_leftovers_are_known_by_name(name):
    assert is_leftover(name)
    assert not is_leftover("mix.mp3")


@pytest.mark.parametrize("name", ["__MACOSX", ".Trash", ".Trash-1000", "@eaDir", "#recycle", ".AppleDouble"])
def test_folders_of_leftovers_are_known_by_name(name):
    assert is_leftover(name, is_folder=True)
    assert not is_leftover("Trash Talk", is_folder=True)


def test_tags_and_loose_names_of_any_length_are_read_at_once():
    long = "a." * 100_000
    assert split_language(long) == []
    assert loose_key("[" * 200_000) == ""
