"""A model hub on loopback that speaks what huggingface_hub 0.36 asks for, and can be told to fail.

    GET  /api/models/{owner}/{name}[/revision/{revision}]   the list of files, with sizes and hashes
    HEAD /{owner}/{name}/resolve/{revision}/{file}          size, hash and place of a file
    GET  the same, and the places below

As on the real hub, a small file is redirected to a relative address (`/api/resolve-cache/models/...`), a large one to
another server, which takes ranges, with its SHA-256 and size in the headers of the redirect. Large files are announced
as stored on Xet as well; who asks for that gets an error.
"""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

_CHUNK_BYTES = 1 << 20
_LARGE_BYTES = 10 << 20  # the hub takes no larger file without LFS
_LARGE_SUFFIXES = (".bin", ".ckpt", ".h5", ".msgpack", ".pt", ".safetensors")
_NONE: Mapping[str, str] = MappingProxyType({})
_POINTER_BYTES = 134  # of a file that git keeps in place of a large one


@dataclass(frozen=True, slots=True)
class StandIn:
    """A file that is listed with a size and must not be asked for: whoever does fails the test."""

    num_bytes: int


Content = bytes | Path | StandIn


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository: its files by name, and what its card says."""

    name: str
    files: Mapping[str, Content]
    licence: str = "mit"

    @property
    def commit(self) -> str:
        """A commit's id, of the names and sizes."""
        listing = [(name, _num_bytes(content)) for name, content in sorted(self.files.items())]
        return hashlib.sha1(json.dumps([self.name, listing]).encode()).hexdigest()


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests for one file, or with all of them."""

    status: int = 0  # of the answer, in place of the file
    error_code: str = ""  # X-Error-Code: "GatedRepo", "RepoNotFound", "EntryNotFound"
    method: str = ""  # only of this method
    cut_after: int | None = None  # bytes of the body, then the connection breaks
    wrong_bytes: bool = False  # the first one; as many as there should be
    body: bytes | None = None  # in place of the answer, as from a proxy's login page
    delay_s: float = 0.0  # before the answer
    times: int = 1_000_000  # requests that it meets


@dataclass(frozen=True, slots=True)
class Request:
    """One request that came."""

    method: str
    path: str  # without the query
    file_name: str  # "" for lists
    first_byte: int  # of a range, 0 without one
    has_token: bool


@dataclass(slots=True)
class Hub:
    """The state that the threads of both servers share."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""  # set when it serves
    store_endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *repositories: Repository) -> None:
        """Serve repositories."""
        self.repositories |= {repository.name: repository for repository in repositories}

    def fail(self, file_name: str, **fault: object) -> None:
        """Meet requests for a file (its name, "" for lists of files, "*" for everything) with a `Fault`."""
        self.faults.insert(0, (file_name, Fault(**fault)))  # type: ignore[arg-type]

    def recover(self) -> None:
        """Let nothing fail from now on."""
        self.faults.clear()

    def fetched(self) -> list[str]:
        """Return the names of the files whose contents were asked for, in order."""
        return [r.file_name for r in self.requests if r.method == "GET" and r.file_name and "/resolve/" not in r.path]

    def starts(self, file_name: str) -> list[int]:
        """Return the first byte of every request for the contents of a file."""
        of_file = [r for r in self.requests if r.method == "GET" and r.file_name == file_name]
        return [r.first_byte for r in of_file if "/resolve/" not in r.path]

    def touched_stand_ins(self) -> list[str]:
        """Return the files that were asked for although nobody should."""
        stand_ins = {
            (repository.name, name)
            for repository in self.repositories.values()
            for name, content in repository.files.items()
            if isinstance(content, StandIn)
        }
        return [r.path for r in self.requests if any(a in r.path and r.file_name == b for a, b in stand_ins)]

    def take_fault(self, file_name: str, method: str) -> Fault:
        """Return the latest fault that a request meets, one that does nothing where there is none."""
        with self.lock:
            for pattern, fault in self.faults:
                if pattern in (file_name, "*") and fault.method in (method, "") and fault.times > 0:
                    fault.times -= 1
                    return fault
        return Fault()


