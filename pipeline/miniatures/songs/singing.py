"""Sing a spoken phrase: WORLD moves every vowel to its note and leaves consonants at their natural length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.miniatures.songs.voice import VOICE_SAMPLE_RATE, Phone, SynthesisError, load_joe

FRAME_S = 0.005  # WORLD's own default step
MAX_CONSONANT_S = 0.16
MAX_CONSONANT_SHARE = 0.5  # of a note; the vowel keeps the rest
# The part of a vowel that is stretched, as shares of its spoken length; the glides around it keep their pace.
STEADY_PART = {"AY": (0.2, 0.4), "AW": (0.2, 0.4), "OY": (0.2, 0.4), "EY": (0.25, 0.5), "OW": (0.25, 0.5)}
STEADY_PART_OTHERS = (0.3, 0.6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Singer:
    """A voice made from the packaged one by scaling its formants and choosing its register."""

    name: str
    formant_scale: float  # > 1 is a shorter vocal tract
    centre_midi: int
    vibrato_cents: float
    breath: float  # 0..1, share added to the aperiodicity


SINGERS = (
    Singer(name="baritone", formant_scale=0.97, centre_midi=50, vibrato_cents=25, breath=0.0),
    Singer(name="tenor", formant_scale=1.04, centre_midi=55, vibrato_cents=35, breath=0.03),
    Singer(name="alto", formant_scale=1.13, centre_midi=60, vibrato_cents=30, breath=0.05),
    Singer(name="mezzo", formant_scale=1.19, centre_midi=63, vibrato_cents=20, breath=0.08),
    Singer(name="bass", formant_scale=0.92, centre_midi=46, vibrato_cents=15, breath=0.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """The note of one syllable, in seconds of the song."""

    start_s: float
    end_s: float
    midi: float


def sing_phrase(
    words: list[str], notes: list[Note], singer: Singer, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Sing the words, one note per syllable.

    Returns:
        audio [L] float32 at VOICE_SAMPLE_RATE from the first note on, and (start_s, end_s) of each word in the song.

    Raises:
        SynthesisError: the number of notes is not the number of syllables, or a package is missing.
    """
    audio, phones = load_joe().speak(words)
    syllables = phones[-1].syllable + 1
    if syllables != len(notes):
        raise SynthesisError(f"line {' '.join(words)!r} has {syllables} syllables, found {len(notes)} notes")
    edges = _place_phones(phones, notes)
    source, target = _time_map(phones, edges - edges[0])
    sung = _vocode(audio.astype(np.float64), phones, source, target, notes, singer, rng)
    times: list[tuple[float, float]] = []
    for index in range(len(words)):
        of_word = [k for k, phone in enumerate(phones) if phone.word == index]
        times.append((float(edges[of_word[0]]), float(edges[of_word[-1] + 1])))
    return sung, times


def _place_phones(phones: list[Phone], notes: list[Note]) -> NDArray[np.float64]:
    """Return the song time of every phone edge [len(phones) + 1]."""
    edges = [notes[0].start_s]
    for index, note in enumerate(notes):
        own = [phone for phone in phones if phone.syllable == index]
        length = note.end_s - note.start_s
        natural = [min(p.end_s - p.start_s, MAX_CONSONANT_S) if not p.is_vowel else 0.0 for p in own]
        shrink = min(1.0, MAX_CONSONANT_SHARE * length / max(sum(natural), 1e-6))
        vowel = length - shrink * sum(natural)
        for phone, consonant in zip(own, natural, strict=True):
            edges.append(edges[-1] + (vowel if phone.is_vowel else shrink * consonant))
    return np.array(edges)


