"""Where a bundled song holds a voice, compared with what WhisperX itself finds with its model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.transcription.voice_detector import (
    VAD_OFFSET,
    VAD_ONSET,
    VAD_STEP_S,
    VOICE_STEP_S,
    VoiceDetector,
    cut_spans,
    find_spans,
    merge_spans,
)


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    return VoiceDetector()


def test_windows_of_a_song_hold_its_voice(detector, samples):
    duration_s = len(samples) / SPEECH_SAMPLE_RATE_HZ
    probability, windows = detector.find(samples, 10.0)
    assert probability.dtype == np.float32
    assert len(probability) * VOICE_STEP_S == pytest.approx(duration_s, abs=5.0)  # the model's last window may reach on
    assert 0 <= probability.min() < 0.1 < 0.9 < probability.max() <= 1
    assert windows
    for before, after in zip(windows[:-1], windows[1:], strict=True):
        assert before.end_s <= after.start_s
    for window in windows:
        assert 0 < window.voiced_s <= window.end_s - window.start_s + 1e-6 <= 10.0 + 1e-5
        inside = probability[int(window.start_s / VOICE_STEP_S) : int(window.end_s / VOICE_STEP_S)]
        assert inside.mean() > 0.5


def test_silence_holds_none(detector):
    assert detector.find(np.zeros(10 * SPEECH_SAMPLE_RATE_HZ, np.float32), 30.0)[1] == []


def test_a_gpu_without_memory_for_a_batch_finds_the_same(detector, samples, monkeypatch):
    expected, _ = detector.find(samples, 30.0)
    network, sizes = detector._network, []

    def run(windows):
        sizes.append(len(windows))
        if len(windows) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(windows)

    monkeypatch.setattr(detector, "_network", run)
    np.testing.assert_allclose(detector.find(samples, 30.0)[0], expected, atol=1e-5)  # batches round otherwise
    assert sizes[0] > 5 >= sizes[-1]


@pytest.mark.slow
@pytest.mark.parametrize("max_window_s", [30.0, 6.0])
def test_it_finds_what_whisperx_finds(detector, samples, max_window_s):
    from whisperx.vads import Pyannote

    theirs = Pyannote(torch.device("cpu"), vad_onset=VAD_ONSET)
    theirs.vad_pipeline._segmentation.step = VAD_STEP_S
    scores = theirs({"waveform": torch.from_numpy(samples)[None], "sample_rate": SPEECH_SAMPLE_RATE_HZ})
    probability, windows = detector.find(samples, max_window_s)
    assert probability.shape == (len(scores.data),)
    assert np.abs(probability - scores.data[:, 0]).max() < 1e-6  # the order of sums
    assert scores.sliding_window.step == pytest.approx(VOICE_STEP_S)
    if max_window_s == 30.0:  # shorter windows are cut where the voice is weakest as well, but not in the same frames
        chunks = theirs.merge_chunks(scores, max_window_s, onset=VAD_ONSET, offset=VAD_OFFSET)
        assert [(w.start_s, w.end_s) for w in windows] == [
            (pytest.approx(chunk["start"]), pytest.approx(chunk["end"])) for chunk in chunks
        ]


@pytest.mark.parametrize("num_samples", [0, 1, 79_999, 80_000, 80_001, 100_000])
def test_songs_of_any_length(detector, num_samples):
    probability, windows = detector.find(np.zeros(num_samples, np.float32), 30.0)
    assert len(probability) == int(num_samples / SPEECH_SAMPLE_RATE_HZ / VOICE_STEP_S) + 1
    assert windows == []


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60))
def test_a_voice_is_on_from_its_onset_to_its_offset(values):
    probability = np.array(values, np.float32)
    expected, start = [], None
    for k, value in enumerate(probability):
        if start is None and value > VAD_ONSET:
            start = k
        elif start is not None and value < VAD_OFFSET:
            expected.append((start, k))
            start = None
    if start is not None:
        expected.append((start, len(values) - 1))
    assert find_spans(probability) == expected


def test_a_long_span_is_cut_where_the_voice_is_weakest():
    probability = np.full(100, 0.9, np.float32)
    probability[[35, 70]] = 0.6
    assert cut_spans(probability, [(10, 90)], 40) == [(10, 35), (35, 70), (70, 90)]
    assert cut_spans(probability, [(10, 50)], 40) == [(10, 50)]


@given(st.lists(st.integers(1, 300), max_size=20))
def test_cut_spans_are_short_and_lose_nothing(lengths):
    edges = np.cumsum([0, *lengths]).tolist()
    spans = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    probability = np.random.default_rng(0).random(edges[-1] + 1).astype(np.float32)
    short = cut_spans(probability, spans, 50)
    assert all(0 < end - first <= 50 for first, end in short)
    assert sum(end - first for first, end in short) == sum(end - first for first, end in spans)


def test_neighbouring_spans_share_a_window_as_long_as_it_may_be():
    frames = [int(seconds / VOICE_STEP_S) for seconds in (1, 2, 4, 9, 12, 13)]
    first, second = merge_spans([(frames[0], frames[1]), (frames[2], frames[3]), (frames[4], frames[5])], 10.0)
    assert (first.start_s, first.end_s, first.voiced_s) == pytest.approx((1.03, 9.03, 6.0), abs=0.03)
    assert (second.start_s, second.end_s, second.voiced_s) == pytest.approx((12.03, 13.03, 1.0), abs=0.03)
