"""Where the voice sounds, and where in an aligned word it sets in."""

import numpy as np
import pytest

from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ
from pipeline.song import MIN_WORD_S, TimedWord
from pipeline.transcription.voice_level import EARLY_S, VoiceActivity


def voice_at(*spans: tuple[float, float], seconds: float = 10.0) -> np.ndarray:
    samples = np.full(int(seconds * SPEECH_SAMPLE_RATE_HZ), 1e-5, dtype=np.float32)
    for start_s, end_s in spans:
        samples[int(start_s * SPEECH_SAMPLE_RATE_HZ) : int(end_s * SPEECH_SAMPLE_RATE_HZ)] = 0.3
    return samples


def test_silence_at_the_edges_of_a_word_is_not_part_of_it():
    voice = VoiceActivity(voice_at((2.0, 3.0)))
    tight = voice.tighten(TimedWord(1.0, 4.0, 0.9))
    assert (tight.start_s, tight.end_s, tight.score) == (pytest.approx(2.0, abs=0.03), pytest.approx(3.0), 0.9)
    assert voice.tighten(TimedWord(5.0, 6.0, 0.9)) == TimedWord(5.0, 6.0, 0.9)


def test_a_word_that_begins_within_the_voice_was_entered_early():
    voice = VoiceActivity(voice_at((2.0, 3.0)))
    tight = voice.tighten(TimedWord(2.4, 2.8, 0.9))
    assert (tight.start_s, tight.end_s) == (pytest.approx(2.4 + EARLY_S), pytest.approx(2.8))
    short = voice.tighten(TimedWord(2.4, 2.44, 0.9))
    assert (short.start_s, short.end_s) == (pytest.approx(2.48), pytest.approx(2.48 + MIN_WORD_S))


def test_a_pause_with_reverberation_in_it_is_not_part_of_the_word_after_it():
    samples = voice_at((1.0, 2.0), (3.0, 4.0))
    tail = np.exp(-np.arange(SPEECH_SAMPLE_RATE_HZ) / SPEECH_SAMPLE_RATE_HZ * 2).astype(np.float32)
    samples[2 * SPEECH_SAMPLE_RATE_HZ : 3 * SPEECH_SAMPLE_RATE_HZ] = 0.1 * tail  # never below the floor of activity
    voice = VoiceActivity(samples)
    assert voice.share(2.0, 3.0) == 1.0
    assert voice.tighten(TimedWord(2.0, 4.0, 0.9)).start_s == pytest.approx(3.0, abs=0.04)


def test_a_held_note_that_swells_has_no_pause():
    samples = voice_at((1.0, 4.0))
    samples[SPEECH_SAMPLE_RATE_HZ : 2 * SPEECH_SAMPLE_RATE_HZ] *= 0.4  # 8 dB under the rest
    assert VoiceActivity(samples).tighten(TimedWord(1.2, 4.0, 0.9)).start_s == pytest.approx(1.2 + EARLY_S)
    samples[SPEECH_SAMPLE_RATE_HZ : 2 * SPEECH_SAMPLE_RATE_HZ] *= 0.6  # 12 dB
    assert VoiceActivity(samples).tighten(TimedWord(1.2, 4.0, 0.9)).start_s == pytest.approx(2.0, abs=0.04)


def test_share_of_time_in_which_the_voice_sounds():
    assert VoiceActivity(voice_at((2.0, 3.0))).share(1.0, 3.0) == pytest.approx(0.5, abs=0.02)
    assert VoiceActivity(np.zeros(0, np.float32)).share(0.0, 1.0) == 0.0
