import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from jobs.clean_survey import Survey, find_originals, settle
from jobs.output_folder import claim_folder
from pipeline.catalogue.inputs import SongInput, find_songs
from pipeline.cleaning.check_audio import CheckAudio
from pipeline.cleaning.clean_song import CleanSettings, start_song
from pipeline.cleaning.records import read_record
from pipeline.input_file import InputError
from pipeline.model_files.profiles import get_profile
from pipeline.song import Drop, Song
from pipeline.stage import StageError

pytestmark = pytest.mark.demo_weights

SETTINGS = CleanSettings(profile=get_profile("miniature"))
RATE = 22_050


def melody(seed: int, seconds: float = 8.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        time_s = np.arange(int(random.uniform(0.1, 0.4) * RATE)) / RATE
        notes = [np.sin(2 * np.pi * pitch * time_s) for pitch in random.uniform(150, 3_000, size=3)]
        parts.append(sum(notes) * np.exp(-6 * time_s))
    return (0.1 * np.concatenate(parts)[: int(seconds * RATE)]).astype(np.float32)


def survey(raw: Path, out: Path, settings: CleanSettings = SETTINGS) -> list[dict]:
    worker = Survey(out, settings, settings.fingerprint())
    return [worker({"source": source}) for source in find_songs(raw)]


def put(path: Path, samples: np.ndarray, lyrics: str = "a line to sing\nand another") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)
    if lyrics:
        path.with_suffix(".txt").write_text(lyrics)


def reason(out: Path, song_id: str) -> str:
    record = read_record(out, song_id)
    assert record is not None
    return record["quarantine"]["reason"] if "quarantine" in record else record["row"]["reason"]


