"""The end of one process of a run must end the others, and so must one that hangs; they say which it was.

Every rank keeps one connection to rank 0. The kernel closes it when a process ends, however it ends, and keep-alive
probes find a machine that is gone; neither depends on what Python or a GPU is busy with. Over the same connection each
rank says every few seconds what it does and for how long. Rank 0 tells the others.
"""

import logging
import math
import os
import selectors
import socket
import sys
import threading
import time
from types import TracebackType

from model.training.ranks import Ranks

EXIT_CODE = 1
TOKEN_BITS = 62  # a number that all ranks are told; a stranger who connects does not know it
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a silent machine is given up after 30 s
JOIN_S = 60.0  # to connect, when all ranks have been told where
GREETING_S = 5.0
REPORTS = 12  # that a rank sends in the time after which it counts as hung
LONGEST_REPORT_S = 10.0  # between two of them
MISSED_REPORTS = 3  # after so many a rank is silent
MAX_LINE_BYTES = 2000
MAX_NAMED = 8  # ranks in a message

logger = logging.getLogger(__name__)


class Whereabouts:
    """What this rank is doing, said by its main thread and read by the thread that watches."""

    def __init__(self) -> None:
        """Begin with the start of the run, which may take any time."""
        self._state = ("starting", math.inf, time.monotonic())

    def note(self, place: str, patience: float = 1.0) -> None:
        """Say what is done from now on.

        Args:
            place: a few words.
            patience: how many times longer than usual it may take; infinity: waiting for others, or for a disk.
        """
        self._state = (place, patience, time.monotonic())

    def touch(self) -> None:
        """Say that it goes on."""
        place, patience, _ = self._state
        self._state = (place, patience, time.monotonic())

    def read(self) -> tuple[str, float, float]:
        """Return place, patience, and seconds since the last sign."""
        place, patience, since = self._state
        return place, patience, time.monotonic() - since


class _Report:
    """The last line of a rank."""

    def __init__(self) -> None:
        self.received = time.monotonic()
        self.place, self.patience, self.idle_s = "starting", math.inf, 0.0

    def update(self, words: str) -> None:
        """Take `<idle seconds> <patience> <place>`."""
        idle, patience, self.place = words.split(" ", 2)
        self.idle_s, self.patience, self.received = float(idle), float(patience), time.monotonic()


class PeerWatch:
    """Ends this process with one line as soon as another rank hangs or has ended, unless that one said good-bye."""

    def __init__(self, ranks: Ranks, whereabouts: Whereabouts | None = None, timeout_s: float = 0.0) -> None:
        """Connect; all ranks must take part.

        Args:
            ranks: this process among all.
            whereabouts: of this rank; None: it does not say.
            timeout_s: a rank hangs that has not moved on for so long, times its patience; 0: none ever does.
        """
        self._ranks = ranks
        self._whereabouts = whereabouts or Whereabouts()
        self._timeout_s = timeout_s or math.inf
        self._report_s = min(LONGEST_REPORT_S, self._timeout_s / REPORTS)
        self._reports: dict[int, _Report] = {}
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
                _close(connection)
            except OSError:
                logger.debug("a rank was gone before the good-bye")

    def _accept(self, listener: socket.socket, token: int) -> None:
        """Wait for all other ranks; a connection without the token is refused."""
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
        """Report, and wait for a good-bye, an end or a hang, on a thread of its own."""
        reported = -math.inf
        self._reports = {rank: _Report() for rank in self._sockets}
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._sockets.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map() and not self._closing.is_set():
                if time.monotonic() - reported >= self._report_s:
                    reported = time.monotonic()
                    self._send_report()
                for key, _ in selector.select(timeout=min(1.0, self._report_s)):
                    if self._take(key.data, _read_line(self._sockets[key.data])):
                        selector.unregister(key.fileobj)
                        del self._reports[key.data]
                self._look_for_hangs()

    def _take(self, rank: int, message: str) -> bool:
        """Deal with a line of a rank; return whether it was its good-bye."""
        kind, _, rest = message.partition(" ")
        if kind == "bye":
            return True
        if kind == "at":
            self._reports[rank].update(rest)
        elif not self._closing.is_set():
            self._end(rest if kind == "end" else f"rank {rank} has ended or cannot be reached", rank)
        return False

    def _send_report(self) -> None:
        place, patience, idle_s = self._whereabouts.read()
        self._tell(f"at {idle_s:.1f} {patience} {place}\n")

    def _look_for_hangs(self) -> None:
        """End if a rank is silent, so that it is stopped or its machine is, or else if one has not moved on."""
        now = time.monotonic()
        silent_s = {rank: now - report.received for rank, report in self._reports.items()}
        if self._closing.is_set() or max(silent_s.values(), default=0.0) < self._report_s * MISSED_REPORTS:
            culprits = self._name_idle() if self._ranks.is_main else []
        else:
            limit_s = max(self._timeout_s, self._report_s * MISSED_REPORTS)
            culprits = [
                f"rank {rank} has not been heard of for {seconds:.0f} s (last: {self._reports[rank].place})"
                for rank, seconds in silent_s.items()
                if seconds > limit_s
            ]
        if culprits:
            rest = f" and {len(culprits) - MAX_NAMED} more" if len(culprits) > MAX_NAMED else ""
            self._end(
                f"{', '.join(culprits[:MAX_NAMED])}{rest}, expected a sign within {self._timeout_s:g} s "
                "(trainer.rank_timeout_s)"
            )

    def _name_idle(self) -> list[str]:
        """Return the ranks that say themselves that they have not moved on."""
        states = {rank: (report.place, report.patience, report.idle_s) for rank, report in self._reports.items()}
        states[self._ranks.rank] = self._whereabouts.read()
        return [
            f"rank {rank} has not moved on for {idle_s:.0f} s ({place})"
            for rank, (place, patience, idle_s) in sorted(states.items())
            if idle_s > self._timeout_s * patience
        ]

    def _tell(self, line: str, but: int | None = None) -> None:
        for rank, connection in self._sockets.items():
            if rank != but:
                try:
                    connection.sendall(line.encode("ascii", "replace"))
                except OSError:
                    logger.debug("rank %d is gone too", rank)

    def _end(self, reason: str, dead_rank: int | None = None) -> None:
        """Tell the others and end this process at once: its main thread may wait for the dead one forever."""
        if self._ranks.is_main:
            self._tell(f"end {reason}\n", but=dead_rank)
            for rank, connection in self._sockets.items():
                if rank != dead_rank:
                    _close(connection)
        sys.stderr.write(f"rank {self._ranks.rank}: {reason}; ending too\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)


def _close(connection: socket.socket) -> None:
    """Close such that what was sent arrives: bytes that nobody has read make the kernel reset the connection."""
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.setblocking(False)
        while connection.recv(MAX_LINE_BYTES):
            pass
    except OSError:
        logger.debug("all is read, or the rank is gone")
    connection.close()


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
