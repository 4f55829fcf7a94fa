"""What one finished song leaves in the output folder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.clean_song import finish_song
from pipeline.song import Drop, Section, Song


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
@pytest.mark.parametrize("drop", [None, Drop("low_coverage")])
def test_vocals_are_kept_at_the_rate_of_the_input(tmp_path: Path, rate: int, drop: Drop | None) -> None:
    vocals = np.random.default_rng(0).uniform(-0.5, 0.5, (2, rate // 2)).astype(np.float32)
    song = Song(song_id="album/song", path=tmp_path / "x.mp3", audio="x.mp3", vocals=vocals, sample_rate=rate)
    song.duration_s, song.sections = 0.5, [Section("inst", 0.0, 0.5)]
    finish_song(tmp_path, song, drop, "f", keep_vocals=True)
    (path,) = (tmp_path / "vocals").iterdir()
    assert path.name == "album__song.flac"
    kept, kept_rate = soundfile.read(path, dtype="float32")
    assert kept_rate == rate
    assert np.abs(kept.T - vocals).max() < 1e-4  # 16 bits
    finish_song(tmp_path / "second", song, drop, "f")
    assert not (tmp_path / "second" / "vocals").exists()
