"""Questions about a song are answered from what is encoded already, and tell the lines that are sung from others."""

import json
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.transcription.encoded_song import BATCH_WINDOWS, SHORT_PADDING_FRAMES, EncodedSong
from pipeline.transcription.whisper import TOKEN_STEP_S

from ..conftest import SONG

SILENCE = -1.0


class FakeWhisper:
    """Encodes a position as its time in the song, which is what the samples hold; remembers what it is asked."""

    silence_after = np.full((1, 2, 1), SILENCE, np.float32)

    def __init__(self) -> None:
        self.encoded: list[tuple[int, int]] = []  # windows and frames of every call
        self.read_positions: list[np.ndarray] = []

    def encode(self, windows, num_frames=3_000):
        self.encoded.append((len(windows), num_frames))
        step = round(TOKEN_STEP_S * SPEECH_SAMPLE_RATE_HZ)
        array = np.zeros((len(windows), num_frames // 2, 1), np.float32)
        for row, window in zip(array, windows, strict=True):
            positions = window[::step][: len(row)]
            row[: len(positions), 0] = positions
        return ctranslate2.StorageView.from_array(array)

    def tokenize(self, words, language):
        return [[len(word)] for word in words]

    def read(self, encoded, text, num_frames, language):
        positions = np.asarray(encoded)[0, :, 0]
        self.read_positions.append(positions)
        return SimpleNamespace(alignments=[(k, k) for k in range(len(text))], text_token_probs=[1.0] * len(text))

    def silent_logprobs(self, text, language):
        return np.full(len(text), -2.0)


def open_song(windows=(), duration_s=100.0) -> tuple[EncodedSong, FakeWhisper]:
    whisper = FakeWhisper()
    samples = np.arange(int(duration_s * SPEECH_SAMPLE_RATE_HZ), dtype=np.float32) / SPEECH_SAMPLE_RATE_HZ
    return EncodedSong(whisper, samples, windows), whisper  # type: ignore[arg-type]


def heard(whisper: FakeWhisper) -> tuple[float, float]:
    """Return the times of the first and last position that was read last; silence is behind them."""
    positions = whisper.read_positions[-1]
    assert positions[-2:].tolist() == [SILENCE, SILENCE]
    return pytest.approx((positions[0], positions[-3]), abs=0.021)  # type: ignore[return-value]


def test_windows_are_encoded_in_batches():
    windows = [(10.0 * k, 10.0 * k + 8) for k in range(BATCH_WINDOWS + 1)]
    song, whisper = open_song(windows)
    assert whisper.encoded == [(BATCH_WINDOWS, 3_000), (1, 3_000)]
    assert len(song.batches) == 2


def test_what_lies_in_a_window_is_read_from_it():
    song, whisper = open_song([(5.0, 30.0), (40.0, 60.0)])
    assert song.measure_support(10.0, 14.0, [["a"]], "en").tolist() == [2.0]  # 0 - (-2)
    assert heard(whisper) == (10.0, 13.98)
    (word,) = song.align(45.005, 47.0, ["a"], "en")
    assert heard(whisper) == (45.0, 46.98)
    assert word.start_s == pytest.approx(45.0)  # where the position is that stands first
    assert (word.end_s, len(whisper.encoded)) == (47.0, 1)


@pytest.mark.parametrize(
    ("asked", "read"), [((4.2, 8.0), (5.0, 7.98)), ((28.0, 30.9), (28.0, 29.98)), ((38.5, 45.0), None)]
)
def test_a_window_may_reach_a_second_into_silence(asked, read):
    song, whisper = open_song([(5.0, 30.0), (40.0, 60.0)])
    song.measure_support(*asked, [["a"]], "en")
    assert heard(whisper) == (read or (asked[0], asked[1] - 0.02))
    assert len(whisper.encoded) == (1 if read else 2)


def test_words_of_a_window_that_begins_in_silence_are_where_the_voice_is():
    song, _ = open_song([(5.0, 30.0)])
    assert song.align(4.2, 8.0, ["a"], "en")[0].start_s == pytest.approx(5.0)


@pytest.mark.parametrize("asked", [(28.0, 42.0), (28.0, 30.6), (60.1, 60.9), (70.0, 75.0)])
def test_what_lies_in_no_window_is_encoded_once(asked):
    """Across two windows, into the next one, in the silence after one, far from all."""
    song, whisper = open_song([(5.0, 30.0), (30.5, 60.0)])
    song.measure_support(*asked, [["a"]], "en")
    num_frames = round((asked[1] - asked[0]) * 100)
    assert len(whisper.encoded) == 2
    assert whisper.encoded[1] == (1, pytest.approx(num_frames + SHORT_PADDING_FRAMES, abs=2))
    assert heard(whisper) == (asked[0], asked[1] - 0.02)
    song.measure_support(asked[0] + 0.1, asked[1] - 0.1, [["a"]], "en")  # a part of it
    song.align(*asked, ["a"], "en")
    assert len(whisper.encoded) == 2


def test_the_same_words_in_the_same_window_are_read_once():
    song, whisper = open_song()
    words = ["a", "b"]
    song.align(1.0, 5.0, words, "en")
    song.measure_support(1.0, 5.0, [["a"], ["b"]], "en")
    assert len(whisper.read_positions) == 1
    song.measure_support(1.0, 5.0, [["a"], ["bb"]], "en")
    song.measure_support(1.0, 4.0, [["a"], ["bb"]], "en")
    assert len(whisper.read_positions) == 3
    song.align(1.0, 4.0, ["a", "bb"], "en")  # only the probabilities were asked for
    assert len(whisper.read_positions) == 4


def test_no_words_are_nowhere():
    song, whisper = open_song()
    assert song.align(1.0, 5.0, [], "en") == []
    assert not whisper.encoded


@pytest.fixture(scope="module", params=["in one window", "window by window"])
def song(request, whisper, samples) -> EncodedSong:
    whole = (0.0, len(samples) / SPEECH_SAMPLE_RATE_HZ)
    return EncodedSong(whisper, samples, [whole] if request.param == "in one window" else [])


def test_sung_lines_have_support_and_lines_of_another_song_have_none(song):
    sung = json.loads((SONG / "truth.json").read_text())["lines"]
    wrong = [line.split() for line in (SONG / "lyrics.txt").read_text().splitlines() if line and line[0] != "["]
    assert (len(sung), len(wrong)) == (4, 4)
    for line in sung:
        window = max(line["start"] - 0.3, 0.0), line["end"] + 0.3
        support = song.measure_support(*window, [line["text"].split(), *wrong], "en")
        assert support.shape == (5,)
        assert support[0] >= 1.0  # measured: 4.2 to 4.5
        assert support[1:].max() < 0.9  # measured: 0.81 and 0.85


def test_a_line_after_its_like_is_no_surprise(song):
    line = json.loads((SONG / "truth.json").read_text())["lines"][0]
    window = line["start"] - 0.3, line["end"] + 0.3
    first, second = song.measure_support(*window, [line["text"].split()] * 2, "en")
    assert second < first / 2


def test_more_lines_than_the_decoder_holds_are_asked_in_groups(song):
    words = "Over the fields with a face like the sun".split()
    alone = song.measure_support(18.4, 23.6, [words], "en")
    support = song.measure_support(18.4, 23.6, [["la"] * 435, words], "en")
    assert support[1] == pytest.approx(alone[0])  # the lines before it are in another group
    assert song.measure_support(18.4, 23.6, [["la"] * 500], "en").shape == (1,)


def test_words_have_their_places_also_where_their_evidence_was_asked_first(song):
    words = "Over the fields with a face like the sun".split()
    expected = song.align(18.4, 23.6, words, "en")
    song.measure_support(18.5, 23.6, [words], "en")
    song.measure_support(18.4, 23.6, [words], "en")  # needs no path, and remembers none
    assert song.align(18.4, 23.6, words, "en") == expected


def test_silence_supports_nothing(whisper):
    silence = EncodedSong(whisper, np.zeros(8 * SPEECH_SAMPLE_RATE_HZ, np.float32))
    assert silence.measure_support(0.0, 8.0, [["The", "snow", "came", "down"]], "en")[0] < 0.4  # measured: 0.32