def test_what_needs_no_listening_is_settled(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "a.wav", melody(0))
    put(raw / "b.mp3", 0.3 * melody(0))  # the same recording, lossy, quieter
    put(raw / "c.wav", melody(0))  # the same bytes
    put(raw / "d.wav", melody(1), lyrics="")
    put(raw / "e.wav", melody(2)[: RATE // 2])
    put(raw / "f.wav", melody(3), lyrics="http://lyrics.example.com\nLyrics by: nobody")
    put(raw / "g.wav", melody(4))
    (raw / "h.wav").write_text("no audio")
    os.mkfifo(raw / "i.wav")
    (raw / "j.wav").symlink_to("k.wav")
    (raw / "k.wav").symlink_to("j.wav")
    todo, num_finished = settle(out, survey(raw, out), SETTINGS)
    assert [row["source"].song_id for row in todo] == ["a", "g"]
    assert num_finished == 0
    assert {name: reason(out, name) for name in "bcdef"} == {
        "b": "duplicate",
        "c": "duplicate",
        "d": "no_lyrics",
        "e": "too_short",
        "f": "no_lyrics",
    }
    assert "same recording as a" in read_record(out, "b")["row"]["detail"]
    assert "same bytes as a" in read_record(out, "c")["row"]["detail"]
    assert {name: reason(out, name) for name in "hijk"} == {
        "h": "no known audio format: Invalid data found when processing input",
        "i": "not a regular file",
        "j": "cannot be opened: Too many levels of symbolic links",
        "k": "cannot be opened: Too many levels of symbolic links",
    }
    assert read_record(out, "f")["row"]["dropped"]


def test_a_second_look_repeats_nothing_but_judges_copies_anew(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "a.mp3", melody(0))
    put(raw / "b.wav", melody(0))
    put(raw / "e.wav", melody(2)[: RATE // 2])
    todo, _ = settle(out, survey(raw, out), SETTINGS)
    assert [row["source"].song_id for row in todo] == ["b"], "the better file of one recording is kept"
    assert reason(out, "a") == "duplicate"
    todo, num_finished = settle(out, survey(raw, out), SETTINGS)
    assert (len(todo), num_finished) == (1, 1)
    (raw / "b.wav").unlink()
    todo, _ = settle(out, survey(raw, out), SETTINGS)
    assert [row["source"].song_id for row in todo] == ["a"], "no copy any more"


def test_a_copy_with_lyrics_goes_before_a_better_one_without(tmp_path):
    raw = tmp_path / "raw"
    put(raw / "a.wav", melody(0), lyrics="")
    put(raw / "b.mp3", melody(0))
    assert list(find_originals(survey(raw, tmp_path / "out"))) == ["a"]


@pytest.mark.parametrize(
    ("lyrics", "is_copy"),
    [
        ("a line to sing\nand another", True),
        ("[verse]\nA line to sing!\nhttp://lyrics.example.com", True),
        ("", True),
        ("something else entirely\nof another song", False),
        ("sing to a line", False),
    ],
)
def test_one_recording_with_the_lyrics_of_two_songs_is_listened_to_twice(tmp_path, lyrics, is_copy):
    """Two songs can share an accompaniment, and of two texts of one recording the wrong one must not win."""
    raw = tmp_path / "raw"
    put(raw / "a.wav", melody(0))
    put(raw / "b.mp3", melody(0), lyrics=lyrics)
    assert list(find_originals(survey(raw, tmp_path / "out"))) == (["b"] if is_copy else [])


def test_equal_bytes_are_copies_whatever_their_lyrics(tmp_path):
    raw = tmp_path / "raw"
    put(raw / "a.wav", melody(0))
    put(raw / "b.wav", melody(0), lyrics="something else entirely\nof another song")
    assert list(find_originals(survey(raw, tmp_path / "out"))) == ["b"]


def test_songs_without_lyrics_are_listened_to_if_asked(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "d.wav", melody(1), lyrics="")
    settings = CleanSettings(profile=get_profile("miniature"), lyrics_from_asr=True)
    todo, _ = settle(out, survey(raw, out, settings), settings)
    assert len(todo) == 1


@pytest.mark.parametrize("text", ["x" * 100_000, "la " * 33_000, "\u202e\u200b\ufeff\n\0\n", " \n\t"])
def test_monstrous_lyrics_end_in_the_survey(tmp_path, text):
    raw = tmp_path / "raw"
    put(raw / "a.wav", melody(0), lyrics=text)
    (row,) = survey(raw, tmp_path / "out")
    todo, _ = settle(tmp_path / "out", [row], SETTINGS)
    assert not todo
    assert reason(tmp_path / "out", "a") in ("lyrics_mismatch", "no_lyrics")


def test_an_unreadable_file_goes_to_quarantine(tmp_path):
    put(tmp_path / "raw" / "a.wav", melody(0))
    (tmp_path / "raw" / "a.wav").chmod(0)
    if os.access(tmp_path / "raw" / "a.wav", os.R_OK):
        pytest.skip("this user can read everything")
    (row,) = survey(tmp_path / "raw", tmp_path / "out")
    assert row["quarantine"] == "no permission to read"


def test_a_pipe_as_lyrics_does_not_hang(tmp_path):
    put(tmp_path / "a.wav", melody(0), lyrics="")
    os.mkfifo(tmp_path / "pipe.txt")
    source = SongInput("a", tmp_path / "a.wav", "a.wav", lyrics_path=tmp_path / "pipe.txt")
    row = Survey(tmp_path / "out", SETTINGS, "settings")({"source": source})
    assert not row["num_letters"]


def test_one_run_per_folder(tmp_path):
    with (
        claim_folder(tmp_path, tmp_path / "lock", "cleaning"),
        pytest.raises(InputError, match="another cleaning writes to this folder"),
        claim_folder(tmp_path, tmp_path / "lock", "cleaning"),
    ):
        pass
    with claim_folder(tmp_path, tmp_path / "lock", "cleaning"):
        pass


def test_whatever_a_file_does_to_a_library_is_recorded_and_tried_again(tmp_path, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "a.wav", melody(0))
    put(raw / "b.wav", melody(1))
    whole = CheckAudio.process

    def process(self: CheckAudio, song: Song) -> Song | Drop:
        if song.path.name == "a.wav":
            raise ValueError("Frame does not match AudioResampler setup")
        return whole(self, song)

    monkeypatch.setattr(CheckAudio, "process", process)
    todo, _ = settle(out, survey(raw, out), SETTINGS)
    assert [row["source"].song_id for row in todo] == ["b"]
    failed = read_record(out, "a")["failed"]
    assert failed["reason"] == "ValueError: Frame does not match AudioResampler setup"
    monkeypatch.undo()
    todo, _ = settle(out, survey(raw, out), SETTINGS)
    assert [(row["source"].song_id, row["failed_before"]) for row in todo] == [("a", True), ("b", False)]


def test_facts_that_cannot_be_written_are_no_fault_of_a_song(tmp_path):
    put(tmp_path / "raw" / "a.wav", melody(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".checked").write_text("a file where a folder belongs")
    with pytest.raises(StageError, match=r"\.checked.* cannot be written: .*directory"):
        survey(tmp_path / "raw", tmp_path / "out")


def test_lyrics_and_names_inside_a_file_are_a_source_below_those_beside_it(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("a", "b"):
        put(raw / f"{name}.wav", melody(ord(name)), lyrics="beside the file" if name == "b" else "")
        samples, rate = soundfile.read(raw / f"{name}.wav")
        (raw / f"{name}.wav").unlink()
        with av.open(str(raw / f"{name}.flac"), "w") as container:
            container.metadata.update({"TITLE": "Night Walk", "LYRICS": "a line within\nthe file itself"})
            stream = container.add_stream("flac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray((samples[None] * 32_767).astype("int16"), format="s16", layout="mono")
            frame.rate = rate
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    todo, _ = settle(out, survey(raw, out), SETTINGS)
    texts = {row["source"].song_id: start_song(row["source"], row["sha256"]).lyrics_text for row in todo}
    assert texts == {"a": "a line within\nthe file itself", "b": "beside the file"}
    assert {row["source"].title for row in todo} == {"Night Walk"}


def test_lyrics_under_another_name_are_told(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    put(raw / "song.wav", melody(0), lyrics="")
    put(raw / "other.wav", melody(1), lyrics="la la")
    (raw / "song_lyrics.txt").write_text("a line to sing")
    settle(out, survey(raw, out), SETTINGS)
    assert "song_lyrics.txt" in read_record(out, "song")["row"]["detail"]
