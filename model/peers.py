"""The end of one process of a run must end the others, and say which it was.

Every rank keeps one connection to rank 0. The kernel closes it when a process ends, however it ends, and keep-alive
probes find a machine that is gone; neither depends on what Python or a GPU is busy with. Rank 0 tells the others.
"""

import logging
import os
import selectors
import socket
import sys
import threading
from types import TracebackType

from model.ranks import Ranks

EXIT_CODE = 1
TOKEN_BITS = 62  # a number that all ranks are told; a stranger who connects does not know it
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a silent machine is given up after 30 s
JOIN_S = 60.0  # to connect, when all ranks have been told where
GREETING_S = 5.0
MAX_LINE_BYTES = 100

logger = logging.getLogger(__name__)


class PeerWatch:
    """Ends this process with one line as soon as another rank has ended, unless that one said good-bye."""

    def __init__(self, ranks: Ranks) -> None:
        """Connect; all ranks must take part."""
        self._ranks = ranks
        self._closing = threading.Event()
        self._sockets: dict[int, socket.socket] = {}
        if ranks.world_size == 1:
            return
        token = ranks.tell(int.from_bytes(os.urandom(8)) >> (64 - TOKEN_BITS))
        if ranks.is_main:
            listener = socket.create_server(("", 0), backlog=ranks.world_size)
            ranks.tell(listener.getsockname()[1])
            self._accept(listener, token)
        else:
            address = (os.environ["MASTER_ADDR"], ranks.tell(0))
            connection = socket.create_connection(address, timeout=JOIN_S)
            connection.sendall(f"{token} {ranks.rank}\n".encode("ascii"))
            self._keep(0, connection)
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def __enter__(self) -> "PeerWatch":
        """Watch until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say good-bye after success; after an error just go, so that the others end too."""
        self._closing.set()
        for connection in self._sockets.values():
            try:
                if error is None:
                    connection.sendall(b"bye\n")
                connection.close()
            except OSError:
                logger.debug("a rank was gone before the good-bye")

    def _accept(self, listener: socket.socket, token: int) -> None:
        """Wait for all other ranks; whoever does not know the token is sent away."""
        listener.settimeout(JOIN_S)
        with listener:
            while len(self._sockets) < self._ranks.world_size - 1:
                connection, _ = listener.accept()
                connection.settimeout(GREETING_S)
                rank = _read_greeting(connection, token)
                if rank is None or not 0 < rank < self._ranks.world_size or rank in self._sockets:
                    connection.close()
                else:
                    self._keep(rank, connection)

    def _keep(self, rank: int, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets[rank] = connection

    def _watch(self) -> None:
        """Wait for a good-bye or an end, on a thread of its own."""
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._sockets.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map() and not self._closing.is_set():
                for key, _ in selector.select(timeout=1.0):
                    message = _read_line(self._sockets[key.data])
                    if message == "bye":
                        selector.unregister(key.fileobj)
                    elif not self._closing.is_set():
                        self._end(int(message) if message.isdigit() else key.data)

    def _end(self, dead_rank: int) -> None:
        """Tell the others and end this process at once: its main thread may wait for the dead one forever."""
        for rank, connection in self._sockets.items():
            if self._ranks.is_main and rank != dead_rank:
                try:
                    connection.sendall(f"{dead_rank}\n".encode("ascii"))
                except OSError:
                    logger.debug("rank %d is gone too", rank)
        sys.stderr.write(f"rank {self._ranks.rank}: rank {dead_rank} has ended or cannot be reached; ending too\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)


def _read_greeting(connection: socket.socket, token: int) -> int | None:
    """Return the rank that says the token, or None."""
    words = _read_line(connection).split()
    return int(words[1]) if len(words) == 2 and words[0] == str(token) and words[1].isdigit() else None


def _read_line(connection: socket.socket) -> str:
    """Return one short line; an empty text where the connection is gone."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            byte = connection.recv(1)
            if not byte:
                return ""
            line += byte
    except OSError:
        return ""
    return line.decode("ascii", "replace").strip()
