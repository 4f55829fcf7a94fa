"""Network errors: tried again for a bounded time, then an error with address, tries and last error."""

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from shards import remote_retry
from shards.index import IndexRow, read_index
from shards.reader import ShardReader
from shards.remote_retry import GIVE_UP_S, MAX_WAIT_S, TRIES, UnreadableError
from shards.schema import ShardError

from .flaky_server import Fault, FlakyServer, answer, cut, hang_up, serve_flaky, shorten

FAULTS = {
    "503": answer(503),
    "429": answer(429),
    "cut body": cut,
    "short body": shorten,
    "hung up": hang_up,
}


@pytest.fixture
def flaky(tmp_path: Path, rows: list[IndexRow]) -> Iterator[FlakyServer]:
    with serve_flaky(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would be waited, on a clock that only waiting moves."""
    slept: list[float] = []
    monkeypatch.setattr(remote_retry, "sleep", slept.append)
    monkeypatch.setattr(remote_retry, "monotonic", lambda: sum(slept))
    return slept


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_passes_is_not_noticed(
    tmp_path: Path, rows: list[IndexRow], flaky: FlakyServer, waits: list[float], fault: Fault
) -> None:
    reader = ShardReader(flaky.url)
    assert reader.info.num_samples == len(rows)  # fetched before anything fails
    reader.read(rows[0])
    flaky.faults = [fault] * (TRIES - 1)
    assert reader.read_raw(rows[1]).data.tobytes() == ShardReader(tmp_path).read_raw(rows[1]).data.tobytes()
    assert flaky.faults == []
    assert len(waits) == TRIES - 1 or (fault is hang_up and waits), (
        "aiohttp asks again by itself when a server hangs up"
    )
    assert all(0.5 * 0.5 * 2**number <= wait <= 0.5 * 2**number for number, wait in enumerate(waits))


def test_opening_is_tried_again(rows: list[IndexRow], flaky: FlakyServer) -> None:
    """fsspec calls a file missing whatever ends its first requests."""
    flaky.head_faults, flaky.faults = [answer(503)] * 2, [answer(503)] * 2
    assert len(read_index(flaky.url)) == len(rows)
    flaky.head_faults, flaky.faults = [hang_up], [hang_up]
    assert ShardReader(flaky.url).read(rows[0]).key == rows[0].key


def test_a_server_that_says_when_is_obeyed(rows: list[IndexRow], flaky: FlakyServer, waits: list[float]) -> None:
    reader = ShardReader(flaky.url)
    reader.read(rows[0])
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    flaky.faults = [answer(429, Retry_After="7"), answer(503, Retry_After=date), answer(503, Retry_After="soon")]
    reader.read(rows[1])
    assert waits[0] == 7
    assert 17 < waits[1] <= 20
    assert waits[2] <= 2


def test_the_wait_is_bounded(rows: list[IndexRow], flaky: FlakyServer, waits: list[float]) -> None:
    reader = ShardReader(flaky.url)
    reader.read(rows[0])
    flaky.faults = [answer(503, Retry_After="86400")] * TRIES
    with pytest.raises(UnreadableError, match="tried 3 times in 60.0 s"):
        reader.read(rows[1])
    assert waits == [MAX_WAIT_S] * 2
    assert sum(waits) <= GIVE_UP_S


def test_the_last_try_says_all_and_a_server_that_is_down_is_asked_once(
    rows: list[IndexRow], flaky: FlakyServer, waits: list[float]
) -> None:
    reader = ShardReader(flaky.url)
    reader.read(rows[0])
    flaky.faults = [answer(503)] * (TRIES + 1)
    with pytest.raises(ShardError, match=rf"{flaky.url}/train/000000.tar: cannot be read, tried {TRIES} times .*503"):
        reader.read(rows[1])
    with pytest.raises(UnreadableError, match="tried 1 times in 0.0 s"):
        reader.read(rows[1])
    assert len(waits) == TRIES - 1
    assert reader.read(rows[1]).key == rows[1].key, "it is back"
    flaky.faults = [answer(503)] * (TRIES - 1)
    assert reader.read(rows[0]).key == rows[0].key, "and has as many tries as before"


def test_what_cannot_pass_is_not_tried_again(tmp_path: Path, rows: list[IndexRow], flaky: FlakyServer) -> None:
    reader = ShardReader(flaky.url)
    reader.read(rows[0])
    flaky.faults = [answer(403)]
    with pytest.raises(UnreadableError, match="tried 1 times .*403"):
        reader.read(rows[1])
    (tmp_path / rows[2].shard).unlink()
    before = len(flaky.requests)
    with pytest.raises(ShardError, match=f"{rows[2].shard}: missing from {flaky.url}"):
        reader.read(rows[2])
    assert len(flaky.requests) - before <= 2, "HEAD and GET"


def test_an_index_that_cannot_be_fetched_is_not_called_damaged(flaky: FlakyServer) -> None:
    flaky.only, flaky.faults = "index.parquet", [answer(502)] * 20
    with pytest.raises(UnreadableError, match=r"index.parquet: cannot be read, tried 5 times .*502") as caught:
        read_index(flaky.url)
    assert "write the index again" not in str(caught.value)


def test_a_full_disk_of_this_machine_is_not_the_networks_fault(
    rows: list[IndexRow], flaky: FlakyServer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shards.remote._has_ranges", lambda _: False)  # so it is copied to the disk
    monkeypatch.setattr("shards.remote.LocalSource", fail)
    with pytest.raises(OSError, match="No space left"):
        ShardReader(flaky.url).read(rows[0])
    assert waits == []


def test_a_disk_that_cannot_read_is_damage_of_the_sample(
    tmp_path: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(tmp_path)
    reader.read(rows[0])
    for number, expected in ((errno.EIO, ShardError), (errno.ESTALE, ShardError), (errno.EMFILE, OSError)):

        def fail(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(expected, match=os.strerror(number)):
            reader.read(rows[1])
