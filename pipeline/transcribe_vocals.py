"""What is sung, by an independent ear: WhisperX on the separated vocals."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.match_words import is_han
from pipeline.song import Drop, Song
from pipeline.stage import Stage
from pipeline.whisper import LanguageError, Whisper, load_whisper


class TranscribeVocals(Stage):
    """Transcribe the vocals and time every word.

    Reads:  song.speech, song.lyrics_text (its script speaks for the language), song.language (if given)
    Adds:   song.transcript, song.language
    Drops:  "instrumental" if there is no singing, "language" if the recogniser does not know it
    Source: WhisperX, arXiv:2303.00747
    """

    name: ClassVar[str] = "transcribe_vocals"
    version: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Which recogniser, and where it runs."""

        model_name: str
        device: str = "cpu"
        threads: int = 1
        language: str = "auto"  # ISO 639-1, or auto: the song's own, else detected

    def __init__(self, config: Config) -> None:
        """Keep the settings; weights load in `setup`."""
        self.config = config

    def setup(self) -> None:
        """Load the recogniser."""
        self._whisper: Whisper = load_whisper(self.config.model_name, self.config.device, self.config.threads)

    def process(self, song: Song) -> Song | Drop:
        """Transcribe one song; see the class."""
        assert song.speech is not None
        if self.config.language != "auto":
            song.language = self.config.language
        elif not song.language:
            han_share = sum(map(is_han, song.lyrics_text)) / max(len(song.lyrics_text), 1)
            song.language = "zh" if han_share > 0.2 else self._whisper.detect_language(song.speech)
        try:
            song.transcript = self._whisper.transcribe(song.speech, song.language)
        except LanguageError as error:
            return Drop("language", str(error))
        if not song.transcript.words:
            return Drop("instrumental", "no singing was heard in the separated vocals")
        return song
