"""Which given word is which heard word: similarity by sound, and the best alignment of two word lists in order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from pipeline.lyrics.sounds import sound_key

# Words at least this similar count as the same word heard badly.
SAME_WORD_SIMILARITY = 0.5
# Alignment scores, in units of one perfect match: starting a gap, and each further word in it.
GAP_OPEN = 0.3
GAP_EXTEND = 0.02


def similarities(given: Sequence[str], heard: Sequence[str]) -> NDArray[np.float32]:
    """Return float32 [len(given), len(heard)] of similarities in [0, 1]; words without any sound match nothing."""
    if not given or not heard:
        return np.zeros((len(given), len(heard)), dtype=np.float32)
    given_keys, heard_keys = [sound_key(w) for w in given], [sound_key(w) for w in heard]
    matrix = cdist(given_keys, heard_keys, scorer=Levenshtein.normalized_similarity, dtype=np.float32)
    matrix[[not key for key in given_keys], :] = 0.0
    return np.asarray(matrix, dtype=np.float32)


def align_words(similarity: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return pairs (row, column), both increasing, of the alignment with the highest total of `2 * similarity - 1`.

    Gaps on either side are affine (Gotoh 1982); columns before the first and after the last pair cost nothing. Only
    pairs at or above SAME_WORD_SIMILARITY are returned.
    """
    return _trace(similarity, *_fill(similarity)) if similarity.size else []


def alignment_score(similarity: NDArray[np.float32]) -> float:
    """Return the total that `align_words` maximises.

    Words that agree in order and in one piece count; words that agree here and there cost more in gaps than they bring.
    """
    if not similarity.size:
        return 0.0
    return float(max(table[-1].max() for table in _fill(similarity)))


def _fill(similarity: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the best scores [rows + 1, columns + 1] that end with a pair, with a row and with a column left out."""
    rows, cols = similarity.shape
    low = np.float32(-1e9)
    gain = 2 * similarity - 1
    pair = np.full((rows + 1, cols + 1), low, dtype=np.float32)
    skip_row, skip_col = pair.copy(), pair.copy()
    pair[0, 0] = 0.0
    extend = GAP_EXTEND * np.arange(cols + 1, dtype=np.float32)

    def fill_skip_col(i: int) -> None:
        # skip_col[i, j] = max over k < j of best(i, k) - open - extend * (j - k - 1), as one running maximum
        best = np.maximum(pair[i], skip_row[i])
        skip_col[i, 1:] = np.maximum.accumulate(best + extend)[:-1] - GAP_OPEN - extend[:-1]

    fill_skip_col(0)
    skip_col[0, 1:] = 0.0
    for i in range(1, rows + 1):
        before = np.maximum(np.maximum(pair[i - 1], skip_row[i - 1]), skip_col[i - 1])
        pair[i, 1:] = gain[i - 1] + before[:-1]
        skip_row[i] = np.maximum(np.maximum(pair[i - 1], skip_col[i - 1]) - GAP_OPEN, skip_row[i - 1] - GAP_EXTEND)
        fill_skip_col(i)
    return [pair, skip_row, skip_col]


def _trace(
    similarity: NDArray[np.float32],
    pair: NDArray[np.float32],
    skip_row: NDArray[np.float32],
    skip_col: NDArray[np.float32],
) -> list[tuple[int, int]]:
    pairs = []
    tables = (pair, skip_row, skip_col)
    i = len(similarity)
    state = int(np.argmax([table[i].max() for table in tables]))
    j = int(np.argmax(tables[state][i]))
    while i > 0 or j > 0:
        if state == 0 and i > 0 and j > 0:
            if similarity[i - 1, j - 1] >= SAME_WORD_SIMILARITY:
                pairs.append((i - 1, j - 1))
            i, j = i - 1, j - 1
            state = int(np.argmax([table[i, j] for table in tables]))
        elif state == 1 or j == 0:
            i -= 1
            opened = max(pair[i, j], skip_col[i, j]) - GAP_OPEN
            state = 1 if skip_row[i, j] - GAP_EXTEND > opened else (0 if pair[i, j] >= skip_col[i, j] else 2)
        else:
            j -= 1
            opened = max(pair[i, j], skip_row[i, j]) - GAP_OPEN
            state = 2 if skip_col[i, j] - GAP_EXTEND > opened else (0 if pair[i, j] >= skip_row[i, j] else 1)
    return pairs[::-1]
