"""One song to one sample, with the miniatures: one clock for all that is encoded, and audio nobody should send."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.crops import CropRules, choose_crop
from pipeline.audio.decode import AudioDecodeError, DecodedAudio, decode_audio
from pipeline.catalogue.inputs import SongInput
from pipeline.encoding import encode_song
from pipeline.encoding.encode_song import (
    MODELS,
    SongEncoder,
    SongToEncode,
    describe_models,
    fit,
    frames_of,
    latent_audio,
    semantic_audio,
)
from pipeline.encoding.plan_shards import song_from_raw
from pipeline.encoding.semantic_tokens import fit_length, plan_windows
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.model_files.profiles import get_profile, locate_models
from pipeline.phonemes.phonemizer import Phonemizer
from shards.reader import ShardReader
from shards.sample import Sample
from shards.schema import LATENT_HOP_LENGTH, SEMANTIC_HOP_LENGTH, count_frames, time_to_frame
from shards.vocabulary import TAG_IDS
from shards.writer import write_shard

MINIATURE = get_profile("miniature")


@pytest.fixture(scope="module")
def encoder() -> SongEncoder:
    encoder = SongEncoder(MINIATURE)
    encoder.setup()
    return encoder


def encode(encoder: SongEncoder, path: Path, **row: Any) -> Sample:
    defaults = {
        "song_id": "x", "language": "en", "duration_s": 1.0, "lines": [], "words": [], "songbloom_lyrics": "",
        "sections": [{"label": "inst", "start_s": 0.0, "end_s": 1.0}], "metrics": {}, "sha256": "0" * 64,
    }  # fmt: skip
    return encoder.encode(SongToEncode(key="x", path=path, lyrics_source="clean", row=defaults | row, fingerprint="f"))


def write(path: Path, seconds: float, rate: int, channels: int, level: float = 0.2) -> Path:
    rng = np.random.default_rng(0)
    soundfile.write(path, level * rng.uniform(-1, 1, (int(seconds * rate), channels)), rate)
    return path


def check_arrays(sample: Sample, num_frames: int) -> None:
    assert sample.semantic_tokens.shape == (num_frames,)
    assert sample.latents.shape == sample.latents_std.shape == (num_frames, 64)
    assert sample.semantic_tokens.max() < 16_384
    for array in (sample.latents, sample.latents_std, sample.prompts):
        assert array.dtype == np.float16
        assert np.isfinite(array).all()


# ---- the clock


RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000])


@given(rate=RATES, seconds=st.floats(0.1, 3_600))
@settings(max_examples=300, deadline=None)
def test_tokens_and_latents_have_one_length_for_every_song(rate: int, seconds: float) -> None:
    """By the functions that count: resampled audio is fitted to whole frames, which both encoders keep."""
    num_samples = int(seconds * rate)
    num_frames = count_frames(num_samples, rate)
    for model_rate, hop in ((24_000, SEMANTIC_HOP_LENGTH), (48_000, LATENT_HOP_LENGTH)):
        resampled = round(num_samples * model_rate / rate)  # what soxr returns
        # Cut, or filled by a sample: what is filled is never more than rounding took.
        assert -1 <= resampled - num_frames * hop < hop + 1
        assert count_frames(num_frames * hop, model_rate) == num_frames
    windows = plan_windows(num_frames, 750, 25)
    assert sum(window.keep_stop - window.keep_start for window in windows) == num_frames
    assert 0 <= num_samples / rate - num_frames / 25 < 1 / 25 + 1e-9
    assert time_to_frame(num_samples / rate, num_frames) == num_frames


@given(rate=RATES, num_samples=st.integers(8_000, 60_000), channels=st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_both_encoders_are_given_whole_frames(rate: int, num_samples: int, channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (channels, num_samples)).astype(np.float32)
    decoded = DecodedAudio(samples, rate, channels)
    num_frames = frames_of(decoded)
    mono, stereo = semantic_audio(decoded, num_frames), latent_audio(decoded, num_frames)
    assert mono.shape == (num_frames * SEMANTIC_HOP_LENGTH,)
    assert stereo.shape == (2, num_frames * LATENT_HOP_LENGTH)
    assert fit_length(mono, num_frames) is not None
    assert mono.any()
    assert stereo.any()


@pytest.mark.parametrize(
    ("seconds", "rate"), [(0.1, 44_100), (0.04, 48_000), (0.4267, 22_050), (9.999, 48_000), (31.111, 44_100)]
)
def test_real_encodes_have_one_length(encoder: SongEncoder, tmp_path: Path, seconds: float, rate: int) -> None:
    sample = encode(encoder, write(tmp_path / "a.flac", seconds, rate, 2))
    check_arrays(sample, count_frames(int(seconds * rate), rate))
    assert sample.num_frames == sample.metadata["num_frames"]


def test_words_and_latents_meet_in_one_frame(encoder: SongEncoder, tmp_path: Path) -> None:
    """A click at 1.5 s is in the frame to which the time 1.5 s is mapped."""
    samples = np.zeros((44_100 * 3, 2))
    samples[round(44_100 * 1.5) : round(44_100 * 1.52)] = 0.9
    soundfile.write(tmp_path / "a.flac", samples, 44_100)
    line = {"text": "click", "start_s": 1.5, "end_s": 1.52, "section": "verse"}
    sample = encode(encoder, tmp_path / "a.flac", lines=[line], duration_s=3.0)
    silent = sample.latents.astype(np.float32) - sample.latents[5].astype(np.float32)
    loudest = int(np.abs(silent).sum(axis=1).argmax())
    assert abs(loudest - sample.metadata["lines"][0]["start_frame"]) <= 1
    assert sample.metadata["lines"][0]["start_frame"] == time_to_frame(1.5, 75) == 37


# ---- audio as it comes


@pytest.mark.parametrize(
    ("seconds", "rate", "channels", "level"),
    [(1.0, 48_000, 2, 0.0), (0.1, 48_000, 1, 0.2), (2.0, 8_000, 1, 0.2), (1.0, 48_000, 6, 0.2), (1.0, 192_000, 2, 0.2)],
    ids=["silence", "0.1 s", "8 kHz", "6 channels", "192 kHz"],
)
def test_odd_audio_is_encoded(
    encoder: SongEncoder, tmp_path: Path, seconds: float, rate: int, channels: int, level: float
) -> None:
    path = write(tmp_path / "a.wav", seconds, rate, channels, level)
    sample = encode(encoder, path)
    check_arrays(sample, round(seconds * 25 - 0.4))
    again = encode(encoder, path)
    np.testing.assert_array_equal(sample.semantic_tokens, again.semantic_tokens)
    np.testing.assert_array_equal(sample.latents, again.latents)


def test_audio_that_cannot_be_encoded_is_named(encoder: SongEncoder, tmp_path: Path, monkeypatch: Any) -> None:
    samples = np.zeros((48_000, 2), np.float32)
    samples[1_000, 1] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 48_000, subtype="FLOAT")
    with pytest.raises(AudioDecodeError, match="not finite"):
        encode(encoder, tmp_path / "nan.wav")
    with pytest.raises(AudioDecodeError, match=r"0\.039 s is less than one frame"):
        encode(encoder, write(tmp_path / "short.wav", 0.0391, 48_000, 2))
    monkeypatch.setattr(encode_song, "MAX_DURATION_S", 2.0)
    with pytest.raises(AudioDecodeError, match="longer than 2 s"):
        encode(encoder, write(tmp_path / "long.wav", 2.5, 8_000, 1))


def test_fitting_copies_nothing_that_fits() -> None:
    samples = np.ones((2, 10), np.float32)
    assert np.shares_memory(fit(samples, 8), samples)
    assert fit(samples, 8).shape == (2, 8)
    np.testing.assert_array_equal(fit(samples, 12)[:, 9:], [[1, 0, 0]] * 2)


def test_prompts_are_those_of_the_song_mixed_down(encoder: SongEncoder, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", 24.0, 48_000, 2)
    sample = encode(encoder, path)
    starts = sample.metadata["prompt_start_frames"]
    assert len(starts) == len(sample.prompts) == MINIATURE.prompts_per_song
    clip = decode_audio(path).samples[:, starts[1] * 1_920 : (starts[1] + 250) * 1_920].mean(axis=0)
    mean, _ = encoder._codec.encode(np.stack([clip, clip]))
    np.testing.assert_allclose(sample.prompts[1].astype(np.float32), mean, atol=2e-3)  # float16


# ---- what is told of the models


def test_models_are_described_by_name_hash_and_settings() -> None:
    described = describe_models(MINIATURE)
    assert {described[stage]["name"] for stage in MODELS} == {"miniature"}
    assert described["vae"]["sha256"] == fingerprint_model(MINIATURE_FOLDER / "vae", "vae")
    assert described["settings"] == {
        "float32": "ieee", "muq_layer": 3, "muq_margin_s": 1.0, "muq_window_s": 30.0, "prompts_per_song": 4,
    }  # fmt: skip
    assert describe_models(locate_models(MINIATURE, MODELS)) == described


@pytest.mark.parametrize(
    "name", ["{folder}/my-vae", "{folder}/x/../my-vae/", "owner/my-vae", "./owner/my-vae", "my-vae"]
)
def test_no_folder_of_a_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A relative path may look like a hub id."""
    (tmp_path / "x").mkdir()
    for folder in (tmp_path, tmp_path / "owner"):
        shutil.copytree(MINIATURE_FOLDER / "vae", folder / "my-vae")
    monkeypatch.chdir(tmp_path)
    located = locate_models(replace(MINIATURE, vae=name.format(folder=tmp_path)), MODELS)
    monkeypatch.chdir("/")  # where a worker may run
    described = describe_models(located)
    assert described["vae"]["name"] == "my-vae"
    assert described["vae"]["sha256"] == describe_models(MINIATURE)["vae"]["sha256"]
    assert str(tmp_path) not in str(described)


