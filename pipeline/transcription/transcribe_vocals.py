"""What is sung, by an independent ear: its language, its words and their times, and whether it is singing at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.lyrics.language import identify_text
from pipeline.lyrics.line_text import split_words
from pipeline.lyrics.parse import parse_lyrics
from pipeline.song import Drop, Song, Transcript, Word
from pipeline.stage import Stage
from pipeline.transcription.hallucinations import remove_hallucinations
from pipeline.transcription.transcription import Listening, Segment, weigh_no_speech
from pipeline.transcription.voice_detector import VoiceDetector
from pipeline.transcription.voice_level import VoiceActivity
from pipeline.transcription.whisper import LanguageError, Whisper, load_whisper

# A language that a manifest or the lyrics name is believed unless the singing is clearly in another. Ours: songs at
# hand reach 0.67 to 0.99 in their own language and 0.14 in any other, their accompaniment alone 0.29 to 0.49.
MIN_SUNG_PROBABILITY = 0.6
MIN_NAMED_PROBABILITY = 0.1
MIN_NO_SPEECH = 0.55  # songs at hand have 0.06 to 0.47, their accompaniment alone 0.63 to 1.0; Whisper's own is 0.6


class TranscribeVocals(Stage):
    """Transcribe the vocals, time every word and remove what nobody sings.

    Reads:  song.speech, song.voice, song.lyrics_text and song.language (hints of the language)
    Adds:   song.transcript, song.voice_probability, song.encoded, song.sung_language, song.text_language,
            song.language (that of the transcription); metrics sung_language_probability and no_speech (both over the
            whole song), voice_activity (share of the song), mean_logprob, removed_* (heard words that were removed,
            by reason)
    Drops:  "instrumental" if there is no singing, "language" if the recogniser does not know it
    Source: WhisperX, arXiv:2303.00747
    """

    name: ClassVar[str] = "transcribe_vocals"
    version: ClassVar[int] = 5

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Which recogniser, and where it runs."""

        model_path: Path  # of the recogniser
        device: str = "cpu"
        threads: int = 1
        language: str = "auto"  # ISO 639-1, or auto: what is sung

    def __init__(self, config: Config) -> None:
        """Keep the settings; weights load in `setup`."""
        self.config = config

    def setup(self) -> None:
        """Load the recogniser and the voice detector."""
        self._whisper: Whisper = load_whisper(self.config.model_path, self.config.device, self.config.threads)
        self._detector = VoiceDetector(self.config.device)

    def process(self, song: Song) -> Song | Drop:
        """Transcribe one song; see the class."""
        assert song.speech is not None
        assert song.voice is not None
        listening = Listening(self._whisper, self._detector, song.speech)
        song.voice_probability, song.encoded = listening.voice_probability, listening.encoded
        song.metrics["voice_activity"] = sum(w.voiced_s for w in listening.windows) / max(song.duration_s, 1e-3)
        probabilities = listening.identify_language()
        given = parse_lyrics(song.lyrics_text, title=song.title, artist=song.artist, language=song.language)
        song.text_language = identify_text("\n".join(line.text for line in given.lines)) or given.language
        self._choose_language(song, probabilities)
        try:
            segments = listening.transcribe(song.language)
        except LanguageError as error:
            return Drop("language", str(error))
        song.metrics["no_speech"] = weigh_no_speech(segments)
        voice = VoiceActivity(song.voice)
        words, removed = remove_hallucinations(
            [word for index, segment in enumerate(segments) for word in _words(segment, index)],
            [segment.mean_logprob for segment in segments],
            voice.share,
        )
        song.metrics |= {f"removed_{reason}": count for reason, count in removed.items()}
        song.transcript = Transcript(words, song.language, _mean_logprob(segments, words))
        song.metrics["mean_logprob"] = song.transcript.mean_logprob
        if not words:
            return Drop("instrumental", "no singing was heard in the separated vocals")
        return song

    def _choose_language(self, song: Song, probabilities: dict[str, float]) -> None:
        """Set song.sung_language and song.language: what the run or the singing says, else what it is said to be."""
        named = song.language or song.text_language
        sung = max(probabilities, key=lambda code: probabilities[code], default="")
        song.sung_language = sung
        if sung:
            song.metrics["sung_language_probability"] = probabilities[sung]
        is_clear = bool(sung) and probabilities[sung] >= MIN_SUNG_PROBABILITY
        if self.config.language != "auto":
            song.language = self.config.language
        elif named and not (is_clear and probabilities.get(named, 0.0) < MIN_NAMED_PROBABILITY):
            song.language = named
        else:
            song.language = sung or "en"  # a model of one language knows English


def is_singing(song: Song) -> bool:
    """Whether the separated voice is a voice: the recogniser knows its language, or hears speech in it.

    The two agree on songs at hand: accompaniment that a weak separator left in the voice speaks no language clearly,
    and every window of it looks like no speech. Measured in pipeline/README.md.
    """
    knows_language = song.metrics.get("sung_language_probability", 0.0) >= MIN_SUNG_PROBABILITY
    return bool(knows_language or song.metrics.get("no_speech", 0.0) < MIN_NO_SPEECH)


def explain_drop(song: Song, drop: Drop) -> Drop:
    """Return why lyrics were not found in a song, where the song itself says more than "they do not match"."""
    if drop.reason not in ("lyrics_mismatch", "low_coverage", "no_lyrics") or song.transcript is None:
        return drop
    if not is_singing(song):
        return Drop(
            "instrumental",
            f"no speech in it ({song.metrics['no_speech']:.2f}), and no language "
            f"({song.metrics.get('sung_language_probability', 0.0):.2f}); {drop.detail}",
        )
    probability = song.metrics.get("sung_language_probability", 0.0)
    if drop.reason == "lyrics_mismatch" and song.text_language and probability >= MIN_SUNG_PROBABILITY:
        if song.text_language != song.sung_language:
            found = f"lyrics in {song.text_language}, sung in {song.sung_language} ({probability:.2f})"
            return Drop("language", f"{found}; {drop.detail}")
    return drop


def _words(segment: Segment, index: int) -> list[Word]:
    texts = split_words(segment.text, "")
    return [Word(t, w.start_s, w.end_s, w.score, index) for t, w in zip(texts, segment.words, strict=True)]


def _mean_logprob(segments: list[Segment], words: list[Word]) -> float:
    """Return the mean over the segments that are left, weighted by their length; 0 where nothing is."""
    left = [segments[index] for index in sorted({word.line for word in words})]
    weights = np.array([s.end_s - s.start_s for s in left])
    return float(np.average([s.mean_logprob for s in left], weights=weights)) if left else 0.0
