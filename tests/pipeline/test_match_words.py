import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.match_words import SAME_WORD_SIMILARITY, align_words, similarities, sound_key


@pytest.mark.parametrize(
    ("word", "key"), [("Café,", "cafe"), ("don't", "dont"), ("红", "hong"), ("ＡＢ", "ab"), ("…", "")]
)
def test_sound_keys(word, key):
    assert sound_key(word) == key


def test_homophones_are_the_same_word():
    assert similarities(["叶"], ["夜"])[0, 0] == 1.0
    assert similarities(["…"], ["…"])[0, 0] == 0.0


def test_words_left_out_and_put_in_do_not_break_the_rest():
    lyrics = "a window on the corner has a purple bloom www junk line here the desert".split()
    heard = "window in the corner as a purple bloom yeah the dessert".split()
    pairs = {lyrics[i]: heard[j] for i, j in align_words(similarities(lyrics, heard))}
    assert pairs["window"] == "window"
    assert pairs["desert"] == "dessert"
    assert not {"www", "junk"} & set(pairs)


def test_a_chorus_that_was_sung_twice_matches_in_one_piece():
    heard = "hold on to me tonight".split() * 2
    pairs = align_words(similarities("hold on to me tonight".split(), heard))
    columns = [j for _, j in pairs]
    assert columns in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])


def best_total(matrix: np.ndarray) -> float:
    """The definition, cell by cell: pairs, gaps of either side, affine costs."""
    rows, cols = matrix.shape
    pair = np.full((rows + 1, cols + 1), -1e9)
    above, left = pair.copy(), pair.copy()
    pair[0, 0] = 0
    for i in range(rows + 1):
        for j in range(cols + 1):
            if i and j:
                pair[i, j] = (
                    2 * matrix[i - 1, j - 1] - 1 + max(pair[i - 1, j - 1], above[i - 1, j - 1], left[i - 1, j - 1])
                )
            if i:
                above[i, j] = max(max(pair[i - 1, j], left[i - 1, j]) - 0.3, above[i - 1, j] - 0.02)
            if j:
                left[i, j] = max(max(pair[i, j - 1], above[i, j - 1]) - 0.3, left[i, j - 1] - 0.02)
    return max(pair[-1, -1], above[-1, -1], left[-1, -1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
def test_the_alignment_is_the_best_one(rows, cols, seed):
    matrix = np.random.default_rng(seed).choice([0.0, 0.3, 0.6, 0.8, 1.0], size=(rows, cols)).astype(np.float32)
    pairs = align_words(matrix)
    assert all(a < c and b < d for (a, b), (c, d) in zip(pairs[:-1], pairs[1:], strict=True))
    assert all(matrix[i, j] >= SAME_WORD_SIMILARITY for i, j in pairs)
    # Lower bound on what the returned pairs are worth: every break between them may cost a gap on both sides.
    ends = [(-1, -1), *pairs, (rows, cols)]
    gaps = 0.0
    for (a, b), (c, d) in zip(ends[:-1], ends[1:], strict=True):
        skipped_rows, skipped_cols = c - a - 1, d - b - 1
        gaps += (0.3 + 0.02 * (skipped_rows - 1) if skipped_rows else 0) + (
            0.3 + 0.02 * (skipped_cols - 1) if skipped_cols else 0
        )
    total = sum(2 * matrix[i, j] - 1 for i, j in pairs) - gaps
    # Pairs below the threshold count in the best path and are not returned: they are worth no more than their gaps.
    assert total == pytest.approx(best_total(matrix), abs=0.45 * min(rows, cols))
