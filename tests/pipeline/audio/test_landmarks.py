import numpy as np
import pytest
import soundfile

from pipeline.audio.decode import decode_audio, to_mono
from pipeline.audio.landmarks import MAX_SONGS_PER_NAME, find_near_duplicates, fingerprint_audio
from pipeline.song import AudioFingerprint

RATE = 44_100


def melody(seed: int, seconds: float = 12.0) -> np.ndarray:
    """Notes of random pitch and length with some noise: float32 [L]."""
    random = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        time_s = np.arange(int(random.uniform(0.1, 0.4) * RATE)) / RATE
        notes = [np.sin(2 * np.pi * pitch * time_s) for pitch in random.uniform(150, 3_000, size=3)]
        parts.append(sum(notes) * np.exp(-6 * time_s))
    samples = np.concatenate(parts)[: int(seconds * RATE)]
    return (0.1 * samples + 0.001 * random.standard_normal(len(samples))).astype(np.float32)


def test_copies_are_found_and_other_songs_are_not(tmp_path):
    prints = {}
    for seed in range(6):
        song = melody(seed)
        prints[f"{seed}"] = fingerprint_audio(song, RATE)
        soundfile.write(tmp_path / "a.mp3", 0.2 * song[int(0.37 * RATE) :], RATE)
        lossy = decode_audio(tmp_path / "a.mp3")
        prints[f"{seed} copy"] = fingerprint_audio(to_mono(lossy.samples), lossy.sample_rate)
    found = find_near_duplicates(prints)
    assert set(found) == {(f"{seed}", f"{seed} copy") for seed in range(6)}
    assert min(found.values()) > 0.1


def test_silence_and_scraps_have_nothing_to_compare():
    prints = {
        "silence": fingerprint_audio(np.zeros(RATE, np.float32), RATE),
        "more silence": fingerprint_audio(np.zeros(RATE, np.float32), RATE),
        "scrap": fingerprint_audio(melody(0)[:50], RATE),
    }
    assert find_near_duplicates(prints) == {}
    assert find_near_duplicates({}) == {}


def test_the_same_landmarks_at_scattered_offsets_are_no_copy():
    """Two songs with one drum loop share names, but not one offset for all of them."""
    names = np.arange(100, dtype=np.uint64)
    random = np.random.default_rng(0)
    first = AudioFingerprint(names, random.integers(0, 100_000, 100).astype(np.int32))
    second = AudioFingerprint(names, random.integers(0, 100_000, 100).astype(np.int32))
    shifted = AudioFingerprint(names, first.frames + 7)
    found = find_near_duplicates({"first": first, "second": second, "shifted": shifted})
    assert found == {("first", "shifted"): pytest.approx(1.0)}


def test_a_name_that_too_many_songs_share_says_nothing():
    same = AudioFingerprint(np.arange(30, dtype=np.uint64), np.arange(30, dtype=np.int32))
    assert find_near_duplicates({f"{k}": same for k in range(MAX_SONGS_PER_NAME + 1)}) == {}