class HubServer:
    """Two servers, the hub and the store of its large files, each with threads of its own."""

    def __init__(self) -> None:
        """Bind to free ports; `start` serves."""
        self.hub = Hub()
        self._servers = [_Server(self.hub, is_store=False), _Server(self.hub, is_store=True)]
        self.hub.endpoint, self.hub.store_endpoint = (server.address for server in self._servers)

    def start(self) -> None:
        """Serve until `stop`."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Take no further connections."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, *, is_store: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.is_store = hub, is_store

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the requests are kept."""

    def do_HEAD(self) -> None:  # noqa: N802 (http.server names it)
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        with suppress(BrokenPipeError, ConnectionResetError):  # the other side went away
            self._answer(self.command)

    def _answer(self, method: str) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        repository, file_name, place = self._parse(path)
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        has_token = "Authorization" in self.headers
        with hub.lock:
            hub.requests.append(Request(method, path, file_name, first, has_token))
        is_redirect = method == "GET" and place == "resolve"  # what is wrong with a content happens where it is
        fault = Fault() if is_redirect else hub.take_fault(file_name, method)
        threading.Event().wait(fault.delay_s)
        if fault.status:
            return self._send_error(fault.status, fault.error_code)
        if fault.body is not None:
            return self._send_body(fault.body, {}, Fault(), 0)
        if repository is None:
            return self._send_error(HTTPStatus.UNAUTHORIZED, "RepoNotFound")  # as for a private one
        if not file_name:
            return self._send_body(json.dumps(_describe(repository)).encode(), {}, fault, first)
        content = repository.files.get(file_name)
        if content is None or isinstance(content, StandIn):
            return self._send_error(HTTPStatus.NOT_FOUND, "EntryNotFound", {"X-Repo-Commit": repository.commit})
        if place == "resolve":
            return self._redirect(repository, file_name, content)
        return self._send_body(content, {"ETag": f'"{_etag(file_name, content)}"'}, fault, first, repository)

    def _parse(self, path: str) -> tuple[Repository | None, str, str]:
        """Return the repository and the file of a path, and what kind of address it is."""
        parts = path.strip("/").split("/")
        place, rest = "resolve", parts
        if parts[:2] == ["api", "models"]:
            return self.server.hub.repositories.get("/".join(parts[2:4])), "", "list"
        if parts[:3] == ["api", "resolve-cache", "models"]:
            place, rest = "small", parts[3:5] + ["", *parts[5:]]
        elif self.server.is_store:
            place, rest = "large", parts[:2] + ["", "", *parts[3:]]
        return self.server.hub.repositories.get("/".join(rest[:2])), "/".join(rest[4:]), place

    def _redirect(self, repository: Repository, name: str, content: bytes | Path) -> None:
        hub, etag = self.server.hub, _etag(name, content)
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if not _is_large(name, content):
            address = f"/api/resolve-cache/models/{repository.name}/{repository.commit}/{name}"
            return self._send_empty(HTTPStatus.TEMPORARY_REDIRECT, headers | {"Location": f"{address}?etag=%22{etag}"})
        headers |= {
            "Location": f"{hub.store_endpoint}/{repository.name}/{etag}/{name}",
            "X-Linked-Size": str(_num_bytes(content)),
            "X-Linked-ETag": f'"{etag}"',
            "X-Xet-Hash": hashlib.sha256(etag.encode()).hexdigest(),
            "Link": f'<{hub.endpoint}/api/models/{repository.name}/xet-read-token/{repository.commit}>; rel="xet-auth"',
        }
        return self._send_empty(HTTPStatus.FOUND, headers)

    def _send_body(
        self,
        content: bytes | Path,
        headers: dict[str, str],
        fault: Fault,
        first: int,
        repository: Repository | None = None,
    ) -> None:
        size = _num_bytes(content)
        if first and first >= size:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            return self._send_error(status, "", {"Content-Range": f"bytes */{size}"})
        if first:
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        if repository is not None:
            headers |= {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        self._send_head(HTTPStatus.PARTIAL_CONTENT if first else HTTPStatus.OK, headers, size - first)
        if self.command == "HEAD":
            return None
        left = size - first if fault.cut_after is None else fault.cut_after
        for number, chunk in enumerate(_read(content, first)):
            is_wrong = fault.wrong_bytes and number == 0
            part = bytes([chunk[0] ^ 1]) + chunk[1:] if is_wrong else chunk
            self.wfile.write(part[:left])
            left -= len(part)
            if left <= 0:
                break
        if fault.cut_after is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def _send_error(self, status: int, error_code: str, headers: Mapping[str, str] = _NONE) -> None:
        code = {"X-Error-Code": error_code, "X-Error-Message": error_code} if error_code else {}
        self._send_empty(status, {**headers, **code})

    def _send_empty(self, status: int, headers: Mapping[str, str]) -> None:
        self._send_head(status, headers, 0)

    def _send_head(self, status: int, headers: Mapping[str, str], num_bytes: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(num_bytes))
        self.end_headers()


def _describe(repository: Repository) -> dict[str, object]:
    """Return what the API says of a repository with `blobs=true`."""
    siblings = []
    for name, content in repository.files.items():
        entry: dict[str, object] = {"rfilename": name, "size": _num_bytes(content)}
        if _is_large(name, content):
            sha256 = _etag(name, content)
            entry["blobId"] = hashlib.sha1(sha256.encode()).hexdigest()  # of the pointer
            entry["lfs"] = {"sha256": sha256, "size": _num_bytes(content), "pointerSize": _POINTER_BYTES}
        else:
            entry["blobId"] = _etag(name, content)
        siblings.append(entry)
    return {
        "_id": repository.commit[:24],
        "id": repository.name,
        "modelId": repository.name,
        "sha": repository.commit,
        "private": False,
        "gated": False,
        "cardData": {"license": repository.licence},
        "siblings": siblings,
    }


def _is_large(name: str, content: Content) -> bool:
    return name.endswith(_LARGE_SUFFIXES) or _num_bytes(content) > _LARGE_BYTES


def _num_bytes(content: Content) -> int:
    if isinstance(content, StandIn):
        return content.num_bytes
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _etag(name: str, content: Content) -> str:
    """Return a file's SHA-256 where it is large, else what git calls it."""
    if isinstance(content, StandIn):  # of nothing: it is never fetched
        return hashlib.sha256(str(content.num_bytes).encode()).hexdigest()
    if _is_large(name, content):
        return _hash_path(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
    whole = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0" % len(whole) + whole).hexdigest()


_hashes: dict[tuple[Path, int, int], str] = {}


def _hash_path(path: Path) -> str:
    status = path.stat()
    key = (path, status.st_size, status.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as stream:
            _hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _hashes[key]


def _read(content: bytes | Path, first: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content[first:]
        return
    with content.open("rb") as stream:
        stream.seek(first)
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
