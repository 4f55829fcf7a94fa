"""Whole songs with exact truth: `make_song(seed)` writes lines, lets the band play and the singer sing."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.miniatures.songs.band import MAJOR, MINOR, PROGRESSIONS, STYLES, Band, Harmony
from pipeline.miniatures.songs.instruments import SAMPLE_RATE, filter_band, reverberate
from pipeline.miniatures.songs.lyric_lines import write_couplet
from pipeline.miniatures.songs.singing import SINGERS, Note, Singer, sing_phrase
from pipeline.miniatures.songs.voice import VOICE_SAMPLE_RATE, spell_word

BEATS_PER_BAR = 4
BARS_PER_LINE = 2
SLOTS_PER_LINE = 14  # eighth notes that a line may fill; the last beat of its two bars is for breathing
PRESENCE = 0.8  # share of the voice above 3.5 kHz that is added again: consonants must survive the band
VOCAL_SECTIONS = ("verse", "chorus", "bridge")
KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
FORMS = (
    (("intro", 2), ("verse", 4), ("chorus", 4), ("verse", 4), ("chorus", 4), ("outro", 1)),
    (("intro", 1), ("verse", 4), ("chorus", 4), ("inst", 2), ("chorus", 4), ("outro", 2)),
    (("intro", 2), ("verse", 4), ("chorus", 4), ("bridge", 4), ("chorus", 4)),
    (("verse", 4), ("chorus", 4), ("inst", 2), ("verse", 4), ("chorus", 4), ("outro", 1)),
)

Form = tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SongSpec:
    """What a song is made from; two equal specs give equal songs. Sections are (label, bars), two bars a line."""

    seed: int
    form: Form
    bpm: float
    tonic: int  # 0..11, semitones above C
    is_minor: bool
    style: str
    singer: Singer
    vocal_db: float  # vocals over accompaniment while someone sings


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticSong:
    """A song and its truth; audio is float32 [2, L] at 48 kHz and mix = vocals + accompaniment exactly."""

    spec: SongSpec
    mix: NDArray[np.float32]
    vocals: NDArray[np.float32]
    words: list[dict[str, Any]]  # text, start, end (s), line
    lines: list[dict[str, Any]]  # text, start, end (s), section
    sections: list[dict[str, Any]]  # label, start, end (s)
    language: str = "en"

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return float(self.mix.shape[1] / SAMPLE_RATE)

    @property
    def key(self) -> str:
        """Name of the key, such as `C minor`."""
        return f"{KEYS[self.spec.tonic]} {'minor' if self.spec.is_minor else 'major'}"

    @property
    def lyrics(self) -> str:
        """The sung lines under one header per section."""
        blocks = []
        for index, section in enumerate(self.sections):
            own = [line["text"] for line in self.lines if line["section"] == index]
            blocks.append("\n".join([f"[{section['label']}]", *own]))
        return "\n\n".join(blocks) + "\n"


def draw_spec(seed: int) -> SongSpec:
    """Choose form, tempo, key, style and singer of a training song from its seed; 30 to 45 s long."""
    rng = np.random.default_rng([seed, 0])
    form = FORMS[rng.integers(len(FORMS))]
    bars = sum(length for _, length in form)
    singer = SINGERS[rng.integers(len(SINGERS))]
    singer = replace(
        singer,
        formant_scale=singer.formant_scale + float(rng.uniform(-0.04, 0.04)),
        centre_midi=singer.centre_midi + int(rng.integers(-2, 3)),
    )
    slowest = max(bars * BEATS_PER_BAR * 60 / 44, 84.0)
    return SongSpec(
        seed=seed, form=form, bpm=float(np.round(rng.uniform(slowest, slowest + 22))), tonic=int(rng.integers(12)),
        is_minor=bool(rng.random() < 0.4), style=str(rng.choice(sorted(STYLES))),
        singer=singer, vocal_db=float(rng.uniform(0.0, 6.0)),
    )  # fmt: skip


def make_song(spec: SongSpec) -> SyntheticSong:
    """Render a song; needs the extra `miniatures` (a packaged voice and WORLD)."""
    rng = np.random.default_rng([spec.seed, 1])
    harmony = Harmony(
        tonic_midi=48 + spec.tonic,
        scale=MINOR if spec.is_minor else MAJOR,
        progression=PROGRESSIONS[rng.integers(len(PROGRESSIONS))],
    )
    bar_s = BEATS_PER_BAR * 60 / spec.bpm
    length = int(round(sum(bars for _, bars in spec.form) * bar_s * SAMPLE_RATE))
    band = Band(spec.style, harmony, spec.bpm, length, np.random.default_rng([spec.seed, 2]))
    dry = np.zeros(length)
    words: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    sections: list[dict[str, Any]] = []
    chorus: list[str] = []
    bar = 0
    for label, num_bars in spec.form:
        band.play_section(label, bar, num_bars)
        sections.append({"label": label, "start": round(bar * bar_s, 4), "end": round((bar + num_bars) * bar_s, 4)})
        if label in VOCAL_SECTIONS:
            texts = chorus if label == "chorus" and chorus else _write_lines(label, num_bars // BARS_PER_LINE, rng)
            chorus = texts if label == "chorus" else chorus
            for index, text in enumerate(texts):
                tune = np.random.default_rng([spec.seed, 3 if label == "chorus" else 4, index])  # one tune per kind
                notes = _compose(text, harmony, bar + index * BARS_PER_LINE, bar_s, spec.singer, tune)
                _sing_line(text, notes, spec.singer, tune, dry, words, lines, len(sections) - 1)
        bar += num_bars
    vocals, mix = _mix_down(dry, band.render(), spec, rng)
    return SyntheticSong(spec=spec, mix=mix, vocals=vocals, words=words, lines=lines, sections=sections)


def _write_lines(label: str, count: int, rng: np.random.Generator) -> list[str]:
    texts: list[str] = []
    while len(texts) < count:
        texts += write_couplet(label, rng)
    return texts[:count]


def _compose(
    text: str, harmony: Harmony, bar: int, bar_s: float, singer: Singer, rng: np.random.Generator
) -> list[Note]:
    """Give every syllable a note: longer when stressed, a chord tone on strong beats, small steps elsewhere."""
    syllables = [syllable for word in text.split() for syllable in spell_word(word)]
    slots = np.ones(len(syllables), dtype=int)
    stressed = [k for k, phones in enumerate(syllables) if any(p.endswith("1") for p in phones)]
    slots[-1] += 1
    for k in rng.permutation(stressed):
        if slots.sum() < SLOTS_PER_LINE:
            slots[k] += 1
    slot_s = min(bar_s / 8, BARS_PER_LINE * bar_s * 0.94 / slots.sum())
    low = singer.centre_midi - 5
    step = int(rng.integers(0, 5))
    notes: list[Note] = []
    at_s = bar * bar_s
    for k, count in enumerate(slots):
        is_strong = k in stressed
        step += int(rng.integers(-2, 3))
        if is_strong:
            here = bar + int((at_s - bar * bar_s) / bar_s)
            step = min(harmony.chord(here), key=lambda tone: ((tone - step) % 7, tone)) if rng.random() < 0.8 else step
        midi = harmony.degree(step)
        midi = low + (midi - low) % 12  # one octave, so that no voice is driven out of its register
        notes.append(Note(start_s=at_s, end_s=at_s + count * slot_s, midi=midi))
        at_s += count * slot_s
    return notes


def _sing_line(
    text: str,
    notes: list[Note],
    singer: Singer,
    rng: np.random.Generator,
    dry: NDArray[np.float64],
    words: list[dict[str, Any]],
    lines: list[dict[str, Any]],
    section: int,
) -> None:
    tokens = text.split()
    audio, times = sing_phrase(tokens, notes, singer, rng)
    audio = soxr.resample(audio, VOICE_SAMPLE_RATE, SAMPLE_RATE)
    start = int(notes[0].start_s * SAMPLE_RATE)
    audio = audio[: len(dry) - start]
    dry[start : start + len(audio)] += audio
    for token, (start_s, end_s) in zip(tokens, times, strict=True):
        words.append({"text": token, "start": round(start_s, 4), "end": round(end_s, 4), "line": len(lines)})
    lines.append({"text": text, "start": words[-len(tokens)]["start"], "end": words[-1]["end"], "section": section})


def _mix_down(
    dry: NDArray[np.float64], band: NDArray[np.float64], spec: SongSpec, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Level the voice, put it in a room, set its loudness over the band and keep the mix's peak at 0.7."""
    dry = filter_band(dry, 90, None)
    dry = dry + PRESENCE * filter_band(dry, 3500, None)
    is_sung = np.abs(dry) > 1e-4
    envelope = _rms(dry, 2400)
    floor = 0.25 * float(np.sqrt(np.mean(dry[is_sung] ** 2))) if is_sung.any() else 1.0
    levelled = dry / np.sqrt(np.maximum(envelope, floor))  # 2:1 compression
    stereo = np.stack([levelled, levelled])
    vocals = reverberate(
        stereo, float(rng.uniform(0.4, 1.5)), float(rng.uniform(0.03, 0.2)), int(rng.integers(1 << 30))
    )
    loud = np.sqrt(np.mean(vocals[:, is_sung] ** 2)) if is_sung.any() else 1.0
    vocals *= np.sqrt(np.mean(band[:, is_sung] ** 2)) / loud * 10 ** (spec.vocal_db / 20) if is_sung.any() else 0.0
    gain = 0.7 / max(float(np.abs(vocals + band).max()), 1e-9)
    vocals32, band32 = (gain * vocals).astype(np.float32), (gain * band).astype(np.float32)
    return vocals32, vocals32 + band32


def _rms(audio: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    total = np.cumsum(np.pad(audio**2, (width // 2, width - width // 2)))
    return np.sqrt(np.maximum(total[width:] - total[:-width], 0) / width + 1e-12)
