import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lyrics.sounds import sound_key
from pipeline.verification.word_alignment import SAME_WORD_SIMILARITY, align_words, alignment_score, similarities


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
    """The definition, cell by cell: pairs, gaps of either side, affine costs, free columns at both ends."""
    rows, cols = matrix.shape
    pair = np.full((rows + 1, cols + 1), -1e9)
    above, left = pair.copy(), pair.copy()
    pair[0, 0] = 0
    left[0, 1:] = 0
    for i in range(1, rows + 1):
        for j in range(cols + 1):
            before = max(pair[i - 1, j - 1], above[i - 1, j - 1], left[i - 1, j - 1]) if j else -1e9
            pair[i, j] = (2 * matrix[i - 1, j - 1] - 1 if j else 0) + before
            above[i, j] = max(max(pair[i - 1, j], left[i - 1, j]) - 0.3, above[i - 1, j] - 0.02)
            if j:
                left[i, j] = max(max(pair[i, j - 1], above[i, j - 1]) - 0.3, left[i, j - 1] - 0.02)
    return max(pair[-1].max(), above[-1].max(), left[-1].max())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
def test_the_alignment_is_the_best_one(rows, cols, seed):
    matrix = np.random.default_rng(seed).choice([0.0, 0.3, 0.6, 0.8, 1.0], size=(rows, cols)).astype(np.float32)
    pairs = align_words(matrix)
    assert all(a < c and b < d for (a, b), (c, d) in zip(pairs[:-1], pairs[1:], strict=True))
    assert all(matrix[i, j] >= SAME_WORD_SIMILARITY for i, j in pairs)
    assert alignment_score(matrix) == pytest.approx(best_total(matrix), abs=1e-4)
    # What the pairs themselves are worth, less the gaps between them and the rows left out at the ends. Pairs under the
    # threshold count in the best path and are not returned: they are worth no more than the gaps that they fill.
    total = sum(2 * float(matrix[i, j]) - 1 for i, j in pairs)
    ends = [(-1, None), *pairs, (rows, None)]
    for (a, b), (c, d) in zip(ends[:-1], ends[1:], strict=True):
        skipped = [c - a - 1, 0 if b is None or d is None else d - b - 1]
        total -= sum(0.3 + 0.02 * (count - 1) for count in skipped if count)
    assert total <= best_total(matrix) + 1e-4
    assert total >= best_total(matrix) - 0.6 * (rows + 1)


def test_words_far_from_the_rest_of_their_line_do_not_stretch_it():
    heard = "hold on to me tonight".split() + "nothing here sounds alike at all tight".split()
    columns = [j for _, j in align_words(similarities("hold on to me tonight".split(), heard))]
    assert columns == [0, 1, 2, 3, 4]
    columns = [j for _, j in align_words(similarities("hold on to me toxic".split(), heard))]
    assert max(columns) <= 4