def _time_map(phones: list[Phone], edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matching times in the spoken and in the sung audio; between them time runs evenly."""
    spoken, sung = [phones[0].start_s], [float(edges[0])]
    for phone, start_s, end_s in zip(phones, edges[:-1], edges[1:], strict=True):
        length = phone.end_s - phone.start_s
        if phone.is_vowel and end_s - start_s > length:
            first, last = STEADY_PART.get(phone.symbol[:-1], STEADY_PART_OTHERS)
            spoken += [phone.start_s + first * length, phone.start_s + last * length]
            sung += [start_s + first * length, end_s - (1 - last) * length]
        spoken.append(phone.end_s)
        sung.append(end_s)
    return np.array(spoken), np.array(sung)


def _vocode(
    audio: NDArray[np.float64],
    phones: list[Phone],
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    notes: list[Note],
    singer: Singer,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    try:
        import pyworld
    except ImportError as error:
        raise SynthesisError(
            "singing needs pyworld-prebuilt, which is not installed: .uv/bin/uv pip install -e '.[miniatures]'"
        ) from error
    rough_hz, frame_s = pyworld.dio(audio, VOICE_SAMPLE_RATE, f0_floor=60.0, f0_ceil=300.0, frame_period=1000 * FRAME_S)
    spoken_hz = pyworld.stonemask(audio, rough_hz, frame_s, VOICE_SAMPLE_RATE)
    spoken_hz = _fill_vowels(spoken_hz, phones)
    envelope = pyworld.cheaptrick(audio, spoken_hz, frame_s, VOICE_SAMPLE_RATE)
    aperiodicity = pyworld.d4c(audio, spoken_hz, frame_s, VOICE_SAMPLE_RATE)

    count = int(np.ceil(target[-1] / FRAME_S)) + 1
    song_s: NDArray[np.float64] = FRAME_S * np.arange(count, dtype=np.float64)
    position = np.interp(song_s, target, source) / FRAME_S
    low = np.clip(position.astype(int), 0, len(envelope) - 1)
    high = np.minimum(low + 1, len(envelope) - 1)
    share = (position - low)[:, None]
    log_envelope = np.log(envelope + 1e-16)
    sung_envelope = np.exp((1 - share) * log_envelope[low] + share * log_envelope[high])
    sung_aperiodicity = (1 - share) * aperiodicity[low] + share * aperiodicity[high]
    sung_aperiodicity = np.clip(sung_aperiodicity + singer.breath * (1 - sung_aperiodicity), 0.0, 1.0)
    voiced = spoken_hz[np.clip(np.round(position).astype(int), 0, len(spoken_hz) - 1)] > 0
    melody_hz = _melody(song_s, notes, singer, rng)

    bins = np.arange(envelope.shape[1])
    sung_envelope = np.stack([np.interp(bins / singer.formant_scale, bins, row) for row in sung_envelope])
    sung = pyworld.synthesize(
        np.where(voiced, melody_hz, 0.0), np.ascontiguousarray(sung_envelope), sung_aperiodicity, VOICE_SAMPLE_RATE,
        1000 * FRAME_S,
    )  # fmt: skip
    return np.asarray(sung, dtype=np.float32)


def _fill_vowels(hz: NDArray[np.float64], phones: list[Phone]) -> NDArray[np.float64]:
    """Give every vowel frame a pitch, so that creaky speech is not sung as noise."""
    if not (hz > 0).any():
        return hz
    frames = np.arange(len(hz))
    filled = np.interp(frames, frames[hz > 0], hz[hz > 0])
    is_vowel = np.zeros(len(hz), dtype=bool)
    for phone in phones:
        if phone.is_vowel:
            is_vowel[int(phone.start_s / FRAME_S) + 1 : int(phone.end_s / FRAME_S)] = True
    return np.where(is_vowel, filled, hz)


def _melody(
    song_s: NDArray[np.float64], notes: list[Note], singer: Singer, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the pitch in Hz: glides of about 60 ms between notes, late vibrato, slow drift of a few cents."""
    start_s = notes[0].start_s
    onsets = np.array([note.start_s - start_s for note in notes])
    index = np.clip(np.searchsorted(onsets, song_s, side="right") - 1, 0, len(notes) - 1)
    midi = np.array([note.midi for note in notes])[index]
    width = 13  # frames: 65 ms
    midi = np.convolve(np.pad(midi, width // 2, mode="edge"), np.hanning(width) / np.hanning(width).sum(), mode="valid")
    since = song_s - onsets[index]
    depth = singer.vibrato_cents / 100 * np.clip((since - 0.25) / 0.25, 0.0, 1.0)
    vibrato = depth * np.sin(2 * np.pi * (5.4 + rng.uniform(-0.4, 0.4)) * song_s)
    drift = 0.06 * np.sin(2 * np.pi * 0.7 * song_s + rng.uniform(0, 6.28))
    return np.asarray(440.0 * 2.0 ** ((midi + vibrato + drift - 69.0) / 12.0))
