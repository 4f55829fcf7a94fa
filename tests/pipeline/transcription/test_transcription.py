from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest

from pipeline.song import TimedWord
from pipeline.transcription.encoded_song import BATCH_WINDOWS
from pipeline.transcription.transcription import Listening, Segment, weigh_no_speech
from pipeline.transcription.voice_detector import VoicedWindow
from pipeline.transcription.whisper import LanguageError

RATE = 16_000
VOICE = np.full(10, 0.7, np.float32)  # the probability of a voice, frame by frame


class FakeWhisper:
    """Encodes a window as its first sample: that is the language it is in, and what is heard in it."""

    is_multilingual = True
    languages = ("en", "es")

    def __init__(self) -> None:
        self.model = self
        self.num_encoded = 0

    def encode(self, windows):
        self.num_encoded += len(windows)
        codes = np.array([window[0] for window in windows], np.float32)
        return ctranslate2.StorageView.from_array(codes[:, None, None])

    def codes(self, encoded) -> list[int]:
        return np.asarray(encoded).astype(int).ravel().tolist()

    def detect_language(self, encoded):
        spanish, english = [("<|es|>", 0.9), ("<|en|>", 0.1)], [("<|en|>", 0.8), ("<|es|>", 0.2)]
        return [spanish if code else english for code in self.codes(encoded)]

    def require_language(self, language):
        if language not in self.languages:
            raise LanguageError(language)

    def prompt(self, language):
        return [0]

    def generate(self, encoded, prompts, **_):
        codes = self.codes(encoded)
        assert len(codes) == len(prompts)
        return [SimpleNamespace(sequences_ids=[[code, code]], scores=[-0.3], no_speech_prob=0.1) for code in codes]

    def decode(self, tokens):
        return f"heard {tokens[0]}"

    def align_encoded(self, encoded, spans, words, language):
        return [
            [TimedWord(start_s, end_s, 0.9) for _ in window]
            for (start_s, end_s), window in zip(spans, words, strict=True)
        ]


def listening(windows: list[VoicedWindow], spanish: list[bool], whisper: FakeWhisper | None = None) -> Listening:
    samples = np.zeros(RATE * 400, np.float32)
    for window, code in zip(windows, spanish, strict=True):
        samples[int(window.start_s * RATE)] = float(code)
    return Listening(whisper or FakeWhisper(), SimpleNamespace(find=lambda *_: (VOICE, windows)), samples)


def test_the_language_is_that_of_the_whole_song_by_how_long_is_sung():
    """An English introduction of 20 s does not decide over 60 s in Spanish."""
    windows = [VoicedWindow(0, 20, 20), VoicedWindow(40, 70, 30), VoicedWindow(80, 110, 30)]
    song = listening(windows, [False, True, True])
    assert song.identify_language() == pytest.approx(
        {"es": (0.2 * 20 + 0.9 * 60) / 80, "en": (0.8 * 20 + 0.1 * 60) / 80}
    )


def test_every_window_is_encoded_once_and_heard_in_order():
    windows = [VoicedWindow(10 * k, 10 * k + 9, 9) for k in range(2 * BATCH_WINDOWS + 1)]
    song = listening(windows, [bool(k % 2) for k in range(len(windows))])
    song.identify_language()
    segments = song.transcribe("es")
    assert song._whisper.num_encoded == len(windows)
    assert [s.start_s for s in segments] == [w.start_s for w in windows]
    assert [s.text for s in segments[:3]] == ["heard 0", "heard 1", "heard 0"]
    assert all(len(s.words) == 2 for s in segments)
    assert segments[0].mean_logprob == pytest.approx(-0.2)  # two tokens and the end


def test_the_probability_of_a_voice_is_kept():
    assert listening([VoicedWindow(0, 9, 9)], [True]).voice_probability is VOICE


def test_a_song_without_voice_has_no_language_and_no_words():
    song = listening([], [])
    assert song.identify_language() == {}
    assert song.transcribe("en") == []
    assert weigh_no_speech([]) == 1.0


