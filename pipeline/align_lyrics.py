"""Given lyrics against the singing: every line placed, and kept, repaired, recovered or dropped with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.adopt_transcript import adopt_transcript
from pipeline.locate_lines import (
    TYPICAL_WORD_S,
    Candidate,
    estimate_times,
    explain_runs,
    locate_expected,
    locate_lines,
)
from pipeline.lyrics import LyricLine, parse_lyrics, split_words
from pipeline.match_words import SAME_WORD_SIMILARITY, alignment_score, similarities, sound_key
from pipeline.place_words import VoiceActivity, place_words
from pipeline.song import Drop, DroppedLine, Line, Song, Word
from pipeline.stage import Stage
from pipeline.whisper import TimedWord, Whisper, load_whisper

# A line that was not heard may still be sung where the recogniser was deaf: it is tried where the voice sounds.
MIN_UNHEARD_VOICE_SHARE = 0.5
MIN_UNHEARD_LINE_SCORE = 0.35
NUM_SHUFFLES = 10  # enough to know their mean to a hundredth
# A given word is wrong where another was heard clearly in its place.
MIN_REPAIR_HEARD_SCORE = 0.6
MAX_REPAIRED_SHARE = 0.4


class AlignLyrics(Stage):
    """Check the given lyrics line by line against the vocals and time every word.

    Reads:  song.lyrics_text, song.speech, song.voice, song.transcript, song.language
    Adds:   song.header_labels, song.lines, song.words, song.dropped; metrics evidence (see `measure_evidence`),
            coverage (share of what was heard that the given lines explain), cer (character error rate of kept lines
            against what was heard), mean_score (of the words), given_found (share of the given words that were heard)
    Drops:  "no_lyrics", "lyrics_mismatch", "low_coverage"
    """

    name: ClassVar[str] = "align_lyrics"
    version: ClassVar[int] = 1

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Model and thresholds of the verdict."""

        model_name: str
        device: str = "cpu"
        threads: int = 1
        min_evidence: float = 0.15  # see `measure_evidence`; sung lyrics reach 0.25 to 0.8, those of other songs 0.03
        min_coverage: float = 0.25  # of the heard words
        lyrics_from_asr: bool = False  # a song without lyrics gets what was heard

    def __init__(self, config: Config) -> None:
        """Keep the settings; weights load in `setup`."""
        self.config = config

    def setup(self) -> None:
        """Load the aligner: the recogniser's own weights."""
        self._whisper: Whisper = load_whisper(self.config.model_name, self.config.device, self.config.threads)

    def process(self, song: Song) -> Song | Drop:
        """Align and check one song; see the class."""
        assert song.transcript is not None
        assert song.voice is not None
        parsed = parse_lyrics(song.lyrics_text)
        song.dropped = list(parsed.dropped)
        song.header_labels = [header.label for header in parsed.headers]
        candidates = [_candidate(line, song.language) for line in parsed.lines]
        candidates = [c for c in candidates if c.words]
        if not candidates and self.config.lyrics_from_asr:
            return adopt_transcript(song)
        if not candidates:
            return Drop("no_lyrics", "no line to sing in the given lyrics")
        heard = song.transcript.words
        locate_lines(candidates, heard)
        locate_expected(candidates, heard)
        lines = explain_runs(candidates, heard)
        song.metrics["evidence"] = measure_evidence(candidates, heard)
        song.metrics.update(_agreement(candidates, lines, heard))
        if song.metrics["evidence"] < self.config.min_evidence:
            song.dropped += [DroppedLine(c.text, "not_sung") for c in candidates]
            return Drop(
                "lyrics_mismatch", f"evidence {song.metrics['evidence']:.2f}, expected {self.config.min_evidence:g}"
            )
        if song.metrics["coverage"] < self.config.min_coverage:
            song.dropped += [DroppedLine(c.text, "not_sung") for c in candidates if not c.is_found]
            return Drop("low_coverage", f"the given lines explain {song.metrics['coverage']:.0%} of what was heard")
        estimate_times(lines, heard)
        voice = VoiceActivity(song.voice)
        lines = self._try_unheard(song, candidates, lines, voice)
        for line in lines:
            _repair(line, heard)
        self._place(song, lines, voice)
        _fill_song(song, lines, [c for c in candidates if c not in lines])
        song.metrics["mean_score"] = float(np.mean([w.score for w in song.words]))
        return song

    def _align(self, song: Song, start_s: float, end_s: float, words: Sequence[str]) -> list[TimedWord]:
        assert song.speech is not None
        return self._whisper.align(song.speech, start_s, end_s, words, song.language)

    def _place(self, song: Song, lines: list[Candidate], voice: VoiceActivity) -> None:
        place_words(lines, lambda a, b, words: self._align(song, a, b, words), voice, song.duration_s)

    def _try_unheard(
        self, song: Song, candidates: list[Candidate], lines: list[Candidate], voice: VoiceActivity
    ) -> list[Candidate]:
        """Add given lines that were not heard where their neighbours leave room in which the voice sounds."""
        for k, candidate in enumerate(candidates):
            if candidate.is_found:
                continue
            before = next((c for c in candidates[k - 1 :: -1] if c in lines), None) if k else None
            after = next((c for c in candidates[k + 1 :] if c in lines), None)
            start_s = before.end_s if before else 0.0
            end_s = after.start_s if after else song.duration_s
            end_s = min([end_s, *(c.start_s for c in lines if c.start_s >= start_s and c is not before)])
            need_s = len(candidate.words) * TYPICAL_WORD_S / 2
            if end_s - start_s < need_s or voice.share(start_s, end_s) < MIN_UNHEARD_VOICE_SHARE:
                continue
            timed = self._align(song, start_s, min(end_s, start_s + 28.0), candidate.words)
            if np.mean([w.score for w in timed]) < MIN_UNHEARD_LINE_SCORE:
                continue
            candidate.start_s, candidate.end_s = timed[0].start_s, timed[-1].end_s
            place = next((p for p, c in enumerate(lines) if c.start_s > candidate.start_s), len(lines))
            lines = [*lines[:place], candidate, *lines[place:]]
        return lines


