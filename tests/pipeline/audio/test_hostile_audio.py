"""Audio as strangers send it: formats that change in mid-stream, damage, cuts, bombs, files that name other files."""

import errno
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Discard

from pipeline.audio import file as audio_file
from pipeline.audio import parts as audio_parts
from pipeline.audio.decode import AudioDecodeError, decode_audio, hash_file, require_regular_file
from pipeline.audio.file import open_audio
from pipeline.audio.losses import MAX_CUT_SHARE, MAX_LOST_SHARE
from pipeline.cleaning.check_audio import CheckAudio, ReadAudio
from pipeline.input_file import MachineReadError
from pipeline.song import Song

from ..measured import call_measured

LAYOUTS = {1: "mono", 2: "stereo"}
FRAME_SAMPLES = {"aac": 1_024, "libmp3lame": 1_152, "libopus": 960}


def tone(seconds: float, rate: int = 48_000, channels: int = 2, hz: float = 440.0) -> np.ndarray:
    """Return a tone in the first channel and one a fifth higher in the second, with some noise: [C, L]."""
    time_s = np.arange(int(seconds * rate)) / rate
    samples = np.stack([0.3 * np.sin(2 * np.pi * hz * (1 + 0.5 * channel) * time_s) for channel in range(channels)])
    return (samples + np.random.default_rng(0).normal(0, 0.01, samples.shape)).astype(np.float32)


def encode(path, codec, samples, rate=48_000, container=None, **options):
    layout = LAYOUTS[len(samples)]
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        sample_format = stream.codec_context.codec.audio_formats[0].name
        stream.codec_context.format = sample_format
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = rate
        size = FRAME_SAMPLES.get(codec, 4_096)
        resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    return path


def write(path, samples, rate=48_000, **settings):
    with soundfile.SoundFile(path, "w", rate, len(samples), **settings) as file:
        for start in range(0, samples.shape[1], 4_800):  # libsndfile's Vorbis encoder crashes on long writes
            file.write(samples[:, start : start + 4_800].T)
    return path


MAKERS = {
    "wav": lambda path, samples: write(path, samples, format="WAV", subtype="PCM_16"),
    "rf64": lambda path, samples: write(path, samples, format="RF64", subtype="PCM_16"),
    "w64": lambda path, samples: write(path, samples, format="W64", subtype="PCM_16"),
    "caf": lambda path, samples: write(path, samples, format="CAF", subtype="PCM_16"),
    "aiff": lambda path, samples: write(path, samples, format="AIFF", subtype="PCM_16"),
    "flac": lambda path, samples: write(path, samples, format="FLAC"),
    "ogg": lambda path, samples: write(path, samples, format="OGG", subtype="VORBIS"),
    "opus": lambda path, samples: encode(path, "libopus", samples, container="ogg"),
    "mp3": lambda path, samples: encode(path, "libmp3lame", samples, container="mp3"),
    "m4a": lambda path, samples: encode(path, "aac", samples, container="mp4", movflags="faststart"),
    "aac": lambda path, samples: encode(path, "aac", samples, container="adts"),
    "mka": lambda path, samples: encode(path, "libopus", samples, container="matroska"),
    "webm": lambda path, samples: encode(path, "libopus", samples, container="webm"),
    "wv": lambda path, samples: encode(path, "wavpack", samples, container="wv"),
    "tta": lambda path, samples: encode(path, "tta", samples, container="tta"),
}
SECONDS = 12.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the bytes of one song in a container, made once."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def get(suffix: str) -> bytes:
        if suffix not in made:
            made[suffix] = MAKERS[suffix](folder / f"a.{suffix}", tone(SECONDS)).read_bytes()
        return made[suffix]

    return get


def pitch_hz(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples[:rate]))) * rate / len(samples[:rate]))


PARTS = {
    "mp3": lambda path, samples, rate: encode(path, "libmp3lame", samples, rate, "mp3"),
    "aac": lambda path, samples, rate: encode(path, "aac", samples, rate, "adts"),
    "flac": lambda path, samples, rate: write(path, samples, rate, format="FLAC"),
    "ogg": lambda path, samples, rate: write(path, samples, rate, format="OGG", subtype="VORBIS"),
    "opus": lambda path, samples, rate: encode(path, "libopus", samples, rate, "ogg"),
}


