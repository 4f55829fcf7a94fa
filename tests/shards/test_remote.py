"""Reading over a network: a local HTTP server that honours byte ranges, and one that does not."""

import http.server
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest

from shards.__main__ import main
from shards.index import IndexRow, read_dataset_info, read_index
from shards.reader import ShardReader
from shards.schema import ShardError


@dataclass
class Served:
    """A server's address and what it was asked for."""

    url: str = ""
    num_bytes: dict[str, int] = field(default_factory=dict)  # sent in answers to GET, by path
    requests: list[str] = field(default_factory=list)


def serve(folder: Path, has_ranges: bool) -> tuple[http.server.ThreadingHTTPServer, Served]:
    served = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data, status = path.read_bytes(), 200
            total = len(data)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and has_ranges:
                status, first, last = 206, int(asked[1]), min(int(asked[2]), total - 1)
                data = data[first : last + 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if has_ranges:
                self.send_header("Accept-Ranges", "bytes")
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            self.end_headers()
            served.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
            if with_body:
                # counted first: the client has its answer, and may look here, before this thread runs again
                served.num_bytes[self.path] = served.num_bytes.get(self.path, 0) + len(data)
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    return server, served


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def has_ranges(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def served(tmp_path: Path, rows: list[IndexRow], has_ranges: bool) -> Iterator[Served]:
    server, found = serve(tmp_path, has_ranges)
    yield found
    server.shutdown()
    server.server_close()


def test_every_sample_reads_as_from_the_folder(tmp_path: Path, served: Served) -> None:
    near, far = ShardReader(tmp_path), ShardReader(served.url)
    index = read_index(served.url)
    assert far.info == near.info
    for row in reversed(list(index)):
        found, expected = far.read(row), near.read(row)
        assert found.metadata == expected.metadata
        for name, array in expected.arrays.items():
            assert found.arrays[name].tobytes() == array.tobytes()
            assert found.arrays[name].flags.writeable


def test_sequential_reading(tmp_path: Path, rows: list[IndexRow], served: Served) -> None:
    keys = [sample.key for sample in ShardReader(served.url).iterate("train/000000.tar")]
    assert keys == [row.key for row in rows[:2]]


def test_only_what_is_needed_is_fetched(rows: list[IndexRow], served: Served, has_ranges: bool) -> None:
    """With ranges the bytes of one sample; without, the shard once, however many samples are read from it."""
    reader = ShardReader(served.url)
    reader.info  # noqa: B018  (fetched here)
    sample_bytes = rows[1].end - rows[1].start
    reader.read(rows[1])
    if has_ranges:
        assert sample_bytes <= served.num_bytes["/train/000000.tar"] <= sample_bytes + 8
    for row in (rows[0], rows[1], rows[0]):
        reader.read(row)
    if not has_ranges:
        assert served.num_bytes["/train/000000.tar"] <= 2 * rows[0].shard_bytes, "once, and what the probe was sent"


def test_damage_is_found(tmp_path: Path, rows: list[IndexRow], served: Served) -> None:
    path = tmp_path / rows[0].shard
    data = bytearray(path.read_bytes())
    data[rows[1].latents_offset + 600] ^= 1
    path.write_bytes(data)
    reader = ShardReader(served.url)
    assert reader.read(rows[0]).key == rows[0].key
    with pytest.raises(ShardError, match="checksum differs from the index"):
        reader.read(rows[1])
    path.write_bytes(data[: rows[1].start + 900])
    with pytest.raises(ShardError, match="it was cut"):
        ShardReader(served.url).read(rows[1])
    path.unlink()
    with pytest.raises(ShardError, match=r"train/000000.tar: missing from http"):
        ShardReader(served.url).read(rows[0])


def test_missing_dataset_is_named(served: Served) -> None:
    for read in (read_index, read_dataset_info):
        with pytest.raises(ShardError, match=r"http://.*/nothing/\S+ is missing"):
            read(f"{served.url}/nothing")


def test_reader_and_index_can_be_sent_to_a_worker(served: Served) -> None:
    reader, index = pickle.loads(pickle.dumps((ShardReader(served.url), read_index(served.url))))
    assert reader.read(index.row(2)).key == index.row(2).key


def test_server_that_is_gone_is_an_error_with_the_name(tmp_path: Path, rows: list[IndexRow]) -> None:
    server, found = serve(tmp_path, has_ranges=True)
    reader = ShardReader(found.url)
    reader.read(rows[0])
    server.shutdown()
    server.server_close()
    with pytest.raises((OSError, ShardError), match="127.0.0.1"):
        reader.read(rows[2])


def test_other_file_systems_of_fsspec(tmp_path: Path, rows: list[IndexRow]) -> None:
    """What s3:// and gs:// go through, with a file system in memory in their place."""
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/bucket/shards", recursive=True)
    reader, index = ShardReader("memory://bucket/shards"), read_index("memory://bucket/shards")
    assert [reader.read(row).key for row in index] == [row.key for row in rows]
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("url", ["s3x://bucket/shards", "nothing://x"])
def test_unknown_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ShardError, match="Protocol not known"):
        ShardReader(url)


def test_commands_take_urls(rows: list[IndexRow], served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", served.url, rows[3].key]) == 0
    assert f"key         {rows[3].key}" in capsys.readouterr().out
    assert main(["stats", served.url]) == 0
