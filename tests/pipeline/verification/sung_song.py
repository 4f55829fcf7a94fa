"""A song for tests that knows which words are sung when, and answers what `SungAudio` answers."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pipeline.song import TimedWord, Word
from pipeline.transcription.whisper import MAX_WINDOW_S
from pipeline.verification.locate_lines import Candidate

WORD_S = 0.4
SUNG_NATS, UNSUNG_NATS = 4.0, -2.0
# Of a line that was asked before in the same question, sung again and not: hardly told apart, as by Whisper base.
AGAIN_NATS, NOT_AGAIN_NATS = 1.5, 1.0

LANTERNS = "silver lanterns over dark water"
HARBOUR = "walking home along this harbour"
SUMMER = "nobody here remembers last summer"
HORSES = "seven horses cross our valley"
OTHER_SONG = "love me like thunder loves rain"


class SungSong:
    """Lines with the time at which each starts; every word lasts WORD_S."""

    def __init__(self, *sung: tuple[str, float], duration_s: float = 20.0) -> None:
        self.duration_s = duration_s
        self.sound_evidence: float | None = None
        self.windows: list[tuple[float, float, list[str]]] = []  # that were aligned
        self._words = [word for text, start_s in sung for word in hear(text, start_s)]

    def align(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> list[list[TimedWord]]:
        """Words that are sung in the window get their times, the others share the time between those."""
        words = [word for line in lines for word in line]
        assert 0 <= start_s < end_s <= start_s + MAX_WINDOW_S + 1e-9
        self.windows.append((start_s, end_s, words))
        inside = self._inside(start_s, end_s)
        blocks = SequenceMatcher(None, list(words), [w.text for w in inside], autojunk=False).get_matching_blocks()
        timed: list[TimedWord] = []
        for first, first_sung, size in blocks:
            before_s = timed[-1].end_s if timed else start_s
            after_s = inside[first_sung].start_s if size else end_s
            edges = np.linspace(before_s, after_s, first - len(timed) + 1)
            timed += [TimedWord(float(a), float(b), 0.1) for a, b in zip(edges[:-1], edges[1:], strict=True)]
            timed += [TimedWord(w.start_s, w.end_s, 0.9) for w in inside[first_sung : first_sung + size]]
        left = iter(timed)
        return [[next(left) for _ in line] for line in lines]

    def measure_support(self, start_s: float, end_s: float, lines: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Every word of a line counts: sung in the window in this order, or not."""
        inside = [w.text for w in self._inside(start_s, end_s)]
        nats = []
        for k, words in enumerate(map(list, lines)):
            times_before = sum(list(other) == words for other in lines[:k])
            if times_before:
                times = sum(inside[j : j + len(words)] == words for j in range(len(inside)))
                nats.append(AGAIN_NATS if times > times_before else NOT_AGAIN_NATS)
                continue
            blocks = SequenceMatcher(None, words, inside, autojunk=False).get_matching_blocks()
            share = sum(block.size for block in blocks) / len(words)
            nats.append(share * SUNG_NATS + (1 - share) * UNSUNG_NATS)
        return np.array(nats)

    def second_path(self, lines: Sequence[Sequence[str]]) -> list[list[TimedWord]]:
        """No second aligner."""
        return []

    def measure_evidence(self, words: Sequence[str]) -> float | None:
        """As `sound_evidence` says."""
        return self.sound_evidence

    def voiced_share(self, start_s: float, end_s: float) -> float:
        """Share of the window that words fill."""
        sung_s = sum(max(min(w.end_s, end_s) - max(w.start_s, start_s), 0.0) for w in self._words)
        return sung_s / (end_s - start_s)

    def voiced_s(self, start_s: float, end_s: float) -> float:
        """Seconds of the window that words fill."""
        return (end_s - start_s) * self.voiced_share(start_s, end_s) if end_s > start_s else 0.0

    def _inside(self, start_s: float, end_s: float) -> list[Word]:
        return [w for w in self._words if start_s <= (w.start_s + w.end_s) / 2 < end_s]


class TwoEars(SungSong):
    """The same with a second aligner that has lines at times of its own, and hears them better there than elsewhere."""

    there, here = 0.3, 0.1  # mean scores of a line's words
    path: Mapping[str, float] = MappingProxyType({})  # when a line starts

    def second_path(self, lines: Sequence[Sequence[str]]) -> list[list[TimedWord]]:
        """Every word lasts WORD_S."""
        starts_s = [self.path[" ".join(words)] for words in lines]
        return [
            [TimedWord(start_s + WORD_S * k, start_s + WORD_S * (k + 1), self.there) for k in range(len(words))]
            for words, start_s in zip(lines, starts_s, strict=True)
        ]

    def second_score(self, start_s: float, end_s: float, words: Sequence[str]) -> float:
        """Equal anywhere."""
        return self.here


def hear(text: str, start_s: float, *, score: float = 0.9, segment: int = 0) -> list[Word]:
    """Return a line as the recogniser hears it."""
    return [
        Word(word, start_s + WORD_S * k, start_s + WORD_S * (k + 1), score, segment)
        for k, word in enumerate(text.split())
    ]


def give(*texts: str) -> list[Candidate]:
    """Return given lines, none with a place."""
    return [Candidate(text.split(), text, "verse", 0) for text in texts]


def place(line: Candidate, start_s: float) -> Candidate:
    """Give a line its estimated time, in place."""
    line.start_s, line.end_s = start_s, start_s + WORD_S * len(line.words)
    return line
