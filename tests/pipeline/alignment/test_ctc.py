"""Forced alignment to frame probabilities, against a plain Viterbi search and on frames whose answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.alignment import ctc as ctc_aligner
from pipeline.alignment.ctc import CtcSong, find_path


def viterbi(log_probs: NDArray[np.float32], targets: list[int]) -> tuple[float, list[int]]:
    """Plain CTC Viterbi: the best log probability and the state (blank 0, target, blank 2, ...) of every frame."""
    labels = [0]
    for target in targets:
        labels += [target, 0]
    num_frames, num_states = len(log_probs), len(labels)
    score = np.full((num_frames, num_states), -np.inf)
    came = np.zeros((num_frames, num_states), dtype=int)
    score[0, :2] = log_probs[0, labels[:2]]
    for t in range(1, num_frames):
        for s in range(num_states):
            steps = [s, s - 1] + ([s - 2] if s > 1 and labels[s] and labels[s] != labels[s - 2] else [])
            came[t, s] = max((k for k in steps if k >= 0), key=lambda k: score[t - 1, k])
            score[t, s] = score[t - 1, came[t, s]] + log_probs[t, labels[s]]
    state = num_states - 1 if score[-1, -1] >= score[-1, -2] else num_states - 2
    best, path = float(score[-1, state]), [state]
    for t in range(num_frames - 1, 0, -1):
        path.append(came[t, path[-1]])
    return best, path[::-1]


def random_frames(random: np.random.Generator, num_frames: int, num_tokens: int) -> NDArray[np.float32]:
    logits = random.normal(0, 2, (num_frames, num_tokens))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def frames_with(tokens: list[int], num_tokens: int = 6, *, sure: float = 0.9) -> NDArray[np.float32]:
    """Return frames in which one token each is likely."""
    probabilities = np.full((len(tokens), num_tokens), (1 - sure) / (num_tokens - 1))
    probabilities[np.arange(len(tokens)), tokens] = sure
    return np.log(probabilities).astype(np.float32)


def open_song(tokens: list[int], *, onset_lead_s: float = 0.0) -> CtcSong:
    return CtcSong(frames_with(tokens), blank=0, frame_s=0.02, onset_lead_s=onset_lead_s)


def spell(*words: str) -> list[tuple[tuple[int, ...], ...]]:
    """Digits are tokens, "?" is a wildcard."""
    return [tuple(() if char == "?" else (int(char),) for char in word) for word in words]


@pytest.mark.parametrize("seed", range(20))
def test_path_is_that_of_a_plain_viterbi_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    targets = random.integers(1, 4, random.integers(1, 6)).tolist()  # three tokens: equal neighbours are common
    log_probs = random_frames(random, int(random.integers(2 * len(targets), 20)), 4)
    best, states = viterbi(log_probs, targets)
    path = find_path(log_probs, targets)
    assert path.log_prob == pytest.approx(best, abs=1e-4)
    for k in range(len(targets)):
        frames = [t for t, state in enumerate(states) if state == 2 * k + 1]
        assert (path.starts[k], path.ends[k]) == (frames[0], frames[-1] + 1)
        posterior = np.exp(log_probs[frames[0] : frames[-1] + 1, targets[k]]).mean()
        assert path.scores[k] == pytest.approx(posterior, abs=1e-5)


def test_too_few_frames_for_equal_neighbours() -> None:
    with pytest.raises(ValueError, match="2 frames for 2 sounds"):
        find_path(frames_with([1, 1]), [1, 1])
    with pytest.raises(ValueError, match="0 sounds"):
        find_path(frames_with([1, 1]), [])


def test_words_are_where_their_sounds_are() -> None:
    song = open_song([0, 0, 1, 1, 2, 0, 0, 3, 3, 3, 0, 0])
    first, second = song.align(0.0, 0.24, spell("12", "3"))
    assert (first.start_s, first.end_s) == (pytest.approx(0.04), pytest.approx(0.10))
    assert (second.start_s, second.end_s) == (pytest.approx(0.14), pytest.approx(0.20))
    assert first.score == pytest.approx(0.9, abs=1e-5)


def test_a_window_hides_what_is_outside() -> None:
    song = open_song([0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0])
    assert song.align(0.06, 0.16, spell("1"))[0].start_s == pytest.approx(0.12)


def test_onset_lead_takes_half_the_pause_and_no_more_than_its_limit() -> None:
    tokens = [0] * 20 + [1, 1, 0, 0, 2, 2, 0]
    first, second = open_song(tokens, onset_lead_s=0.08).align(0.0, 1.0, spell("1", "2"))
    assert first.start_s == pytest.approx(0.40 - 0.08)
    assert second.start_s == pytest.approx(0.48 - 0.02)


def test_a_sound_may_be_any_of_several_tokens() -> None:
    song = open_song([0, 0, 4, 4, 0, 2, 0])
    assert song.align(0.0, 0.14, [((1, 4),), ((2,),)])[0].start_s == pytest.approx(0.04)


def test_what_the_model_cannot_spell_takes_whatever_sounds() -> None:
    song = open_song([0, 1, 0, 0, 5, 5, 0, 0, 2, 0])
    for unknown in (spell("?")[0], ()):
        words = song.align(0.0, 0.2, [*spell("1"), unknown, *spell("2")])
        assert [word.start_s for word in words] == pytest.approx([0.02, 0.08, 0.16])


def test_words_that_cannot_fit_are_spread_with_score_0() -> None:
    words = open_song([1, 2, 3]).align(0.0, 0.06, spell("123", "321"))
    assert [(w.start_s, w.end_s, w.score) for w in words] == [
        (0.0, pytest.approx(0.03), 0.0),
        (pytest.approx(0.03), pytest.approx(0.06), 0.0),
    ]


def test_a_search_beyond_the_memory_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    song = open_song([0, 1, 2, 3, 0] * 10)
    assert song.align(0.0, 1.0, spell("123"))[0].score > 0
    monkeypatch.setattr(ctc_aligner, "MAX_CELLS", 100)
    assert song.align(0.0, 1.0, spell("123"))[0].score == 0
    assert abs(song.measure_evidence(spell("12", "3", "1", "2"))) < 10  # of the words that fit


def test_one_wrong_word_moves_no_other() -> None:
    song = open_song([0, 1, 2, 0, 0, 0, 3, 4, 0, 0, 1, 3, 0, 0])
    right = song.align(0.0, 0.28, spell("12", "34", "13"))
    wrong = song.align(0.0, 0.28, spell("12", "55", "13"))
    assert (wrong[0].start_s, wrong[2].start_s) == (right[0].start_s, right[2].start_s)
    assert wrong[1].score < 0.1


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.0), (5.0, 6.0), (-3.0, 0.1), (0.2, 0.1)])
def test_windows_that_are_empty_or_outside(start_s: float, end_s: float) -> None:
    song = open_song([0, 1, 2, 0, 0, 0])
    words = song.align(start_s, end_s, spell("1", "2", "1"))
    assert len(words) == 3
    assert all(before.start_s <= after.start_s for before, after in zip(words[:-1], words[1:], strict=True))
    assert song.align(start_s, end_s, []) == []


def test_times_are_monotone_in_noise() -> None:
    random = np.random.default_rng(3)
    song = CtcSong(random_frames(random, 400, 30), blank=0, frame_s=0.02, onset_lead_s=0.08)
    spellings = [tuple((int(t),) for t in random.integers(1, 30, 3)) for _ in range(60)]
    words = song.align(0.0, 8.0, spellings)
    assert all(word.start_s <= word.end_s for word in words)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(words[:-1], words[1:], strict=True))


def test_evidence_tells_sung_words_from_the_same_words_in_any_order_and_from_others() -> None:
    random = np.random.default_rng(0)
    sung = [tuple((int(t),) for t in random.integers(1, 30, 3)) for _ in range(40)]
    tokens = [frame for word in sung for (token,) in word for frame in (0, token)]
    song = CtcSong(frames_with(tokens, 30), blank=0, frame_s=0.02)
    other = [tuple((int(t),) for t in random.integers(1, 30, 3)) for _ in range(40)]
    assert song.measure_evidence(sung) > 1
    assert abs(song.measure_evidence(other)) < 0.3
    assert abs(song.measure_evidence([sung[k] for k in random.permutation(40)])) < 0.5
    tokens_per_word = 6
    half_s = 20 * tokens_per_word * 0.02
    assert song.measure_evidence(sung[:20], 0.0, half_s) > 1
    assert abs(song.measure_evidence(sung[:20], half_s, 2 * half_s)) < 0.5  # they are not sung there
    assert song.measure_evidence([]) == 0.0
    assert song.measure_evidence([()]) == 0.0