@pytest.mark.parametrize("suffix", PARTS)
@pytest.mark.parametrize(
    ("first", "second"),
    [((44_100, 2), (48_000, 2)), ((48_000, 2), (48_000, 1)), ((48_000, 1), (44_100, 2)), ((22_050, 1), (48_000, 2))],
)
def test_a_format_that_changes_in_mid_stream_is_one_song(tmp_path, suffix, first, second):
    """A jingle of another rate or with other channels: nothing is lost, nothing plays slower."""
    (first_rate, first_channels), (second_rate, second_channels) = first, second
    if suffix == "opus":
        first_rate = second_rate = 48_000
    first_part = PARTS[suffix](tmp_path / "1", tone(3.0, first_rate, first_channels, 440), first_rate)
    second_part = PARTS[suffix](tmp_path / "2", tone(6.0, second_rate, second_channels, 880), second_rate)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(first_part.read_bytes() + second_part.read_bytes())
    decoded = decode_audio(path)
    assert decoded.duration_s == pytest.approx(9.0, abs=0.15)
    assert decoded.sample_rate == second_rate  # that of the longest part
    assert len(decoded.samples) == decoded.source_channels == max(first_channels, second_channels)
    if (first_rate, first_channels) != (second_rate, second_channels):
        assert decoded.changes == 1
        assert "format_change: 1 in mid-stream" in decoded.warnings
    assert pitch_hz(decoded.samples[0, second_rate : 2 * second_rate], second_rate) == pytest.approx(440, abs=3)
    assert pitch_hz(decoded.samples[0, -2 * second_rate : -second_rate], second_rate) == pytest.approx(880, abs=3)
    middle = decoded.samples[0, second_rate : 2 * second_rate]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)  # and nothing is quieter


def test_cases_of_users_are_decoded(shared):
    for name, seconds in (("rate_changes", 24.0), ("stereo_then_mono", 24.0), ("noise_in_the_middle", 11.7)):
        decoded = decode_audio(shared / "cases" / f"{name}.mp3")
        assert decoded.duration_s == pytest.approx(seconds, abs=0.1), name
    assert any(warning.startswith("damaged: 0.3") for warning in decoded.warnings)


def test_a_format_that_changes_all_the_time_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_parts, "MAX_CHANGES", 3)
    parts = [PARTS["mp3"](tmp_path / "1", tone(0.5, 48_000, channels), 48_000).read_bytes() for channels in (1, 2)]
    (tmp_path / "a.mp3").write_bytes(b"".join(parts) * 3)
    with pytest.raises(AudioDecodeError, match="change more than 3 times"):
        decode_audio(tmp_path / "a.mp3")


def test_parts_at_many_rates_keep_to_the_limit_when_they_are_joined(tmp_path, monkeypatch):
    """A minute at 8 kHz is small; at the rate of the longest part it is not."""
    low, high = tone(0.9, 8_000, 1), tone(1.0, 192_000, 1)
    write(tmp_path / "1", low, 8_000, format="FLAC")
    write(tmp_path / "2", high, 192_000, format="FLAC")
    (tmp_path / "a.flac").write_bytes((tmp_path / "2").read_bytes() + (tmp_path / "1").read_bytes())
    assert decode_audio(tmp_path / "a.flac").duration_s == pytest.approx(1.9, abs=0.01)
    monkeypatch.setattr("pipeline.audio.decode.MAX_DECODED_BYTES", 1_000_000)
    with pytest.raises(AudioDecodeError, match="in 2 formats"):
        decode_audio(tmp_path / "a.flac")


@pytest.mark.parametrize("suffix", ["mp3", "aac", "flac", "m4a", "ogg"])
def test_a_bad_frame_is_left_out_and_told(tmp_path, whole, suffix):
    data = bytearray(whole(suffix))
    middle = len(data) // 2
    data[middle : middle + 800] = np.random.default_rng(3).bytes(800)
    (tmp_path / "a").write_bytes(data)
    decoded = decode_audio(tmp_path / "a")
    assert SECONDS * (1 - MAX_LOST_SHARE) - 0.2 < decoded.duration_s < SECONDS + 0.1
    assert any("of audio lost" in warning for warning in decoded.warnings)


