"""A local HTTP server with byte ranges that answers as it is told before it does its work."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Fault = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]  # the request, and what the right answer would hold


class FlakyServer:
    """`faults` are used up, one per GET (or HEAD, for those of `head_faults`); then all goes well."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: list[Fault] = []
        self.head_faults: list[Fault] = []
        self.only = ""  # faults are for paths that end so
        self.requests: list[str] = []


def answer(status: int, **headers: str) -> Fault:
    """Answer with an error."""

    def fail(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return fail


def cut(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Promise the whole answer, send half of it and hang up."""
    request.send_response(206)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data[: len(data) // 2])
    request.close_connection = True


def shorten(request: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Send half of what was asked for as if that were all, as a broken proxy does."""
    request.send_response(206)
    request.send_header("Content-Length", str(len(data) // 2))
    request.end_headers()
    request.wfile.write(data[: len(data) // 2])


def hang_up(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
    """Say nothing."""
    request.close_connection = True


@contextmanager
def serve_flaky(folder: Path) -> Iterator[FlakyServer]:
    """Serve `folder` until the end of the block."""
    flaky = FlakyServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(flaky.head_faults, with_body=False)

        def do_GET(self) -> None:
            self._answer(flaky.faults, with_body=True)

        def _answer(self, faults: list[Fault], with_body: bool) -> None:
            flaky.requests.append(f"{self.command} {self.path}")
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data, status = path.read_bytes(), 200
            total = len(data)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked:
                status, first, last = 206, int(asked[1]), min(int(asked[2]), total - 1)
                data = data[first : last + 1]
            if faults and self.path.endswith(flaky.only):
                faults.pop(0)(self, data)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    flaky.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield flaky
    finally:
        server.shutdown()
        server.server_close()