def test_a_model_of_one_language_is_not_asked(monkeypatch):
    monkeypatch.setattr(FakeWhisper, "is_multilingual", False)
    assert listening([VoicedWindow(0, 9, 9)], [True]).identify_language() == {}


def test_an_unknown_language_is_an_error():
    with pytest.raises(LanguageError):
        listening([], []).transcribe("xx")


def test_no_speech_is_weighed_by_length():
    segments = [Segment(0, 30, "", 0.0, 0.2, []), Segment(40, 50, "", 0.0, 1.0, [])]
    assert weigh_no_speech(segments) == pytest.approx(0.4)


class ShortOfMemory(FakeWhisper):
    """Runs on a GPU that has no memory for more than three windows."""

    def check(self, encoded) -> None:
        if encoded.shape[0] > 3:
            raise RuntimeError("CUDA failed with error out of memory")

    def detect_language(self, encoded):
        self.check(encoded)
        return super().detect_language(encoded)

    def generate(self, encoded, prompts, **settings):
        self.check(encoded)
        return super().generate(encoded, prompts, **settings)


def test_a_gpu_without_memory_for_a_batch_hears_the_same():
    windows = [VoicedWindow(10 * k, 10 * k + 9, 9) for k in range(2 * BATCH_WINDOWS - 1)]
    spanish = [bool(k % 3) for k in range(len(windows))]
    plain = listening(windows, spanish)
    short = listening(windows, spanish, ShortOfMemory())
    assert short.identify_language() == plain.identify_language()
    assert short.transcribe("es") == plain.transcribe("es")


STUCK = "round and round we go " * 4


class StuckWhisper(FakeWhisper):
    """Says of every second window the same again and again, unless that is forbidden."""

    def __init__(self, way_out: str = "", score: float = -0.6) -> None:
        super().__init__()
        self.way_out, self.score = way_out, score
        self.settings: list[dict[str, int]] = []

    def generate(self, encoded, prompts, **settings):
        self.settings.append(settings)
        return (
            super().generate(encoded, prompts)
            if "no_repeat_ngram_size" not in settings
            else [SimpleNamespace(sequences_ids=[[9, 9]], scores=[self.score], no_speech_prob=0.1) for _ in prompts]
        )

    def decode(self, tokens):
        return {0: "heard once", 1: STUCK, 9: self.way_out}[tokens[0]]


@pytest.mark.parametrize(
    ("way_out", "score", "is_taken"),
    [
        ("round and round we go, then home", -0.6, True),
        ("round and round we go, then home", -1.6, False),  # nothing would be left of so unsure a window
        ("round and round we go, then home " * 4, -0.6, False),
        ("round and round we go", -0.6, False),  # a chorus that is sung four times
    ],
)
def test_a_window_in_which_the_decoder_is_stuck_is_decoded_again(way_out, score, is_taken):
    """What is heard the second time counts where it says more; other windows keep what was heard first."""
    samples = np.zeros(RATE * 40, np.float32)
    samples[20 * RATE] = 1.0
    windows = [VoicedWindow(0, 9, 9), VoicedWindow(20, 29, 9)]
    whisper = StuckWhisper(way_out, score)
    first, second = Listening(whisper, SimpleNamespace(find=lambda *_: (VOICE, windows)), samples).transcribe("en")
    assert first.text == "heard once"
    assert second.text == (way_out if is_taken else STUCK)
    assert second.mean_logprob == pytest.approx(score * 2 / 3 if is_taken else -0.2)
    assert [settings.get("no_repeat_ngram_size") for settings in whisper.settings] == [None, 3]


def test_a_window_is_decoded_once_where_nothing_repeats():
    whisper = StuckWhisper()
    samples = np.zeros(RATE * 10, np.float32)
    Listening(whisper, SimpleNamespace(find=lambda *_: (VOICE, [VoicedWindow(0, 9, 9)])), samples).transcribe("en")
    assert len(whisper.settings) == 1
