import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jobs import bench
from pipeline.input_file import InputError
from pipeline.model_files.profiles import get_profile
from pipeline.separation.demucs_weights import load_separator

PROFILE = get_profile("miniature")


@pytest.fixture
def songs(tmp_path) -> Path:
    folder = tmp_path / "songs"
    folder.mkdir()
    for name in ("a", "b", "mute"):
        soundfile.write(folder / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(24_000), 24_000)
    (folder / "a.txt").write_text("a line")
    (folder / "b.txt").write_text("a line")
    return folder


def test_both_sides_get_the_same_songs_and_the_same_separator(songs, tmp_path):
    from demucs.pretrained import get_model

    setup = bench.prepare(songs, PROFILE, tmp_path / "scratch", None)
    assert [song.path.name for song in setup.songs] == ["a.wav", "b.wav"]
    rival = get_model(bench.RIVAL_MODEL, tmp_path / "scratch" / "repo").state_dict()
    ours = load_separator(PROFILE.model_path("separator")).state_dict()
    assert rival.keys() == ours.keys()
    assert all(torch.equal(rival[name], ours[name]) for name in ours)


def test_the_stand_in_for_ffmpeg_decodes_as_it_does(songs, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.shutil, "which", lambda _: None)
    setup = bench.prepare(songs, PROFILE, tmp_path / "scratch", None)
    command = [setup.folder / "bin" / "ffmpeg", "-nostdin", "-threads", "0", "-i", songs / "a.wav", "-f", "s16le"]
    command += ["-ac", "1", "-acodec", "pcm_s16le", "-ar", "16000", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert len(done.stdout) == pytest.approx(2 * 16_000, abs=64)


def test_nothing_to_compare_is_said(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 8_000)
    with pytest.raises(InputError, match="nothing to compare"):
        bench.prepare(tmp_path, PROFILE, tmp_path / "scratch", None)
