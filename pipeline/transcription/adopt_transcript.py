"""Lyrics for a song that has none: what the recogniser heard, in lines, as far as it was sure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.lyrics.sounds import is_han
from pipeline.song import Drop, DroppedLine, Line, Song, TimedWord, Word
from pipeline.transcription.transcribe_vocals import is_singing
from pipeline.transcription.voice_level import VoiceActivity

# A line ends where the pause, with a bonus for what a recogniser writes where lines end and start, is this long.
# Measured on songs with true lines (pipeline/README.md): so F1 of the starts is 0.66, with pauses alone 0.44.
LINE_PAUSE_S = 0.6
MARK_BONUS_S = 0.4
CAPITAL_BONUS_S = 0.6
MAX_LINE_WORDS, MAX_LINE_HAN = 10, 16  # a longer line is cut at its longest pause
MIN_LINE_SCORE = 0.5  # mean probability of the words, as for a recovered line beside given ones
_MARKS = (",", ".", "!", "?", ";", "，", "。", "！", "？", "；")
MIN_KEPT_SHARE = 0.5  # of the heard words: beyond it the recogniser was lost in this song


def adopt_transcript(song: Song) -> Song | Drop:
    """Make the heard words the song's lyrics, every line with source "asr" and edit "recovered".

    Reads:  song.transcript
    Adds:   song.lines, song.words, song.dropped; metrics mean_score
    Drops:  "instrumental" where nobody sings, "no_lyrics" where too little was heard clearly
    """
    assert song.transcript is not None
    if not is_singing(song):
        return Drop("instrumental", "no language and no speech in the separated vocals")
    assert song.voice is not None
    heard = _without_pauses(song.transcript.words, VoiceActivity(song.voice))
    kept = []
    for line in split_lines(heard):
        if np.mean([word.score for word in line]) >= MIN_LINE_SCORE:
            kept.append(line)
        else:
            song.dropped.append(DroppedLine(_join(line), "unsure"))
    num_kept = sum(map(len, kept))
    if num_kept < MIN_KEPT_SHARE * len(heard) or not kept:
        return Drop("no_lyrics", f"{num_kept} of {len(heard)} words were heard clearly")
    for index, line in enumerate(kept):
        score = float(np.mean([word.score for word in line]))
        song.lines.append(Line(_join(line), line[0].start_s, line[-1].end_s, "verse", score, "asr", "recovered"))
        song.words += [Word(word.text, word.start_s, word.end_s, word.score, index) for word in line]
    song.metrics["mean_score"] = float(np.mean([word.score for word in song.words]))
    return song


def _without_pauses(words: Sequence[Word], voice: VoiceActivity) -> list[Word]:
    """Return words that start and end with the voice: an aligner leaves no pause between two of them."""
    timed = [voice.tighten(TimedWord(word.start_s, word.end_s, word.score)) for word in words]
    return [replace(word, start_s=t.start_s, end_s=t.end_s) for word, t in zip(words, timed, strict=True)]


def split_lines(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Cut heard words into lines: at pauses and segments, and long ones again where they pause longest."""
    line: list[Word] = []
    for word in words:
        if line and (word.line != line[-1].line or _break_s(line[-1], word) >= LINE_PAUSE_S):
            yield from _shorten(line)
            line = []
        line.append(word)
    if line:
        yield from _shorten(line)


def _break_s(before: Word, word: Word) -> float:
    """Return how much of a pause there is between two words, bonuses included."""
    is_capital = word.text[:1].isupper() and not word.text.startswith("I")  # "I" and "I'm" stand anywhere
    bonus_s = MARK_BONUS_S * before.text.endswith(_MARKS) + CAPITAL_BONUS_S * is_capital
    return word.start_s - before.end_s + bonus_s


def _shorten(line: list[Word]) -> Iterator[list[Word]]:
    limit = MAX_LINE_HAN if _is_mostly_han(line) else MAX_LINE_WORDS
    if len(line) <= limit:
        yield line
        return
    # Neither part may be a scrap; among equal pauses the middle is best.
    middle = len(line) / 2
    cut = max(range(2, len(line) - 1), key=lambda k: (line[k].start_s - line[k - 1].end_s, -abs(k - middle)))
    yield from _shorten(line[:cut])
    yield from _shorten(line[cut:])


def _is_mostly_han(line: Sequence[Word]) -> bool:
    return sum(any(map(is_han, word.text)) for word in line) > len(line) / 2


def _join(line: Sequence[Word]) -> str:
    """Write words as a line: blanks between words, none around Chinese characters."""
    text = ""
    for word in line:
        glued = text and (is_han(text[-1]) or is_han(word.text[0]))
        text += word.text if not text or glued else f" {word.text}"
    return text.rstrip(",;，；")
