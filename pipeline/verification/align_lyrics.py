"""Given lyrics against the singing: every line placed, and kept, repaired, recovered or dropped with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.alignment.by_language import Aligners
from pipeline.lyrics.parse import LyricLine, ParsedLyrics, parse_lyrics, split_words
from pipeline.lyrics.sounds import sound_key
from pipeline.lyrics.source import read_source
from pipeline.song import Drop, DroppedLine, Line, Song, Word
from pipeline.stage import Stage
from pipeline.transcription.adopt_transcript import adopt_transcript
from pipeline.transcription.encoded_song import EncodedSong
from pipeline.transcription.whisper import LanguageError, Whisper, load_whisper
from pipeline.verification.find_sung import find_sung
from pipeline.verification.given_times import expect_lines, fit_lines
from pipeline.verification.locate_lines import Candidate, estimate_times, explain_runs, locate_expected, locate_lines
from pipeline.verification.match_repetitions import match_repetitions
from pipeline.verification.place_words import place_words
from pipeline.verification.repair_line import repair_line
from pipeline.verification.search_expected import name_repetitions, settle_expected
from pipeline.verification.sung_audio import SungAudio
from pipeline.verification.word_alignment import alignment_score, similarities

MIN_FINAL_SUPPORT = 0.0  # below it silence explains a line better than the audio does where it ended up
MIN_ORDER_EVIDENCE = 0.1  # more than lines in the order of their times have
NUM_SHUFFLES = 10  # enough to know their mean to a hundredth


class AlignLyrics(Stage):
    """Check the given lyrics line by line against the vocals and time every word.

    Reads:  song.lyrics_text, song.speech, song.voice, song.voice_probability, song.transcript, song.language,
            song.encoded (not if the verifier is another model than the recogniser)
    Adds:   song.header_labels, song.lines, song.words, song.dropped, song.lyrics_offset_s, song.lyrics_drift;
            metrics evidence (see `measure_evidence`),
            coverage (share of what was heard that the given lines explain), cer (character error rate of kept lines
            against what was heard), mean_score (of the words), given_found (share of the given words that were heard)
    Drops:  "no_lyrics", "lyrics_mismatch", "low_coverage", "language" if the verifier does not know it
    """

    name: ClassVar[str] = "align_lyrics"
    version: ClassVar[int] = 11

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Model and thresholds of the verdict."""

        model_path: Path  # of the Whisper that scores lines and places words
        aligner_name: str = "whisper"  # as `pipeline.alignment.by_language.Aligners` takes it
        device: str = "cpu"
        threads: int = 1
        min_evidence: float = 0.15  # see `measure_evidence`; sung lyrics reach 0.1 to 0.8, those of other songs 0.05
        min_coverage: float = 0.25  # of the heard words
        # Of the words by sounds alone, see `CtcSong.measure_evidence`: right lyrics of songs at hand reach 0.41 to 4
        # but for three (-0.05, 0.24, 0.28), those of other songs at most 0.36.
        min_sound_evidence: float = 0.45
        # Of both together, each as a share of its own: right lyrics at hand have 1.43 and more, those of other songs at
        # most 1.00 (517 pairs).
        min_joint_evidence: float = 1.2
        lyrics_from_asr: bool = False  # a song without lyrics gets what was heard

    def __init__(self, config: Config) -> None:
        """Keep the settings; weights load in `setup`."""
        self.config = config

    def setup(self) -> None:
        """Load the verifier; a CTC model loads with the first song of its language."""
        self._whisper: Whisper = load_whisper(self.config.model_path, self.config.device, self.config.threads)
        self._aligners = Aligners(self.config.aligner_name, device=self.config.device)

    def process(self, song: Song) -> Song | Drop:
        """Align and check one song; see the class."""
        assert song.transcript is not None
        assert song.voice is not None
        parsed = read_given(song)
        song.dropped = [*parsed.dropped, *_drop_adlibs(parsed.lines)]
        song.header_labels = [header.label for header in parsed.headers]
        candidates = [c for c in _make_candidates(parsed.lines, song.language) if c.words]
        if not candidates and self.config.lyrics_from_asr:
            return adopt_transcript(song)
        if not candidates:
            return Drop("no_lyrics", "no line to sing in the given lyrics")
        try:
            self._whisper.require_language(song.language)
        except LanguageError as error:
            return _leave(song, candidates, Drop("language", str(error)))
        heard = song.transcript.words
        locate_lines(candidates, heard)
        locate_expected(candidates, heard)
        lines = explain_runs(candidates, heard)
        audio = SungAudio(self._encoded(song), self._aligners.for_language(song.language), song)
        song.metrics["evidence"] = measure_evidence(candidates, heard)
        song.metrics.update(_agreement(candidates, lines, heard))
        if drop := self._judge(song, candidates, audio):
            return _leave(song, candidates, drop)
        estimate_times(lines, heard)
        lines = match_repetitions(candidates, lines, audio)
        expected = expect_lines(candidates, lines)
        lines = name_repetitions(candidates, lines, expected)
        lines = find_sung(candidates, lines, heard, audio, expected)
        for line in lines:
            repair_line(line, heard, audio)
        place_words(lines, audio)
        settle_expected(candidates, lines, audio)
        lines = [line for line in lines if line.support >= MIN_FINAL_SUPPORT]
        if not lines:
            reason = "no given line is borne out by the audio where it was expected"
            return _leave(song, candidates, Drop("low_coverage", reason))
        _fill_song(song, lines, [c for c in candidates if c not in lines])
        song.metrics["mean_score"] = float(np.mean([w.score for w in song.words]))
        _compare_times(song, candidates, lines)
        return song

    def _encoded(self, song: Song) -> EncodedSong:
        """Return the song as the verifier hears it: as the recogniser did if both are one model, not yet if not."""
        assert song.speech is not None
        encoded = song.encoded
        if not isinstance(encoded, EncodedSong) or encoded.whisper is not self._whisper:
            song.encoded = encoded = EncodedSong(self._whisper, song.speech)
        return encoded

    def _judge(self, song: Song, candidates: Sequence[Candidate], audio: SungAudio) -> Drop | None:
        """Return why these are not the lyrics of the song, or None; sounds speak where too little was heard."""
        evidence, coverage = song.metrics["evidence"], song.metrics["coverage"]
        is_covered = coverage >= self.config.min_coverage
        if is_covered and evidence >= self.config.min_evidence:
            return None
        by_sound = audio.measure_evidence([word for c in candidates for word in c.words])
        if by_sound is not None:
            song.metrics["sound_evidence"] = by_sound
            joint = evidence / self.config.min_evidence + by_sound / self.config.min_sound_evidence
            if by_sound >= self.config.min_sound_evidence or (is_covered and joint >= self.config.min_joint_evidence):
                return None
        if evidence < self.config.min_evidence:
            return Drop("lyrics_mismatch", f"evidence {evidence:.2f}, expected {self.config.min_evidence:g}")
        return Drop("low_coverage", f"the given lines explain {coverage:.0%} of what was heard")


