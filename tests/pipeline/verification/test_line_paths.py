"""The best path of lines through windows, with and without equal lines."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.verification.line_paths import best_path, distinct_path


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10_000))
def test_the_path_is_the_best_one(num_windows, num_lines, seed):
    gain = np.random.default_rng(seed).integers(-3, 4, (num_windows, num_lines)).astype(float)

    def total(chosen):
        return sum(gain[window, line] for line, window in enumerate(chosen) if window >= 0)

    def rises(chosen):
        windows = [window for window in chosen if window >= 0]
        return windows == sorted(windows)

    chosen = best_path(gain)
    every = itertools.product(range(-1, num_windows), repeat=num_lines)
    assert len(chosen) == num_lines
    assert rises(chosen)
    assert total(chosen) == max(total(path) for path in every if rises(path))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99)
)
def test_equal_lines_never_share_a_window(texts, num_windows, min_apart, seed):
    gain = np.random.default_rng(seed).normal(size=(num_windows, len(texts)))
    chosen = distinct_path(gain, texts, min_apart)
    placed = [(window, text) for window, text in zip(chosen, texts, strict=True) if window >= 0]
    assert [window for window, _ in placed] == sorted(window for window, _ in placed)
    for (one, text), (other, other_text) in itertools.combinations(placed, 2):
        assert text != other_text or other - one >= min_apart
    assert all(gain[window, line] > 0 for line, window in enumerate(chosen) if window >= 0)


def test_the_earlier_line_gives_way_where_that_is_better():
    #                 a      b      a
    gain = np.array([[1.0, -1.0, 1.0], [-1.0, 0.5, -1.0], [3.0, -1.0, 3.0]])
    assert best_path(gain) == [2, -1, 2]
    assert distinct_path(gain, ["a", "b", "a"], 2) == [0, 1, 2]


def test_different_lines_may_share_a_window():
    gain = np.array([[1.0, 1.0], [-1.0, -1.0]])
    assert distinct_path(gain, ["a", "b"], 2) == [0, 0]
    assert distinct_path(gain, ["a", "a"], 2) == [0, -1]


def test_a_thousand_equal_lines_end():
    gain = np.random.default_rng(0).normal(size=(50, 1000))
    windows = [window for window in distinct_path(gain, ["la"] * 1000, 2) if window >= 0]
    assert len(windows) > 5
    assert min(np.diff(windows)) >= 2
