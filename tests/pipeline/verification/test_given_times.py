"""Given times against found ones: shifted, at another speed, of another version, nonsense."""

import numpy as np
import pytest

from pipeline.verification.given_times import TOLERANCE_S, TimeFit, expect_lines, fit_lines, fit_times
from pipeline.verification.locate_lines import Candidate

from .sung_song import give, place

TIMES_S = np.cumsum(np.random.default_rng(0).uniform(2.0, 6.0, 24))


def distort(times_s: np.ndarray, offset_s: float = 0.0, drift: float = 0.0) -> np.ndarray:
    """Given times for which found is given + offset_s, and drift of the time since the middle."""
    middle_s = float(np.median(times_s))
    return middle_s + (times_s - middle_s) / (1 + drift) - offset_s


@pytest.mark.parametrize("offset_s", [0.0, -8.0, 3.0, 20.0])
@pytest.mark.parametrize("drift", [0.0, 0.01, -0.04])
def test_offset_and_drift_are_found_although_lines_are_elsewhere(offset_s, drift):
    rng = np.random.default_rng(1)
    found = TIMES_S + rng.normal(0, 0.2, len(TIMES_S))
    found[3::5] += rng.uniform(3, 40, len(found[3::5]))  # lines that the recogniser took for others
    fit = fit_times(distort(TIMES_S, offset_s, drift), found)
    assert fit is not None
    assert fit.is_trusted
    assert fit.offset_s == pytest.approx(offset_s, abs=0.3)
    assert fit.drift == pytest.approx(drift, abs=0.004)
    expected = [fit.expect(given_s) for given_s in distort(TIMES_S, offset_s, drift)]
    assert np.abs(np.array(expected) - TIMES_S).max() < 0.4


def nonsense(kind: str) -> np.ndarray:
    rng = np.random.default_rng(2)
    if kind == "another song":
        return np.cumsum(rng.uniform(2.0, 6.0, len(TIMES_S)))
    if kind == "crammed":
        return np.linspace(0, 10, len(TIMES_S))
    drawn = rng.uniform(0, TIMES_S[-1], len(TIMES_S))
    return np.sort(drawn) if kind == "drawn, in order" else drawn


@pytest.mark.parametrize("kind", ["another song", "crammed", "drawn", "drawn, in order"])
def test_nonsense_is_not_trusted(kind):
    fit = fit_times(nonsense(kind), TIMES_S)
    assert fit is not None
    assert not fit.is_trusted


def test_few_lines_prove_little():
    assert fit_times([1.0, 2.0], [1.0, 2.0]) is None
    assert fit_times([1.0, 5.0, 9.0], [2.0, 6.0, 10.0]) == TimeFit(
        offset_s=1.0, drift=None, pivot_s=5.0, spread_s=0.0, num_fitting=3, num_lines=3
    )
    for one_wrong in ([1.0, 5.0, 20.0], [1.0, 5.0, 9.0, 20.0]):
        fit = fit_times(one_wrong, [2.0, 6.0, 10.0, 14.0][: len(one_wrong)])
        assert fit is not None
        assert not fit.is_trusted


def timed(given_s: list[float | None], found_s: list[float | None]) -> tuple[list[Candidate], list[Candidate]]:
    """Lines, and those of them that have a place."""
    lines = give(*(f"line number {k} of them" for k in range(len(given_s))))
    for line, time_s in zip(lines, given_s, strict=True):
        line.given_s = time_s
    return lines, [place(line, at_s) for line, at_s in zip(lines, found_s, strict=True) if at_s is not None]


def test_missing_lines_are_expected_by_what_the_others_agree_on():
    lines, found = timed([0.0, 4.0, 8.0, 12.0, 16.0, None], [5.0, 9.0, None, 17.1, 21.0, 25.0])
    expected = expect_lines(lines, found)
    assert expected[id(lines[2])][0] == pytest.approx(13.0, abs=0.1)
    assert expected[id(lines[2])][1] - expected[id(lines[2])][0] == pytest.approx(3.2, abs=0.1)  # not into the next
    assert id(lines[5]) not in expected
    lines[2].given_end_s = 9.0
    assert expect_lines(lines, found)[id(lines[2])][1] == pytest.approx(14.0, abs=0.1)


def test_no_line_is_expected_beside_a_part_of_another_version():
    given = [4.0 * k for k in range(12)]
    found = [5.0 + time_s if k < 8 else 25.0 + time_s for k, time_s in enumerate(given)]
    lines, placed = timed(given, [None if k in (3, 8, 10) else time_s for k, time_s in enumerate(found)])
    expected = expect_lines(lines, placed)
    assert id(lines[3]) in expected
    assert not {id(lines[8]), id(lines[10])} & expected.keys()


def test_times_that_fit_nothing_expect_nothing():
    lines, placed = timed([0.0, 1.0, 2.0, 3.0, 4.0], [3.0, 9.0, 11.0, 40.0, 55.0])
    assert expect_lines(lines, placed) == {}
    lines, placed = timed([None] * 3, [1.0, 2.0, 3.0])
    assert fit_lines(placed) is None
    assert expect_lines(lines, placed) == {}


@pytest.mark.parametrize(("noise_s", "tolerance_s"), [(0.01, 0.4), (0.25, 0.65), (0.6, TOLERANCE_S)])
def test_roughly_stamped_files_allow_for_more(noise_s, tolerance_s):
    rng = np.random.default_rng(3)
    fit = fit_times(TIMES_S, TIMES_S + rng.normal(0, noise_s, len(TIMES_S)))
    assert fit is not None
    assert fit.tolerance_s == pytest.approx(tolerance_s, abs=0.25)
