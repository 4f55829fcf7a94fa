"""Tries again, for a bounded time, what a network lets fail."""

import errno
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic, sleep
from typing import TypeVar

from shards.schema import ShardError

TRIES = 5
FIRST_WAIT_S = 0.5  # doubled from try to try
MAX_WAIT_S = 30.0  # of one wait, also where a server asks for a longer one
GIVE_UP_S = 60.0  # no wait ends later: half of what the trainer waits for a rank that does not move on
_TEMPORARY = (408, 425, 429)  # and 500 to 599: answers of HTTP after which the same request may succeed
_MISSING = (404, 410)
_OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # no fault of the network

_T = TypeVar("_T")
logger = logging.getLogger(__name__)


class UnreadableError(ShardError):
    """A file that could not be read over the network. Nothing is known against the file itself."""


class Retrier:
    """Calls what reads over a network until it succeeds, at most five times within a minute.

    While a server is down, which is after five tries without success until the next one with, each call is tried once:
    a run that leaves out what it cannot read then comes to its end soon.
    """

    def __init__(self, errors: tuple[type[Exception], ...]) -> None:
        """Take what a network raises; OSError should be among it."""
        self._errors = errors
        self._is_down = False
        self._has_warned = False

    def call(self, name: str, read: Callable[[], _T]) -> _T:
        """Return what `read` returns.

        Waits double, with up to a half left out at random, so that ranks do not come back all at once; a server that
        says how long to wait (Retry-After) is obeyed up to half a minute.

        Args:
            name: URL of the file, for messages.
            read: may be called several times.

        Raises:
            UnreadableError: it failed to the last; the message has the URL, the number of tries and the last error.
            FileNotFoundError: the server says that there is no such file.
            OSError: this machine is out of disk, memory or open files.
        """
        started, wait_s = monotonic(), FIRST_WAIT_S
        for number in range(1, TRIES + 1):
            try:
                result = read()
            except self._errors as caught:
                error = self._judge(caught)
            else:
                self._is_down = False
                return result
            pause_s = min(MAX_WAIT_S, max(wait_s * random.uniform(0.5, 1.0), _read_retry_after(error)))
            spent_s = monotonic() - started
            is_last = number == TRIES or self._is_down or spent_s + pause_s > GIVE_UP_S
            if is_last or not _is_temporary(error):
                self._is_down = _is_temporary(error)
                raise UnreadableError(
                    f"{name}: cannot be read, tried {number} times in {spent_s:.1f} s; last: "
                    f"{type(error).__name__}: {' '.join(str(error).split())}"
                ) from error
            if not self._has_warned:
                self._has_warned = True
                logger.warning("%s: %s; trying again, and so from here on without a word", name, error)
            sleep(pause_s)
            wait_s *= 2
        raise AssertionError("the last try ends in an error or a result")

    def _judge(self, caught: Exception) -> Exception:
        """Return what went wrong, or raise it where trying again is of no use.

        fsspec says that a file is missing whatever ends its first request; the cause tells.
        """
        if isinstance(caught, FileNotFoundError):
            cause = caught.__cause__
            if not isinstance(cause, self._errors) or getattr(cause, "status", None) in _MISSING:
                raise caught
            return cause
        if isinstance(caught, OSError) and caught.errno in _OF_THIS_MACHINE:
            raise caught
        return caught


def _is_temporary(error: Exception) -> bool:
    """Tell whether the same request may succeed later; of what is not known it may."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return status in _TEMPORARY or status >= 500
    return not isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError)


def _read_retry_after(error: Exception) -> float:
    """Return the seconds that a server asks to wait, given as such or as a date; 0 where it does not."""
    text = str((getattr(error, "headers", None) or {}).get("Retry-After", "")).strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0
