from pathlib import Path

import numpy as np
import soundfile

from pipeline.audio.decode import hash_file
from pipeline.cleaning import checked_audio
from pipeline.cleaning.check_audio import CheckAudio
from pipeline.cleaning.checked_audio import check_file
from pipeline.song import Song


def noise_file(path: Path, seconds: float = 3.0) -> str:
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((int(8_000 * seconds), 2)), 8_000)
    return hash_file(path)


def test_facts_are_kept_by_content_and_fill_a_song(tmp_path, monkeypatch):
    sha256 = noise_file(tmp_path / "a.wav")
    first = check_file(tmp_path, tmp_path / "a.wav", sha256, CheckAudio())
    monkeypatch.setattr(checked_audio, "_check", lambda *_: 1 / 0)  # a second decoding would fail
    again = check_file(tmp_path, tmp_path / "moved.wav", sha256, CheckAudio())
    assert again == first
    assert (again.landmarks.names == first.landmarks.names).all()
    song = Song(song_id="a", path=tmp_path / "a.wav", audio="a.wav")
    again.fill(song)
    assert (song.duration_s, song.sample_rate, song.channels) == (3.0, 8_000, 2)
    assert song.metrics["lufs"] < 0


def test_other_thresholds_mean_another_look(tmp_path):
    sha256 = noise_file(tmp_path / "a.wav")
    assert check_file(tmp_path, tmp_path / "a.wav", sha256, CheckAudio()).drop is None
    strict = CheckAudio(CheckAudio.Config(min_duration_s=5.0))
    checked = check_file(tmp_path, tmp_path / "a.wav", sha256, strict)
    assert checked.drop is not None
    assert checked.drop.reason == "too_short"


def test_what_holds_no_audio_is_remembered_too(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    for _ in range(2):
        assert "no known audio format" in check_file(tmp_path, tmp_path / "a.wav", "ab12", CheckAudio()).unreadable


def test_a_damaged_file_of_facts_counts_as_none(tmp_path):
    sha256 = noise_file(tmp_path / "a.wav")
    first = check_file(tmp_path, tmp_path / "a.wav", sha256, CheckAudio())
    (kept,) = (tmp_path / ".checked").glob("*/*.json")
    for rubbish in ("", "{", "[1]", '{"speed": 3}'):
        kept.write_text(rubbish)
        assert check_file(tmp_path, tmp_path / "a.wav", sha256, CheckAudio()) == first
