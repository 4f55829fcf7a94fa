"""A given word that the audio denies, where another word was clearly heard in its place."""

import unicodedata
from collections.abc import Iterator, Sequence

from pipeline.song import Word
from pipeline.verification.locate_lines import SENTENCE_ENDS, Candidate
from pipeline.verification.place_words import support_alone, widened
from pipeline.verification.sung_audio import SungAudio
from pipeline.verification.word_alignment import SAME_WORD_SIMILARITY, similarities

MIN_HEARD_SCORE = 0.6  # of the word heard in place of the given one
# Nats per token, see EncodedSong.measure_support, of the given and the heard word after the same words before them. On
# songs with known substitutions, words that were not sung lie between -4.7 and -1.7; words that were sung and
# misheard lie above -0.9, although the recogniser prefers its own word by up to 5 nats.
MAX_DENIED_SUPPORT = -1.0
MIN_HEARD_SUPPORT = 1.0
MAX_REPAIRED_SHARE = 0.4  # of a line; beyond it the line is another one


def repair_line(line: Candidate, heard: Sequence[Word], audio: SungAudio) -> None:
    """Replace words of a placed line that are not sung, in place; sets `edit` to "repaired" where it does."""
    words = list(line.words)
    for k, j in _rivals(line, heard):
        start_s, end_s = widened(line, audio)
        if audio.measure_support(start_s, end_s, [[w] for w in line.words])[k] >= MAX_DENIED_SUPPORT:
            continue
        variant = [*line.words[:k], _like(line.words[k], j, heard), *line.words[k + 1 :]]
        if audio.measure_support(start_s, end_s, [[w] for w in variant])[k] > MIN_HEARD_SUPPORT:
            words[k] = variant[k]
    changed = [(old, new) for old, new in zip(line.words, words, strict=True) if old != new]
    if not changed or len(changed) > max(1, MAX_REPAIRED_SHARE * len(words)):
        return
    line.text = _rewrite(line.text, line.words, words)
    line.words, line.edit = words, "repaired"
    line.support = support_alone(line, words, audio)


def _rivals(line: Candidate, heard: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Yield given words and the words that were heard instead, between two words that agree."""
    known = dict(line.heard) if line.source == "lyrics" else {}
    for k, word in enumerate(line.words):
        if k in known or (k - 1 not in known and k + 1 not in known):
            continue
        j = known[k - 1] + 1 if k - 1 in known else known[k + 1] - 1
        before_fits = k == 0 or known.get(k - 1) == j - 1
        after_fits = k + 1 == len(line.words) or known.get(k + 1) == j + 1
        if not (before_fits and after_fits and line.first_heard <= j <= line.last_heard):
            continue
        if heard[j].score >= MIN_HEARD_SCORE and similarities([word], [heard[j].text])[0, 0] < SAME_WORD_SIMILARITY:
            yield k, j


def _rewrite(text: str, old_words: Sequence[str], new_words: Sequence[str]) -> str:
    """Return a text with its words replaced in their order; marks and blanks between words stay as they are."""
    position = 0
    for old, new in zip(old_words, new_words, strict=True):
        position = text.index(_core(old), position)
        text = text[:position] + _core(new) + text[position + len(_core(old)) :]
        position += len(_core(new))
    return text


def _core(word: str) -> str:
    """Return a word without marks at its edges: from its first to its last letter, digit or combining sign."""
    letters = [k for k, char in enumerate(word) if unicodedata.category(char)[0] in "LMN"]
    return word[letters[0] : letters[-1] + 1] if letters else word


def _like(given: str, index: int, heard: Sequence[Word]) -> str:
    """Write a heard word with the punctuation of the given one, and its capital where that only begins a sentence."""
    word = heard[index].text
    before = heard[index - 1] if index else None
    begins = before is None or before.line != heard[index].line or before.text.endswith(SENTENCE_ENDS)
    core = _core(word) or word
    if given[:1].isupper():
        core = core[:1].upper() + core[1:]
    elif begins and core.istitle() and core != "I":
        core = core.lower()
    return given.replace(_core(given), core, 1) if _core(given) else core