@pytest.mark.parametrize("name", ["owner/my-vae", "owner/my-vae/model.safetensors"])
def test_a_model_of_a_hub_is_told_whole(tmp_path: Path, name: str) -> None:
    snapshot = tmp_path / "hub" / "models--owner--my-vae" / "snapshots" / "0123abcd"
    shutil.copytree(MINIATURE_FOLDER / "vae", snapshot)
    path = snapshot / "model.safetensors" if name.endswith(".safetensors") else snapshot
    profile = replace(MINIATURE, vae=str(path), given_names=(("vae", name),))
    assert describe_models(profile)["vae"]["name"] == name


# ---- lyrics that nobody cleaned


def test_the_trainer_gets_the_sections_of_a_song_that_was_not_cleaned(encoder: SongEncoder, tmp_path: Path) -> None:
    """From a lyrics file with headers through the encoder and a shard to the symbols that a training step reads."""
    lyrics = "[Intro]\n[Verse 1]\nSilver lanterns, over dark water\n[Chorus]\nWe run\n[Solo]\n[Verse 2]\nAway\n[Outro]"
    path = write(tmp_path / "song.wav", 6.0, 24_000, 2)
    source = SongInput("song", path, "song.wav", language="en")
    order = song_from_raw(source, lyrics, "0" * 64, 6.0, {})
    write_shard(tmp_path / "train" / "000000.tar", [encoder.encode(order)])
    (sample,) = ShardReader(tmp_path).iterate("train/000000.tar")
    rules = CropRules(min_frames=25, max_frames=400, block_frames=1, max_lyric_tokens=300, seconds_per_tag=1.0)
    crop = choose_crop(sample.metadata, rules, np.random.default_rng(0))
    assert crop.num_frames == 150
    tags = [number for number in crop.lyric_ids if number in TAG_IDS.values()]
    runs = [tag for tag, before in zip(tags, [None, *tags], strict=False) if tag != before]
    assert runs == [TAG_IDS[label] for label in "intro verse chorus inst verse outro".split()]
    assert crop.lyric_ids == Phonemizer("plain").lyric_ids(sample.metadata["songbloom_lyrics"]).ids
