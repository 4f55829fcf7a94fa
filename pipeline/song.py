"""The records that stages exchange: a song with what is known of it, its words, lines and sections."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_STEM_BYTES = 180
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|]")


MIN_WORD_S = 0.04


Edit = Literal["kept", "repaired", "recovered", "expanded"]


@dataclass(slots=True)
class Word:
    """One sung word; `line` is an index into the song's lines, `score` is a probability in [0, 1]."""

    text: str
    start_s: float
    end_s: float
    score: float
    line: int


@dataclass(slots=True)
class Line:
    """One clean line in sung order; `score` is the mean score of its words.

    `support`: how much more probable the audio makes the line than silence does, in nats per token.
    `agreement`: mean similarity in [0, 1] of its words to those heard without knowing the lyrics; 0 if none was heard.
    """

    text: str
    start_s: float
    end_s: float
    section: str
    score: float
    source: Literal["lyrics", "asr"]
    edit: Edit
    section_index: int = -1  # which header of the given lyrics the line stands under; -1: none
    support: float = 0.0
    agreement: float = 0.0


@dataclass(slots=True)
class Section:
    """A labelled span of the song; all sections of a song cover it without gaps."""

    label: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class DroppedLine:
    """An input line that is not in the output, and why; `line_number` counts from 1 in the lyrics as given."""

    text: str
    reason: str
    line_number: int | None = None
    support: float | None = None  # of a line that is not sung: the highest where it was searched, nats per token


@dataclass(slots=True)
class Drop:
    """A song that leaves the pipeline, and why; `detail` is for people."""

    reason: str
    detail: str = ""


@dataclass(slots=True)
class Transcript:
    """What an independent recogniser heard: words in time order (their `line` is the speech segment they come from)."""

    words: list[Word]
    language: str
    mean_logprob: float  # of the recogniser's segments, weighted by duration; 0 where nothing was heard


@dataclass(frozen=True, slots=True)
class AudioFingerprint:
    """Landmarks of one song, sorted by name: uint64 [N] and int32 [N], `frames` in units of 16 ms from the start."""

    names: NDArray[np.uint64]
    frames: NDArray[np.int32]


@dataclass(slots=True, kw_only=True)
class Song:
    """One song on its way through the stages; each stage fills in the fields that it says it adds."""

    song_id: str
    path: Path
    audio: str  # path relative to the input folder
    lyrics_text: str = ""
    language: str = ""  # ISO 639-1: what a manifest says, then what is sung
    title: str = ""
    artist: str = ""
    sha256: str = ""
    landmarks: AudioFingerprint | None = None
    mix: NDArray[np.float32] | None = None  # [C, L] at `sample_rate`
    sample_rate: int = 0
    channels: int = 0
    duration_s: float = 0.0
    vocals: NDArray[np.float32] | None = None  # [C, L] at `sample_rate`
    voice: NDArray[np.float32] | None = None  # [L], vocals at 16 kHz mono: where somebody sings
    speech: NDArray[np.float32] | None = None  # [L], 16 kHz mono: what the recogniser hears, see SeparateVocals
    voice_probability: NDArray[np.float32] | None = None  # [frames of whisper.VOICE_STEP_S], that somebody sings
    encoded: object | None = None  # an EncodedSong: `speech` as the recogniser's encoder hears it
    transcript: Transcript | None = None
    sung_language: str = ""  # what the recogniser takes the singing for; "" where it knows one language only
    text_language: str = ""  # of the given lyrics; "" where they do not tell
    header_labels: list[str] = field(default_factory=list)  # of the given lyrics, in their order
    lines: list[Line] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    dropped: list[DroppedLine] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    songbloom_lyrics: str = ""
    lyrics_offset_s: float | None = None  # see pipeline.given_times.TimeFit; None: no times, or none that fit
    lyrics_drift: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word of given text with its place in the audio; `score` is the mean probability of its tokens."""

    start_s: float
    end_s: float
    score: float


def file_stem(song_id: str) -> str:
    """Return a file name for a song: folders become `__`; what had to be replaced or cut is told apart by a hash."""
    stem = _UNSAFE.sub("_", song_id.replace("/", "__")).strip(". ")
    encoded = stem.encode()[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    if encoded != song_id.replace("/", "__") or "__" in song_id:
        return f"{encoded}-{hashlib.sha256(song_id.encode()).hexdigest()[:8]}"
    return encoded
