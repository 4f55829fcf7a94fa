"""What the search for lines is told of a song, from an aligner, a recogniser and a voice detector that are made up."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.song import Song, TimedWord
from pipeline.transcription.voice_detector import VOICE_STEP_S
from pipeline.verification.sung_audio import SungAudio


class CountingSong:
    def __init__(self) -> None:
        self.questions: list[tuple[float, float, tuple[tuple[str, ...], ...], str]] = []
        self.aligned: list[tuple[float, float]] = []

    def align(self, start_s, end_s, words, language):
        self.aligned.append((start_s, end_s))
        return [TimedWord(start_s, end_s, 0.5) for _ in words]

    def measure_support(self, start_s, end_s, lines, language):
        self.questions.append((start_s, end_s, lines, language))
        return np.arange(len(lines), dtype=float)


class SecondEar:
    """An aligner that hears every word 0.4 s after the start of the voice, and its song."""

    def open_song(self, samples, language):
        assert language == "en"
        return self

    def align(self, start_s, end_s, words):
        return [TimedWord(2.4, 4.0, 0.1) for _ in words]

    def measure_evidence(self, words):
        return float(len(words))


def open_audio(aligner: SecondEar | None = None, encoded: CountingSong | None = None) -> tuple[SungAudio, CountingSong]:
    """Return 10 s in which a voice sounds from 2 to 4 s."""
    song = Song(song_id="a", path=Path("a.wav"), audio="a.wav", duration_s=10.0, language="en")
    song.voice = np.full(160_000, 1e-5, np.float32)
    song.voice[32_000:64_000] = 0.3
    song.speech = song.voice
    song.voice_probability = np.full(round(10 / VOICE_STEP_S), 0.29, np.float32)
    song.voice_probability[round(2 / VOICE_STEP_S) : round(4 / VOICE_STEP_S)] = 0.31
    encoded = encoded or CountingSong()
    return SungAudio(encoded, aligner, song), encoded  # type: ignore[arg-type]


def test_equal_questions_are_asked_once():
    audio, encoded = open_audio()
    first = audio.measure_support(1.0, 2.0, [["la", "lo"], ["li"]])
    first[:] = 9.0  # the caller's own
    assert audio.measure_support(1.0, 2.0, [("la", "lo"), ("li",)]).tolist() == [0.0, 1.0]
    assert encoded.questions == [(1.0, 2.0, (("la", "lo"), ("li",)), "en")]
    audio.measure_support(1.0, 2.6, [["la", "lo"], ["li"]])
    audio.measure_support(1.0, 2.0, [["la"], ["lo", "li"]])
    assert len(encoded.questions) == 3


def test_nearly_the_same_window_of_the_same_lines_is_asked_once():
    """The first window answers for those near it, so that small steps do not add up."""
    audio, encoded = open_audio()
    for start_s in (1.0, 1.5, 0.5, 1.75):
        audio.align(start_s, 5.0 - start_s / 4, [["la"]])
        audio.measure_support(start_s, 5.0, [["la"]])
    assert encoded.aligned == [(1.0, 4.75), (1.75, 4.5625)]
    assert [question[:2] for question in encoded.questions] == encoded.aligned
    audio.align(1.0, 5.3, [["la"]])  # the end counts as well
    audio.align(1.0, 4.75, [["lo"]])
    assert encoded.aligned[2:] == [(1.0, 5.3), (1.0, 4.75)]


def test_the_second_aligner_takes_the_whole_song_at_once():
    audio, _ = open_audio(SecondEar())
    path = audio.second_path([["la", "lo"], ["li"]])
    assert [[word.start_s for word in line] for line in path] == [[2.4, 2.4], [2.4]]
    assert audio.second_path([]) == []
    assert audio.second_score(2.0, 5.0, ["la", "lo"]) == pytest.approx(0.1)


def test_without_a_second_aligner_it_has_no_place_and_no_score():
    audio, _ = open_audio()
    assert audio.second_path([["la"]]) == []
    assert audio.second_score(2.0, 5.0, ["la"]) == 0.0


def test_share_in_which_somebody_sings():
    audio, _ = open_audio()
    assert audio.voiced_share(2.1, 3.9) == 1.0
    assert audio.voiced_share(5.0, 9.0) == 0.0
    assert audio.voiced_share(1.0, 3.0) == pytest.approx(0.5, abs=0.02)
    assert audio.voiced_share(30.0, 31.0) == 0.0


def test_words_have_no_silence_around_them():
    ((word,),) = open_audio()[0].align(1.0, 5.0, [["la"]])
    assert (word.start_s, word.end_s) == (pytest.approx(2.0, abs=0.03), pytest.approx(4.0))


def test_words_entered_late_start_earlier():
    class Late(CountingSong):
        def align(self, start_s, end_s, words, language):
            return [TimedWord(2.0, 3.6, 0.5), TimedWord(3.6, 4.0, 0.5)]

    audio = open_audio(encoded=Late())[0]
    ((first, second),) = audio.align(1.0, 5.0, [["la", "window"]])  # one and two syllables of 2 s
    assert second.start_s == pytest.approx(2.7, abs=0.1)
    assert first.end_s == second.start_s


def test_a_second_aligner_has_its_say():
    audio = open_audio(SecondEar())[0]
    ((word,),) = audio.align(1.0, 5.0, [["la"]])
    assert (word.start_s, word.score) == (pytest.approx(2.2, abs=0.03), 0.5)
    assert audio.measure_evidence(["la", "lo"]) == 2.0
    assert open_audio()[0].measure_evidence(["la", "lo"]) is None


def test_a_line_begins_where_the_second_aligner_hears_it():
    """And only its first words move: the same word inside of a line stays with the voice."""

    class Later(SecondEar):
        def align(self, start_s, end_s, words):
            return [TimedWord(3.0, 4.0, 0.1) for _ in words]

    audio = open_audio(Later())[0]
    assert [[word.start_s for word in line] for line in audio.align(1.0, 5.0, [["la"], ["la"]])] == [[3.0], [3.0]]
    ((first, second),) = audio.align(1.0, 5.0, [["la", "la"]])
    assert (first.start_s, second.start_s) == (3.0, 3.0)
