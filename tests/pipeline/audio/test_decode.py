import json
import os
import tarfile
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr

from pipeline.audio.decode import (
    AudioDecodeError,
    decode_audio,
    iterate_blocks,
    resample,
    resample_blocks,
    resample_mono,
    rms_dbfs,
    to_mono,
    to_stereo,
)


def tone(seconds: float = 1.0, rate: int = 48_000, channels: int = 2, hz: float = 440.0) -> np.ndarray:
    time_s = np.arange(int(seconds * rate)) / rate
    return np.tile(0.5 * np.sin(2 * np.pi * hz * time_s).astype(np.float32), (channels, 1))


def test_decoding_returns_the_samples_that_were_written(tmp_path):
    samples = tone(0.5)
    soundfile.write(tmp_path / "a.wav", samples.T, 48_000, subtype="FLOAT")
    decoded = decode_audio(tmp_path / "a.wav")
    assert decoded.sample_rate == 48_000
    np.testing.assert_array_equal(decoded.samples, samples)


def test_content_decides_and_not_the_suffix(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(0.3).T, 48_000)
    (tmp_path / "a.flac").rename(tmp_path / "-x.mp3")
    assert decode_audio(tmp_path / "-x.mp3").duration_s == pytest.approx(0.3)


def test_six_channels_become_two(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.2, channels=6).T, 48_000)
    decoded = decode_audio(tmp_path / "a.wav")
    assert decoded.samples.shape[0] == 2
    assert decoded.source_channels == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"some text " * 200), "no known audio format"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
        (lambda path: path.symlink_to("nothing"), "cannot be opened"),
    ],
)
def test_what_holds_no_audio_is_named(tmp_path, make, message):
    make(tmp_path / "bad.wav")
    with pytest.raises(AudioDecodeError, match=message):
        decode_audio(tmp_path / "bad.wav")


def test_samples_that_are_not_finite_are_refused(tmp_path):
    samples = tone(0.2)
    samples[0, 100] = np.nan
    soundfile.write(tmp_path / "a.wav", samples.T, 48_000, subtype="FLOAT")
    with pytest.raises(AudioDecodeError, match="not finite"):
        decode_audio(tmp_path / "a.wav")


def test_a_cut_file_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(2.0).T, 48_000)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.flac").write_bytes(b"")
    with av.open(str(tmp_path / "whole.flac"), "w") as container:
        stream = container.add_stream("flac", rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(data[44:], "<i2").reshape(1, -1), format="s16", layout="stereo"
        )
        frame.rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    whole = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioDecodeError, match="decoding failed|cut"):
        decode_audio(tmp_path / "a.flac")


@pytest.mark.parametrize("has_header", [True, False])
def test_a_variable_bit_rate_without_a_header_is_no_cut_file(tmp_path, has_header):
    """FFmpeg guesses the length of such an MP3 from its first frames: a quiet start makes it half as long again."""
    samples = tone(20.0) * np.random.default_rng(0).standard_normal((2, 960_000)).astype(np.float32)
    samples[:, :480_000] = 0
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate = 48_000
    with av.open(str(tmp_path / "a.mp3"), "w", options={"write_xing": str(int(has_header))}) as container:
        stream = container.add_stream("libmp3lame", rate=48_000, layout="stereo")
        stream.codec_context.flags |= 2  # AV_CODEC_FLAG_QSCALE: a variable rate
        stream.codec_context.global_quality = 4 * 118
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=48_000, frame_size=1_152)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    assert decode_audio(tmp_path / "a.mp3").duration_s == pytest.approx(20.0, abs=0.1)


def test_decoding_stops_at_the_longest_length(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(2.0).T, 48_000)
    with pytest.raises(AudioDecodeError, match="longer than 1 s"):
        decode_audio(tmp_path / "a.wav", max_duration_s=1.0)


def test_resampling_keeps_a_tone_and_its_level():
    back = resample(resample(tone(1.0), 48_000, 44_100), 44_100, 48_000)
    middle = slice(4_800, 43_200)
    assert rms_dbfs(back[:, middle] - tone(1.0)[:, middle]) < -80


@pytest.mark.parametrize(("from_rate", "to_rate"), [(8_000, 48_000), (44_100, 24_000), (192_000, 48_000)])
def test_resampling_in_blocks_is_that_of_the_whole(from_rate, to_rate):
    samples = np.random.default_rng(0).normal(0, 0.2, (2, 100_003)).astype(np.float32)
    whole = soxr.resample(samples.T, from_rate, to_rate, quality="HQ").T
    np.testing.assert_array_equal(resample(samples, from_rate, to_rate), whole)
    for size in (1_000, 65_536):
        parts = list(resample_blocks(iterate_blocks(samples, size), from_rate, to_rate))
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    mono = resample_mono(samples, from_rate, to_rate)
    np.testing.assert_array_equal(mono, resample(to_mono(samples)[None], from_rate, to_rate)[0])


def test_a_file_of_many_blocks_is_joined_in_order(tmp_path, monkeypatch):
    """Nothing is lost between blocks, and the blocks are gone before the second copy is whole."""
    monkeypatch.setattr("pipeline.audio.parts._DECODED_BLOCK_BYTES", 100_000)
    samples = np.random.default_rng(0).uniform(-1, 1, (2, 1_000_000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples.T, 48_000, subtype="FLOAT")
    tracemalloc.start()
    decoded = decode_audio(tmp_path / "a.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(decoded.samples, samples)
    assert peak < 2.2 * samples.nbytes


def test_level_of_many_blocks_is_that_of_the_whole():
    samples = np.random.default_rng(0).normal(0, 0.1, (2, 3_000_000)).astype(np.float32)
    assert rms_dbfs(samples) == pytest.approx(10 * np.log10(np.mean(samples.astype(np.float64) ** 2)), abs=1e-9)
    assert rms_dbfs(samples[:, :0]) == -200


def test_mono_of_channels_that_cancel_is_not_silent():
    samples = tone(0.1)
    samples[1] = -samples[0]
    np.testing.assert_array_equal(to_mono(samples), samples[0])
    np.testing.assert_array_equal(to_stereo(samples[:1]), np.repeat(samples[:1], 2, axis=0))


def test_every_bad_file_ends_as_expected(shared, tmp_path):
    with tarfile.open(shared / "songs" / "bad.tar") as archive:
        archive.extractall(tmp_path, filter="fully_trusted")
    found = {}
    expected = json.loads((shared / "songs" / "bad_manifest.json").read_text())
    for entry in expected:
        if entry["expect"] == "lyrics_input" or entry["file"] == "unreadable.mp3":  # root may read it
            continue
        try:
            decode_audio(tmp_path / "bad" / entry["file"])
            found[entry["file"]] = "accept"
        except AudioDecodeError:
            found[entry["file"]] = "reject"
    for entry in expected:
        if entry["file"] in found and entry["expect"] in (
            "accept",
            "accept_by_content",
            "accept_downmix",
            "accept_once",
        ):
            assert found[entry["file"]] == "accept", entry
        if entry["file"] in found and entry["expect"] in ("reject", "skip"):
            assert found[entry["file"]] == "reject", entry