@pytest.mark.parametrize("suffix", ["flac", "wv", "tta"])
def test_a_bit_that_flipped_in_a_lossless_file_is_found(tmp_path, whole, suffix):
    """FFmpeg decodes such a frame to a click of full scale unless it is asked to compare the checksum."""
    data = bytearray(whole(suffix))
    data[len(data) // 2] ^= 16
    (tmp_path / "a").write_bytes(data)
    if suffix == "tta":  # one frame of it is a second
        with pytest.raises(AudioDecodeError, match="damaged"):
            decode_audio(tmp_path / "a")
        return
    decoded = decode_audio(tmp_path / "a")
    assert 0 < decoded.lost_s < 1
    assert np.abs(decoded.samples).max() < 0.4


@pytest.mark.parametrize("suffix", ["mp3", "flac", "m4a"])
def test_a_file_that_is_mostly_damaged_is_refused(tmp_path, whole, suffix):
    data = bytearray(whole(suffix))
    data[len(data) // 3 : len(data) // 2] = np.random.default_rng(4).bytes(len(data) // 2 - len(data) // 3)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(AudioDecodeError, match="damaged: .* at most 5% may be lost"):
        decode_audio(tmp_path / "a")


@pytest.mark.parametrize("suffix", [name for name in MAKERS if name != "wv"])
@pytest.mark.parametrize(
    "junk", [b"<html>404 not found</html>\n" * 300, bytes(50_000), np.random.default_rng(1).bytes(50_000)]
)
def test_junk_behind_the_last_frame_costs_nothing(tmp_path, whole, suffix, junk):
    (tmp_path / "a").write_bytes(whole(suffix) + junk)
    decoded = decode_audio(tmp_path / "a")
    assert decoded.duration_s == pytest.approx(SECONDS, abs=0.06)
    assert decoded.lost_s == 0
    if suffix == "mp3":
        assert any(warning.startswith("junk: ") for warning in decoded.warnings)


@pytest.mark.parametrize("suffix", [name for name in MAKERS if name != "aac"])  # nothing in ADTS says how long it is
def test_a_download_that_broke_off_is_refused(tmp_path, whole, suffix):
    data = whole(suffix)
    (tmp_path / "a").write_bytes(data)
    assert decode_audio(tmp_path / "a").warnings == []
    (tmp_path / "a").write_bytes(data[: int(0.6 * len(data))])
    with pytest.raises(AudioDecodeError, match="cut: "):
        decode_audio(tmp_path / "a")


@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64", "caf", "aiff", "mp3", "m4a"])
def test_a_cut_of_half_a_percent_is_a_warning(tmp_path, whole, suffix):
    data = whole(suffix)
    (tmp_path / "a").write_bytes(data[: int((1 - MAX_CUT_SHARE / 2) * len(data))])
    assert decode_audio(tmp_path / "a").warnings in (
        ["damaged: 0.06 s of audio lost"],
        ["damaged: 0.05 s of audio lost"],
    )


def test_an_ogg_file_without_its_last_pages_is_told(tmp_path, whole):
    data = whole("ogg")
    (tmp_path / "a").write_bytes(data[: data.rindex(b"OggS")])
    assert decode_audio(tmp_path / "a").warnings == ["no_end_mark: the file may have been cut"]


def test_a_damaged_page_of_ogg_is_no_cut(tmp_path, whole):
    """Lacing values that promise more than the file holds: a page follows, so the file goes on."""
    data = bytearray(whole("ogg"))
    page = data.rindex(b"OggS", 0, data.rindex(b"OggS"))
    data[page + 26 : page + 26 + 200] = b"\xff" * 200
    (tmp_path / "a").write_bytes(data)
    assert decode_audio(tmp_path / "a").duration_s > SECONDS - 1


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_of_a_pipe_says_no_length(tmp_path, whole, size):
    data = bytearray(whole("wav"))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    decoded = decode_audio(tmp_path / "a.wav")
    assert decoded.duration_s == pytest.approx(SECONDS)
    assert (decoded.declared_s, decoded.warnings) == (None, [])


def test_checking_keeps_the_warnings_and_reading_again_does_not_double_them(shared):
    song = Song(song_id="a", path=shared / "cases" / "noise_in_the_middle.mp3", audio="a.mp3")
    CheckAudio().process(song)
    ReadAudio().process(song)
    assert [warning for warning in song.warnings if "lost" in warning] == ["damaged: 0.30 s of audio lost"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ffconcat version 1.0\nfile secret.ogg\n", "ffconcat list"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nsecret.ogg\n#EXT-X-ENDLIST\n", "M3U or HLS"),
        ("\ufeff#EXTM3U\nsecret.ogg\n", "M3U or HLS"),
        ('<?xml version="1.0"?>\n<MPD type="static"><Period><BaseURL>secret.ogg</BaseURL></Period></MPD>', "DASH"),
        ("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n", "SDP"),
        ("[playlist]\nFile1=secret.ogg\n", "PLS"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp3", ".m3u8", ""])
def test_lists_of_other_files_are_named_and_not_followed(tmp_path, text, what, suffix):
    """What they name is a pipe: whoever opens it waits for ever."""
    os.mkfifo(tmp_path / "secret.ogg")
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    code = (
        f"from pathlib import Path; from pipeline.audio.decode import decode_audio; decode_audio(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert "AudioDecodeError: no audio, but a" in last
    assert what in last


def boxes(data: bytes):
    place = 0
    while place < len(data):
        size, name = struct.unpack(">I4s", data[place : place + 8])
        yield name, data[place + 8 : place + size]
        place += size


def box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data) + 8, name) + data


def rebuild(data: bytes, replace: dict[bytes, bytes]) -> bytes:
    """Return an MP4 with other boxes within its tables."""
    made = b""
    for name, content in boxes(data):
        if name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"):
            content = rebuild(content, replace)
        made += box(name, replace.get(name, content))
    return made


def test_a_quicktime_file_does_not_read_its_samples_from_another_file(tmp_path):
    encode(tmp_path / "secret.m4a", "aac", tone(2.0), container="mp4")
    name = b"secret.m4a"
    record = bytes(10) + b"\x01" + b"v".ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    record += bytes(16) + struct.pack(">hh", 1, 1) + bytes(16) + struct.pack(">HH", 2, 12) + b"v:" + name
    record += struct.pack(">HHH", 0, 2, 0) + struct.pack(">HH", 0xFFFF, 0)
    reference = struct.pack(">III4sI", 0, 1, 12 + len(record), b"alis", 0) + record
    moved = rebuild((tmp_path / "secret.m4a").read_bytes(), {b"dref": reference})
    samples = moved.index(b"mdat") + 4
    size = struct.unpack(">I", moved[samples - 8 : samples - 4])[0] - 8
    (tmp_path / "a.mov").write_bytes(moved[:samples] + bytes(size) + moved[samples + size :])
    with av.open(str(tmp_path / "a.mov"), options={"enable_drefs": "1"}) as container:  # so the file does name another
        assert sum(frame.samples for frame in container.decode(audio=0)) > 90_000
    with pytest.raises(AudioDecodeError, match="no audio could be decoded"):
        decode_audio(tmp_path / "a.mov")


def test_of_a_film_only_the_sound_is_decoded(tmp_path, monkeypatch):
    samples = tone(2.0)
    with av.open(str(tmp_path / "film.mp4"), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = output.add_stream("aac", rate=48_000, layout="stereo")
        for _ in range(50):
            output.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=48_000, frame_size=1_024)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(audio.encode(part))
        output.mux(video.encode(None))
    decoded = decode_audio(tmp_path / "film.mp4")
    assert decoded.duration_s == pytest.approx(2.0, abs=0.05)
    assert decoded.warnings == []
    with open_audio(tmp_path / "film.mp4") as file, audio_file.open_stream(file) as (container, stream):
        assert stream.codec_context.thread_count == 1
        assert [other.discard for other in container.streams if other is not stream] == [Discard.all]


def test_a_codec_that_no_music_comes_in_is_named(tmp_path):
    encode(tmp_path / "a.wav", "g722", tone(1.0, 16_000, 1), 16_000, "wav")
    with pytest.raises(AudioDecodeError, match="codec g722 is not read here"):
        decode_audio(tmp_path / "a.wav")


def test_a_format_that_is_not_allowed_is_refused_before_its_header_is_read(tmp_path):
    encode(tmp_path / "a.mp3", "pcm_s16le", tone(1.0), container="nut")
    with av.open(str(tmp_path / "a.mp3")) as container:
        assert container.format.name == "nut"
    with pytest.raises(AudioDecodeError, match="no known audio format"):
        decode_audio(tmp_path / "a.mp3")


def crc(data: bytes, polynomial: int, bits: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value


def write_flac_bomb(path, num_frames=4_200, rate=48_000, channels=2, total=None):
    """Write 65,535 equal samples a channel in each 17 bytes: 70 kB become 2.2 GB."""
    total = num_frames * 65_535 if total is None else total
    facts = (rate << 44 | (channels - 1) << 41 | 15 << 36 | total).to_bytes(8, "big")
    data = b"fLaC\x80\0\0\x22" + b"\xff" * 4 + bytes(6) + facts + bytes(16)
    for number in range(num_frames):
        header = bytes([0xFF, 0xF8, 0x70, (channels - 1) << 4 | 8]) + chr(number).encode() + b"\xff\xfe"
        frame = header + bytes([crc(header, 7, 8)]) + b"\0\0\0" * channels
        data += frame + struct.pack(">H", crc(frame, 0x8005, 16))
    path.write_bytes(data)
    return path


def write_mp4_bomb(path, count=80_000_000):
    """Write an MP4 whose tables name `count` frames in a few bytes."""
    encode(path, "aac", tone(1.0), container="mp4")
    tables = {
        b"stsz": struct.pack(">III", 0, 1, count),
        b"stsc": struct.pack(">IIIII", 0, 1, 1, count, 1),
        b"stts": struct.pack(">IIII", 0, 1, count, 1_024),
        b"stco": struct.pack(">III", 0, 1, 48),
    }
    path.write_bytes(rebuild(path.read_bytes(), tables))
    return path


BOMBS = {
    "header that is true": (write_flac_bomb, "longer than 3600 s"),
    "no length": (lambda path: write_flac_bomb(path, total=0), "are no music"),
    "length that is false": (lambda path: write_flac_bomb(path, total=1_000), "are no music"),
    "high rate": (lambda path: write_flac_bomb(path, rate=655_350), "more than 1536 MiB"),
    "high rate, no length": (lambda path: write_flac_bomb(path, rate=655_350, total=0), "are no music"),
    "eight channels": (lambda path: write_flac_bomb(path, 2_000, 655_350, 8, total=0), "are no music"),
    "rate of 1 Hz": (lambda path: write_flac_bomb(path, rate=1, total=0), "sample rate 1 Hz, expected 1000 to 768000"),
    "table of an MP4": (write_mp4_bomb, "no audio could be decoded|more than 64 MiB"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_neither_memory_nor_time(tmp_path, name):
    make, message = BOMBS[name]
    path = make(tmp_path / "a")
    assert path.stat().st_size < 100_000
    error, seconds, peak_mib = call_measured("pipeline.audio.decode", "decode_audio", "AudioDecodeError", path)
    assert re.search(message, error), error
    assert peak_mib < 500
    assert seconds < 3  # 0.5 s at most on a machine that does nothing else


def test_digital_silence_is_no_bomb(tmp_path, monkeypatch):
    """The densest music there is: FLAC takes 14 bytes for 4096 samples of silence in stereo."""
    monkeypatch.setattr(audio_parts, "MIN_BOMB_BYTES", 1_000_000)
    write(tmp_path / "a.flac", np.zeros((2, 48_000 * 60), np.float32), format="FLAC")
    assert (tmp_path / "a.flac").stat().st_size < 12_000
    assert decode_audio(tmp_path / "a.flac").duration_s == 60


@pytest.mark.parametrize(
    ("channels", "message"),
    [(9, "9 channels of audio cannot be mixed"), (64, "cannot be mixed"), (255, "expected 1 to 64")],
)
def test_channels_that_cannot_be_mixed_are_named(tmp_path, channels, message):
    soundfile.write(tmp_path / "a.wav", np.zeros((4_800, channels)), 48_000, subtype="PCM_16")
    with pytest.raises(AudioDecodeError, match=message):
        decode_audio(tmp_path / "a.wav")


def test_hash_and_samples_are_of_one_file_whatever_takes_its_place(tmp_path, whole):
    path = tmp_path / "a.flac"
    path.write_bytes(whole("flac"))
    expected, sha256 = decode_audio(path), hash_file(path)
    with open_audio(path) as file:
        path.unlink()
        os.mkfifo(path)
        assert file.sha256() == sha256
        np.testing.assert_array_equal(decode_audio(file).samples, expected.samples)
        assert file.sha256() == sha256
    for read in (decode_audio, hash_file, require_regular_file):
        with pytest.raises(AudioDecodeError, match="not a regular file"):
            read(path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("read", [decode_audio, hash_file, require_regular_file])
def test_what_the_machine_cannot_open_is_no_fault_of_the_file(tmp_path, monkeypatch, whole, number, read):
    (tmp_path / "a.flac").write_bytes(whole("flac"))

    def fail(*arguments, **settings):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(MachineReadError, match=os.strerror(number)) as caught:
        read(tmp_path / "a.flac")
    assert not isinstance(caught.value, AudioDecodeError)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a.flac"))


@pytest.mark.parametrize(("number", "message"), [(errno.EACCES, "no permission"), (errno.ENOENT, "cannot be opened")])
def test_what_is_wrong_with_the_file_is_its_own_fault(tmp_path, monkeypatch, number, message):
    def fail(*arguments, **settings):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(AudioDecodeError, match=message):
        decode_audio(tmp_path / "a.flac")


@pytest.mark.parametrize("suffix", ["flac", "mp3", "m4a", "opus", "wav"])
@pytest.mark.parametrize("first_failure", [0, 1, 4, 9])
def test_a_disk_that_fails_is_not_taken_for_a_file_that_is_cut(tmp_path, monkeypatch, whole, suffix, first_failure):
    """FFmpeg takes a failed read for the end of the file, or goes on to the next frame."""
    (tmp_path / f"a.{suffix}").write_bytes(whole(suffix))
    num_reads, read = 0, os.pread

    def fail(descriptor, size, place):
        nonlocal num_reads
        num_reads += 1
        if num_reads > first_failure:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, min(size, 8_192), place)

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(MachineReadError, match="Input/output error"):
        decode_audio(tmp_path / f"a.{suffix}")
    num_reads = 0
    with pytest.raises(MachineReadError, match="Input/output error"):
        hash_file(tmp_path / f"a.{suffix}")


def test_memory_that_runs_out_is_told_from_a_header_that_asks_for_too_much(tmp_path, monkeypatch, whole):
    (tmp_path / "a.flac").write_bytes(whole("flac"))

    class NoMemory(Exception):  # noqa: N818 - as FFmpeg's error looks
        errno, strerror = errno.ENOMEM, "Cannot allocate memory"

    with open_audio(tmp_path / "a.flac") as file:
        error = audio_file.decode_error(NoMemory(), file, "no known audio format")
        assert isinstance(error, AudioDecodeError)
        assert "asks for more than 64 MiB" in str(error)
        monkeypatch.setattr(audio_file, "MAX_BLOCK_BYTES", 1 << 62)
        assert isinstance(audio_file.decode_error(NoMemory(), file, "no known audio format"), MachineReadError)


def test_bytes_changed_at_random_end_in_samples_or_in_an_audio_error(tmp_path):
    generator = np.random.default_rng(11)
    sources = [MAKERS[suffix](tmp_path / f"a.{suffix}", tone(0.3)).read_bytes() for suffix in MAKERS]
    num_decoded = 0
    for number in range(600):
        data = bytearray(sources[number % len(sources)])
        for place in generator.integers(0, min(len(data), 600 if number % 2 else len(data)), 8):
            data[place] = generator.integers(256)
        Path(tmp_path / "b.mp3").write_bytes(data[: generator.integers(1, len(data) + 1)] if number % 5 == 0 else data)
        try:
            decoded = decode_audio(tmp_path / "b.mp3")
        except AudioDecodeError:
            continue
        num_decoded += 1
        assert decoded.samples.dtype == np.float32
        assert np.isfinite(decoded.samples).all()
    assert num_decoded > 50
