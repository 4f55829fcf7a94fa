"""The frame clock and the limits of the schema."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.schema import FIELDS, MAX_KEY_BYTES, count_frames, time_to_frame

RATES = st.sampled_from([8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])


@given(st.integers(0, 10**9), RATES)
def test_count_frames_is_the_largest_whole_number_that_fits(num_samples: int, sample_rate: int) -> None:
    num_frames = count_frames(num_samples, sample_rate)
    assert Fraction(num_frames, 25) <= Fraction(num_samples, sample_rate) < Fraction(num_frames + 1, 25)


@given(st.integers(0, 10**6))
def test_both_clocks_give_the_same_frames(num_frames: int) -> None:
    assert count_frames(num_frames * 960, 24_000) == count_frames(num_frames * 1920, 48_000) == num_frames


@pytest.mark.parametrize(("num_samples", "sample_rate"), [(-1, 48_000), (1, 0)])
def test_count_frames_refuses_no_audio(num_samples: int, sample_rate: int) -> None:
    with pytest.raises(ValueError, match="no audio"):
        count_frames(num_samples, sample_rate)


@given(st.integers(0, 10**6))
def test_start_of_a_frame_belongs_to_it(frame: int) -> None:
    assert time_to_frame(frame / 25, 10**6) == frame


@given(st.integers(0, 10**8), RATES)
def test_time_of_a_sample_and_its_frame_agree(num_samples: int, sample_rate: int) -> None:
    num_frames = count_frames(num_samples, sample_rate)
    assert time_to_frame(num_samples / sample_rate, num_frames + 1) == num_frames


@given(st.floats(-10, 40_000), st.floats(-10, 40_000), st.integers(0, 10**6))
def test_time_to_frame_keeps_order_and_stays_in_the_song(first_s: float, second_s: float, num_frames: int) -> None:
    early, late = (time_to_frame(time_s, num_frames) for time_s in sorted((first_s, second_s)))
    assert 0 <= early <= late <= num_frames


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -math.inf])
def test_time_to_frame_refuses_what_is_no_time(time_s: float) -> None:
    with pytest.raises(ValueError, match="not a time"):
        time_to_frame(time_s, 100)


def test_longest_member_name_fits_a_ustar_name_field() -> None:
    assert all(MAX_KEY_BYTES + 1 + len(field.suffix) <= 100 for field in FIELDS)
