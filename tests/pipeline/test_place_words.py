import numpy as np
import pytest

from pipeline.audio import SPEECH_SAMPLE_RATE_HZ
from pipeline.locate_lines import Candidate
from pipeline.place_words import VoiceActivity, place_words
from pipeline.whisper import MAX_WINDOW_S, TimedWord


def voice_at(*spans: tuple[float, float], seconds: float = 10.0) -> np.ndarray:
    samples = np.full(int(seconds * SPEECH_SAMPLE_RATE_HZ), 1e-5, dtype=np.float32)
    for start_s, end_s in spans:
        samples[int(start_s * SPEECH_SAMPLE_RATE_HZ) : int(end_s * SPEECH_SAMPLE_RATE_HZ)] = 0.3
    return samples


def line(text: str, start_s: float, end_s: float) -> Candidate:
    return Candidate(text.split(), text, start_s=start_s, end_s=end_s)


def test_silence_at_the_edges_of_a_word_is_not_part_of_it():
    voice = VoiceActivity(voice_at((2.0, 3.0)))
    tight = voice.tighten(TimedWord(1.0, 4.0, 0.9))
    assert (tight.start_s, tight.end_s) == (pytest.approx(2.0, abs=0.04), pytest.approx(3.0, abs=0.04))
    assert voice.tighten(TimedWord(5.0, 6.0, 0.9)) == TimedWord(5.0, 6.0, 0.9)


def test_a_pause_with_reverberation_in_it_is_not_part_of_the_word_after_it():
    samples = voice_at((1.0, 2.0), (3.0, 4.0))
    tail = np.exp(-np.arange(SPEECH_SAMPLE_RATE_HZ) / SPEECH_SAMPLE_RATE_HZ * 2).astype(np.float32)
    samples[2 * SPEECH_SAMPLE_RATE_HZ : 3 * SPEECH_SAMPLE_RATE_HZ] = 0.1 * tail  # never below the floor of activity
    voice = VoiceActivity(samples)
    assert voice.share(2.0, 3.0) == 1.0
    assert voice.tighten(TimedWord(2.0, 4.0, 0.9)).start_s == pytest.approx(3.0, abs=0.04)
    assert voice.tighten(TimedWord(3.0, 4.0, 0.9)).start_s == pytest.approx(3.0, abs=0.04)


def test_share_of_time_in_which_the_voice_sounds():
    assert VoiceActivity(voice_at((2.0, 3.0))).share(1.0, 3.0) == pytest.approx(0.5, abs=0.02)
    assert VoiceActivity(np.zeros(0, np.float32)).share(0.0, 1.0) == 0.0


def test_windows_fit_the_model_and_hold_every_line_once():
    lines = [line(f"word{k} again", 5.0 * k, 5.0 * k + 4.0) for k in range(40)]
    windows = []

    def align(start_s, end_s, words):
        windows.append((start_s, end_s, list(words)))
        step = (end_s - start_s) / len(words)
        return [TimedWord(start_s + k * step, start_s + (k + 1) * step, 0.5) for k in range(len(words))]

    place_words(lines, align, VoiceActivity(voice_at((0, 200), seconds=200)), 200.0)
    assert all(end_s - start_s <= MAX_WINDOW_S for start_s, end_s, _ in windows)
    assert [word for _, _, words in windows for word in words] == [word for x in lines for word in x.words]
    onsets = [word.start_s for x in lines for word in x.timed]
    assert onsets == sorted(onsets)


def test_times_are_monotone_and_inside_the_song_whatever_the_aligner_says():
    rng = np.random.default_rng(0)

    def align(start_s, end_s, words):
        return [TimedWord(*sorted(rng.uniform(0, 20, 2)), 0.5) for _ in words]

    lines = [line("one two three", 1.0, 3.0), line("four five", 4.0, 6.0)]
    place_words(lines, align, VoiceActivity(voice_at()), 10.0)
    words = [word for x in lines for word in x.timed]
    onsets = [word.start_s for word in words]
    assert onsets == sorted(onsets)
    assert all(0 <= word.start_s <= word.end_s <= 10.0 for word in words)