def _candidate(line: LyricLine, language: str) -> Candidate:
    return Candidate(split_words(line.text, language), line.text, line.section, line.section_index)


def measure_evidence(candidates: Sequence[Candidate], heard: Sequence[Word]) -> float:
    """Return how much better the given words agree with the heard ones in their order than shuffled.

    The alignment score per given word, less the mean score of shuffles of the same words: words that every song has
    agree as well in any order, so they prove nothing. About 0 for lyrics of another song, 1 for a perfect transcript.
    """
    words = [word for candidate in candidates for word in candidate.words]
    matrix = similarities(words, [w.text for w in heard])
    random = np.random.default_rng(0)
    shuffled = [alignment_score(matrix[random.permutation(len(words))]) for _ in range(NUM_SHUFFLES)]
    return (alignment_score(matrix) - float(np.mean(shuffled))) / len(words)


def _agreement(candidates: Sequence[Candidate], lines: Sequence[Candidate], heard: Sequence[Word]) -> dict[str, float]:
    """Measure how well given and heard words explain each other, as shares of letters so that long words count more."""
    given = sum(len(sound_key(w)) for c in candidates for w in c.words)
    found = sum(c.similarity * sum(len(sound_key(w)) for w in c.words) for c in candidates if c.is_found)
    heard_sizes = np.array([len(sound_key(w.text)) for w in heard], dtype=float)
    explained = np.zeros(len(heard))
    matched_errors = matched_letters = 0.0
    for line in lines:
        if line.source == "asr":
            continue
        letters = sum(len(sound_key(w)) for w in line.words)
        matched_letters += letters
        matched_errors += (1 - line.similarity) * letters
        explained[line.first_heard : line.last_heard + 1] = line.similarity
    return {
        "given_found": float(found / max(given, 1)),
        "coverage": float((explained * heard_sizes).sum() / max(heard_sizes.sum(), 1)),
        **({"cer": float(matched_errors / matched_letters)} if matched_letters else {}),
    }


def _repair(line: Candidate, heard: Sequence[Word]) -> None:
    """Replace words of a given line where another word was clearly heard between two words that agree."""
    if line.source == "asr" or not line.heard:
        return
    known = dict(line.heard)
    words, repaired = list(line.words), 0
    for k, word in enumerate(line.words):
        if k in known:
            continue
        j = known[k - 1] + 1 if k - 1 in known else (known[k + 1] - 1 if k + 1 in known else -1)
        if not line.first_heard <= j <= line.last_heard or j in known.values():
            continue
        after_fits = k + 1 == len(line.words) or known.get(k + 1) == j + 1
        before_fits = k == 0 or known.get(k - 1) == j - 1
        if not (after_fits and before_fits) or heard[j].score < MIN_REPAIR_HEARD_SCORE:
            continue
        if similarities([word], [heard[j].text])[0, 0] < SAME_WORD_SIMILARITY:
            words[k] = _like(heard[j].text, word)
            repaired += 1
    if repaired and repaired <= max(1, MAX_REPAIRED_SHARE * len(words)):
        text = line.text
        for old, new in zip(line.words, words, strict=True):
            if old != new:
                text = text.replace(old, new, 1)
        line.words, line.text, line.edit = words, text, "repaired"


def _like(heard: str, given: str) -> str:
    """Write a heard word with the capital and the punctuation of the given one."""
    core = heard.strip(".,!?;:，。！？、\"'")
    core = core.capitalize() if given[:1].isupper() else core.lower()
    stripped = given.rstrip(".,!?;:，。！？、")
    return core + given[len(stripped) :]


def _fill_song(song: Song, lines: Sequence[Candidate], missing: Sequence[Candidate]) -> None:
    song.lines = [
        Line(c.text, c.start_s, c.end_s, c.section or "verse", c.score, c.source, c.edit, c.section_index)
        for c in lines
    ]
    song.words = [
        Word(text, timed.start_s, timed.end_s, timed.score, index)
        for index, c in enumerate(lines)
        for text, timed in zip(c.words, c.timed, strict=True)
    ]
    song.dropped += [DroppedLine(c.text, "not_sung") for c in missing]