def _leave(song: Song, candidates: Sequence[Candidate], drop: Drop) -> Drop:
    """Write down that no line is kept of a song that is dropped."""
    song.dropped += [DroppedLine(c.text, "not_sung", c.line_number) for c in candidates]
    return drop


def _drop_adlibs(lines: Sequence[LyricLine]) -> list[DroppedLine]:
    """Return the parts in parentheses of given lines, which are not looked for: any sound bears out an "oh"."""
    given = [line for line in lines if line.edit == "kept" and not line.is_adlib]
    return [DroppedLine(adlib, "adlib", line.line_number) for line in given for adlib in line.adlibs]


def _make_candidates(lines: Sequence[LyricLine], language: str) -> list[Candidate]:
    """Return what is to be found; of lines with one time the first keeps it, since the others are sung after it."""
    candidates = [_candidate(line, language) for line in lines]
    for before, line, candidate in zip(lines, lines[1:], candidates[1:], strict=False):
        if before.time_s == line.time_s:
            candidate.given_s = candidate.given_end_s = None
    return candidates


def _candidate(line: LyricLine, language: str) -> Candidate:
    end_s = line.end_s if line.end_s is not None and line.time_s is not None and line.end_s > line.time_s else None
    return Candidate(
        split_words(line.text, language),
        line.text,
        line.section,
        line.section_index,
        line_number=line.line_number,
        given_s=line.time_s,
        given_end_s=end_s,
    )


def read_given(song: Song) -> ParsedLyrics:
    """Return the given lyrics, in the order of their times, unless what was heard denies that order.

    Lines are stamped out of order where they are sung several times. Where the stamps are nonsense, the file's own
    order agrees better with what was heard: then they are read without.
    """
    assert song.transcript is not None
    parse = partial(parse_lyrics, title=song.title, artist=song.artist, language=song.language)
    parsed = parse(song.lyrics_text)
    numbers = [line.line_number for line in parsed.lines if line.time_s is not None]
    if parsed.format_name != "lrc" or numbers == sorted(numbers):
        return parsed
    unstamped = read_source(song.lyrics_text).lines
    text = [""] * max(line.line_number for line in unstamped)
    for line in unstamped:
        text[line.line_number - 1] = line.raw if line.reason else line.text
    as_written = parse("\n".join(text))
    by_time, by_line = (
        measure_evidence([_candidate(line, song.language) for line in each.lines], song.transcript.words)
        for each in (parsed, as_written)
    )
    if by_line <= by_time + MIN_ORDER_EVIDENCE:
        return parsed
    song.warnings.append(
        "lyrics: the order of their times is not the one in which they are sung; they are read without"
    )
    return as_written


def _compare_times(song: Song, candidates: Sequence[Candidate], lines: Sequence[Candidate]) -> None:
    """Write down how far the file's times were from those that were found, and say so where they are no use."""
    if all(line.given_s is None for line in candidates):
        return
    fit = fit_lines(lines)
    song.metrics["lyrics_times_fit"] = fit.num_fitting / fit.num_lines if fit else 0.0
    if fit is not None and fit.is_trusted:
        song.lyrics_offset_s, song.lyrics_drift = fit.offset_s, fit.drift
        return
    found = f"{fit.num_fitting} of {fit.num_lines} lines agree on an offset" if fit else "too few lines have one"
    song.warnings.append(f"lyrics: their times are of no use: {found}")


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


def _fill_song(song: Song, lines: Sequence[Candidate], missing: Sequence[Candidate]) -> None:
    song.lines = [
        Line(
            text=c.text,
            start_s=c.timed[0].start_s,
            end_s=c.timed[-1].end_s,
            section=c.section or "verse",
            score=c.score,
            source=c.source,
            edit=c.edit,
            section_index=c.section_index,
            support=c.support,
            agreement=c.similarity,
        )
        for c in lines
    ]
    song.words = [
        Word(text, timed.start_s, timed.end_s, timed.score, index)
        for index, c in enumerate(lines)
        for text, timed in zip(c.words, c.timed, strict=True)
    ]
    song.dropped += [DroppedLine(c.text, "not_sung", c.line_number, c.support) for c in missing]
