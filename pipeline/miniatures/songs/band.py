"""The accompaniment: chords, bass, drums and a lead line in several styles, section by section."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.miniatures.songs import instruments as ins
from pipeline.miniatures.songs.instruments import SAMPLE_RATE, Mono

Play = Callable[[float, float], Mono]
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 2, 3, 4), (1, 4, 0, 5), (0, 3, 0, 4))
QUIET_SECTIONS = ("intro", "outro", "bridge")


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """Which instruments play and how; patterns hold one character per sixteenth note of a bar."""

    chords: tuple[Play, ...]
    comp: str  # "block", "strum", "arpeggio" or "stab"
    bass: Play | None
    lead: Play
    drums: dict[str, str] = field(default_factory=dict)


STYLES: dict[str, Style] = {
    "pop": Style(chords=(ins.piano, ins.pad), comp="block", bass=ins.bass_finger, lead=ins.bell,
                 drums={"kick": "x.....x.x.......", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}),
    "folk": Style(chords=(ins.guitar,), comp="arpeggio", bass=ins.bass_finger, lead=ins.guitar,
                  drums={"shaker": "x.x.x.x.x.x.x.x.", "kick": "x.......x......."}),
    "synth": Style(chords=(ins.pad, ins.lead), comp="stab", bass=ins.bass_synth, lead=ins.lead,
                   drums={"kick": "x...x...x...x...", "clap": "....x.......x...", "open_hat": "..x...x...x...x."}),
    "ballad": Style(chords=(ins.piano,), comp="arpeggio", bass=None, lead=ins.pad),
    "rock": Style(chords=(ins.guitar, ins.organ), comp="strum", bass=ins.bass_synth, lead=ins.organ,
                  drums={"kick": "x.x.....x.x.....", "snare": "....x.......x..x", "hat": "x.x.x.x.x.x.x.x."}),
    "lofi": Style(chords=(ins.electric_piano,), comp="block", bass=ins.bass_finger, lead=ins.electric_piano,
                  drums={"kick": "x......x..x.....", "snare": "....x.......x...", "shaker": "x.xxx.x.x.xxx.x."}),
    "organ": Style(chords=(ins.organ, ins.bell), comp="stab", bass=ins.bass_finger, lead=ins.bell,
                       drums={"kick": "x.......x.......", "tom": "......x.......xx", "hat": "xxx.xxx.xxx.xxx."}),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Harmony:
    """Key and chord progression; one chord a bar."""

    tonic_midi: int  # 48..59
    scale: tuple[int, ...]
    progression: tuple[int, ...]

    def degree(self, step: int) -> int:
        """Return the midi note of a scale step counted from the tonic."""
        return self.tonic_midi + 12 * (step // 7) + self.scale[step % 7]

    def chord(self, bar: int) -> list[int]:
        """Return the triad of a bar as scale steps."""
        root = self.progression[bar % len(self.progression)]
        return [root, root + 2, root + 4]


class Band:
    """Plays sections into a stereo buffer; every choice comes from `rng`."""

    def __init__(self, style: str, harmony: Harmony, bpm: float, length_samples: int, rng: np.random.Generator) -> None:
        self._style, self._harmony, self._rng = STYLES[style], harmony, rng
        self._beat_s = 60.0 / bpm
        self._dry = np.zeros((2, length_samples))
        self._kit = int(rng.integers(8))
        self._levels = {part: float(10 ** (rng.uniform(-4, 3) / 20)) for part in ("chords", "bass", "drums", "lead")}
        self._pans = rng.uniform(-0.6, 0.6, size=8)

    def play_section(self, label: str, first_bar: int, num_bars: int) -> None:
        """Add one section's bars; choruses are fuller, intros and outros sparser."""
        density = 1.0 if label in ("chorus", "inst") else 0.55 if label in QUIET_SECTIONS else 0.8
        for bar in range(first_bar, first_bar + num_bars):
            self._play_chords(bar, density)
            if self._style.bass and (label != "intro" or bar % 2):
                self._play_bass(bar, density)
            if label not in ("intro", "outro"):
                self._play_drums(bar, density)
            if label in ("intro", "inst", "outro"):
                self._play_lead(bar)

    def render(self) -> NDArray[np.float64]:
        """Return the band [2, L] in a room, peak 0.5."""
        seconds, wet = self._rng.uniform(0.4, 1.8), self._rng.uniform(0.05, 0.35)
        out = ins.reverberate(self._dry, float(seconds), float(wet), int(self._rng.integers(1 << 30)))
        return np.asarray(0.5 * out / max(np.abs(out).max(), 1e-9))

    def _add(self, note: Mono, at_s: float, level: float, pan: float) -> None:
        start = max(int(at_s * SAMPLE_RATE), 0)
        note = note[: max(self._dry.shape[1] - start, 0)]
        angle = (pan + 1) * np.pi / 4
        self._dry[0, start : start + len(note)] += level * np.cos(angle) * note
        self._dry[1, start : start + len(note)] += level * np.sin(angle) * note

    def _bar_s(self, bar: int) -> float:
        return bar * 4 * self._beat_s

    def _play_chords(self, bar: int, density: float) -> None:
        steps = [self._harmony.degree(step) for step in self._harmony.chord(bar)]
        notes = [midi - 12 if midi > 66 else midi for midi in steps] + [steps[0] + 12]
        for voice, play in enumerate(self._style.chords):
            level = 0.22 * density * self._levels["chords"] / (1 + voice)
            if play is ins.pad or self._style.comp == "block" and voice == 0:
                onsets = [(0.0, 4.0)] if play is ins.pad else [(0.0, 2.0), (2.0, 2.0)]
                events = [(on, length, midi) for on, length in onsets for midi in notes]
            elif self._style.comp == "arpeggio":
                events = [(0.5 * k, 1.0, notes[(k * 3 + k // 4) % len(notes)]) for k in range(8)]
            elif self._style.comp == "strum":
                events = [(b + 0.02 * k, 1.0, midi) for b in (0, 1, 1.5, 2.5, 3) for k, midi in enumerate(notes)]
            else:
                events = [(b, 0.35, midi) for b in (0.0, 0.75, 1.5, 2.5, 3.25) for midi in notes]
            for k, (on, length, midi) in enumerate(events):
                late = self._rng.normal(0, 0.004)
                pan = float(self._pans[voice]) + 0.25 * (-1) ** k
                note = play(midi, round(length * self._beat_s, 3))
                self._add(note, self._bar_s(bar) + on * self._beat_s + late, level * self._rng.uniform(0.8, 1.1), pan)

    def _play_bass(self, bar: int, density: float) -> None:
        assert self._style.bass is not None
        root = self._harmony.degree(self._harmony.chord(bar)[0]) - 24
        root += 12 if root < 30 else 0
        steps = ((0.0, 1.5, 0), (1.5, 1.0, 0), (2.5, 0.5, 7), (3.0, 1.0, 0)) if density > 0.7 else ((0.0, 4.0, 0),)
        for on, length, up in steps:
            note = self._style.bass(root + up, round(length * self._beat_s * 0.95, 3))
            self._add(note, self._bar_s(bar) + on * self._beat_s, 0.35 * self._levels["bass"], 0.0)

    def _play_drums(self, bar: int, density: float) -> None:
        for part, (name, pattern) in enumerate(self._style.drums.items()):
            for sixteenth, mark in enumerate(pattern):
                if mark != "x" or (density < 0.6 and sixteenth % 4):
                    continue
                level = {"kick": 0.6, "snare": 0.4, "clap": 0.35, "tom": 0.35}.get(name, 0.16)
                level *= self._levels["drums"] * self._rng.uniform(0.75, 1.0)
                pan = 0.0 if name in ("kick", "snare") else float(self._pans[4 + part])
                self._add(ins.drum(name, self._kit), self._bar_s(bar) + sixteenth * self._beat_s / 4, level, pan)

    def _play_lead(self, bar: int) -> None:
        chord = self._harmony.chord(bar)
        for beat in (0.0, 1.0, 1.5, 2.0, 3.0):
            step = int(self._rng.choice(chord)) + 7 + int(self._rng.integers(-1, 2) * (beat % 1 > 0))
            note = self._style.lead(self._harmony.degree(step), round(0.9 * self._beat_s, 3))
            self._add(note, self._bar_s(bar) + beat * self._beat_s, 0.25 * self._levels["lead"], float(self._pans[3]))
