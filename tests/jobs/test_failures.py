import os

import pytest

from jobs import failures
from jobs.cluster import JobError
from jobs.failures import MAX_FAILED_IN_ROW, Failure, FailureBudget, attempt
from pipeline.audio.decode import AudioDecodeError


def raising(error: Exception):
    def work() -> None:
        raise error

    return work


def test_what_a_song_gives_is_handed_on():
    assert attempt(lambda: 7) == 7
    with pytest.raises(AudioDecodeError):
        attempt(raising(AudioDecodeError("cut")))


def test_a_failure_has_one_line_and_a_place():
    failure = attempt(raising(LookupError("\n  first\nsecond")))
    assert isinstance(failure, Failure)
    assert failure.reason == "LookupError: first"
    assert "test_failures.py" in failure.traceback


def test_keys_of_the_keyboard_end_the_program():
    with pytest.raises(KeyboardInterrupt):
        attempt(raising(KeyboardInterrupt()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA failed with error unspecified launch failure"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB. CUDA error"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_a_process_that_has_lost_its_gpu_ends(monkeypatch, error, ends):
    """Each later song would fail in it; Ray starts another."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    attempt(raising(error))
    assert codes == ([failures._EXIT_DEVICE_LOST] if ends else [])


def test_failures_in_a_row_stop_a_job():
    budget = FailureBudget(1.0, 1_000)
    for number in range(3 * MAX_FAILED_IN_ROW):  # half of the songs fail, never many in a row
        budget.add_failure(f"song {number}", "why")
        budget.add_success()
    for number in range(MAX_FAILED_IN_ROW - 1):
        budget.add_failure(f"late {number}", "why")
    with pytest.raises(JobError, match=r"40 of 1000.*10 in a row.*'the last'.*: no memory\..*doctor"):
        budget.add_failure("the last", "no memory")


def test_too_large_a_share_stops_a_job():
    budget = FailureBudget(0.05, 400)
    for number in range(20):
        budget.add_failure(f"song {number}", "why")
        budget.add_success()
    with pytest.raises(JobError, match="21 of 400 songs failed .more than --max-failed-rate allows."):
        budget.add_failure("one more", "why")


def test_a_few_failures_stop_no_small_job():
    budget = FailureBudget(0.0, 4)
    for number in range(MAX_FAILED_IN_ROW):
        budget.add_failure(f"song {number}", "why")
        budget.add_success()
    assert len(budget.reasons) == MAX_FAILED_IN_ROW
