"""Readers in forked processes: every sample is read as it stands, and nobody waits for a thread that is not there."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shards.index import Index, IndexRow, read_index
from shards.per_process import ForkSafeLock, PerProcess
from shards.reader import ShardReader
from shards.storage import Root

_TIMEOUT_S = 20


def run_in_children(work: Callable[[int], None], count: int) -> list[str]:
    """Fork `count` times at once and return what each child came to: "" or an error, "hangs" after a while."""
    children = []
    for number in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work(number)
                message = ""
            except BaseException as error:  # noqa: BLE001  (for the parent to see)
                message = f"{type(error).__name__}: {error}"
            os.write(writing, (message or "fine").encode()[:4000])
            os._exit(0)
        os.close(writing)
        children.append((child, reading))
    results, deadline = [], time.monotonic() + _TIMEOUT_S
    for child, reading in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
        message = os.read(reading, 4000).decode() or "hangs"
        results.append("" if message == "fine" else message)
        os.close(reading)
    return results


@contextmanager
def threads_at_work(work: Callable[[], object], count: int = 3) -> Iterator[None]:
    """Run `work` over and over in threads while the block lasts."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            work()

    threads = [threading.Thread(target=repeat, daemon=True) for _ in range(count)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that a fork meets a thread anywhere
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


_SERVER = """
import http.server, pathlib, re, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET(with_body=False)
    def do_GET(self, with_body=True):
        data = (pathlib.Path(sys.argv[1]) / self.path.lstrip("/")).read_bytes()
        asked = re.fullmatch(r"bytes=(\\d+)-(\\d+)", self.headers.get("Range", ""))
        if asked and sys.argv[2] == "ranges":
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        if sys.argv[2] == "ranges":
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def serve(folder: Path, ranges: str) -> Iterator[str]:
    """Serve a folder from a process of its own, which no fork of this one takes part in."""
    command = [sys.executable, "-c", _SERVER, str(folder), ranges]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@pytest.fixture(params=["folder", "file url", "ranges", "no ranges"])
def root(tmp_path: Path, rows: list[IndexRow], request: pytest.FixtureRequest) -> Iterator[Root]:
    """A dataset in a folder, as fsspec opens it, and behind servers; without ranges shards are in temporary files."""
    if request.param == "folder":
        yield tmp_path
    elif request.param == "file url":
        yield f"file://{tmp_path}"
    else:
        with serve(tmp_path, request.param) as url:
            yield url


def read_some(reader: ShardReader, index: Index, seed: int, count: int = 40) -> None:
    """Read samples in an order of this seed's own; a wrong byte is a checksum error."""
    for step in range(count):
        row = index.row((seed * 7 + step * (seed + 1)) % len(index))
        assert reader.read(row).key == row.key


def test_children_read_at_once_what_the_parent_has_open(root: Root) -> None:
    reader, index = ShardReader(root), read_index(root)
    read_some(reader, index, 0)
    assert run_in_children(lambda number: read_some(reader, index, number, 100), 6) == [""] * 6
    read_some(reader, index, 1)  # nor is the parent disturbed


def test_fork_while_threads_are_reading(root: Root) -> None:
    reader, index = ShardReader(root), read_index(root)

    def read() -> None:
        index.column("num_frames")
        read_some(reader, index, 3, 5)

    with threads_at_work(read):
        for _ in range(5):
            assert run_in_children(lambda number: read_some(reader, index, number, 10), 2) == [""] * 2


def test_fork_while_threads_open_everything_for_the_first_time(tmp_path: Path, rows: list[IndexRow]) -> None:
    """Even who holds the lock of a cached property, such as dataset.json once read, is not waited for."""
    shared: list[ShardReader] = [ShardReader(tmp_path)]

    def read() -> None:
        shared[0] = ShardReader(tmp_path)
        assert shared[0].info.num_samples == len(rows)

    with threads_at_work(read):
        for _ in range(10):
            assert run_in_children(lambda _: read_some(shared[0], read_index(tmp_path), 0, 2), 2) == [""] * 2


def _read_in_worker(reader: ShardReader, index: Index, seed: int) -> None:
    read_some(reader, index, seed)


def test_workers_of_multiprocessing(root: Root) -> None:
    reader, index = ShardReader(root), read_index(root)
    context = multiprocessing.get_context("fork")
    with threads_at_work(lambda: read_some(reader, index, 5, 5)):
        workers = [
            context.Process(target=_read_in_worker, args=(reader, index, seed), daemon=True) for seed in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(_TIMEOUT_S)
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_workers_of_a_data_loader(tmp_path: Path, rows: list[IndexRow]) -> None:
    """As users train: the loader forks its workers while a thread of the trainer reads."""
    from torch.utils.data import DataLoader, Dataset

    class Songs(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.index, self.reader = read_index(tmp_path), ShardReader(tmp_path)

        def __len__(self) -> int:
            return 40

        def __getitem__(self, number: int) -> str:
            return self.reader.read(self.index.row(number % len(self.index))).key

    songs = Songs()

    def read() -> None:
        songs.index.column("song_id")
        read_some(songs.reader, songs.index, 2, 5)

    with threads_at_work(read):
        loader = DataLoader(songs, batch_size=4, num_workers=2, timeout=_TIMEOUT_S)
        keys = [key for batch in loader for key in batch]
    assert keys == [rows[number % len(rows)].key for number in range(40)]


def test_lock_that_a_thread_holds_is_free_in_a_child() -> None:
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(_TIMEOUT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def take(_: int) -> None:
        with lock:
            pass

    assert run_in_children(take, 2) == ["", ""]
    done.set()
    thread.join()


def test_each_process_makes_its_own_value_and_all_threads_share_it() -> None:
    made: list[int] = []
    value = PerProcess(lambda: made.append(os.getpid()) or made)
    parent = value.get()
    assert value.get() is parent

    def check(_: int) -> None:
        assert value.get() == [os.getppid(), os.getpid()]
        assert run_in_children(lambda _: value.get() and None, 1) == [""]

    assert run_in_children(check, 1) == [""]
    assert made == [os.getpid()]
