"""What identifies a cleaned song, and what one finished song leaves in the output folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.cleaning import clean_song
from pipeline.cleaning.clean_song import CleanSettings, finish_song
from pipeline.model_files.errors import ModelNotFoundError
from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.model_files.profiles import PROFILES
from pipeline.song import Drop, Section, Song

SETTINGS = CleanSettings(profile=PROFILES["miniature"])


@pytest.fixture
def small_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CleanSettings:
    """Settings whose models need no package: the separator's files stand for all of them."""
    monkeypatch.setattr(clean_song, "MODELS", ("separator",))
    folder = shutil.copytree(MINIATURE_FOLDER / "separator", tmp_path / "separator")
    return replace(SETTINGS, profile=replace(SETTINGS.profile, separator=str(folder), aligner="whisper"))


@pytest.mark.parametrize(
    "changes",
    [
        {"muq": "another"},
        {"vae": "another"},
        {"codebook": "another"},
        {"muq_layer": 9},
        {"vae_chunk_s": 30.0},
        {"prompts_per_song": 2},
        {"gpu_batch": 64},
        {"name": "mine"},
    ],
)
def test_what_only_extraction_reads_cleans_no_song_again(small_models, changes) -> None:
    other = replace(small_models, profile=replace(small_models.profile, **changes))
    assert other.fingerprint() == small_models.fingerprint()


def test_the_same_models_in_another_place_clean_no_song_again(small_models, tmp_path) -> None:
    moved = shutil.copytree(small_models.profile.separator, tmp_path / "elsewhere")
    (moved / "README.md").write_text("a note")
    other = replace(small_models, profile=replace(small_models.profile, separator=str(moved)))
    assert other.fingerprint() == small_models.fingerprint()
    assert str(tmp_path) not in str(other.facts())


@pytest.mark.parametrize(
    "changes", [{"separator_overlap": 0.5}, {"separator_precision": "bfloat16"}, {"accompaniment_share": 0.1}]
)
def test_settings_that_decide_a_song_are_in_its_fingerprint(small_models, changes) -> None:
    other = replace(small_models, profile=replace(small_models.profile, **changes))
    assert other.fingerprint() != small_models.fingerprint()


@pytest.mark.parametrize("changes", [{"language": "de"}, {"max_duration_s": 60.0}, {"lyrics_from_asr": True}])
def test_options_that_decide_a_song_are_in_its_fingerprint(small_models, changes) -> None:
    assert replace(small_models, **changes).fingerprint() != small_models.fingerprint()


def test_another_model_is_in_the_fingerprint(small_models) -> None:
    first = small_models.fingerprint()
    config = Path(small_models.profile.separator) / "config.json"
    config.write_text(config.read_text() + " ")
    assert small_models.fingerprint() != first


def test_aligners_of_the_languages_that_occur_are_looked_for_at_the_start(small_models, monkeypatch, tmp_path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = replace(small_models, profile=replace(small_models.profile, aligner="wav2vec2"))
    settings.locate_models([])
    settings.locate_models(["", "mi"])  # unknown, and a language that has none
    with pytest.raises(ModelNotFoundError, match="wav2vec2-de"):
        settings.locate_models(["", "de", "mi"])
    with pytest.raises(ModelNotFoundError, match="wav2vec2-fr"):
        replace(settings, language="fr").locate_models(["mi"])


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
