"""What a forked process must not share with its parent: locks, connections, anything that another thread is using.

A fork copies locks as they are. One that another thread holds at that moment is never released in the child, which has
no such thread, and connections of the parent go on being used by both.
"""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_generation = 0  # forks between the first process and this one


def _count_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_count_fork)


class PerProcess(Generic[_T]):
    """A value that each process makes for itself when it first asks for it.

    What the parent had made is neither used nor closed in the child: closing a connection there would disturb it here.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        """Take what makes the value; it should be quick, as two threads that ask first may both make one."""
        self._make = make
        self._values: dict[int, _T] = {}  # by generation; those of ancestors stay as they are

    def get(self) -> _T:
        """Return the value of this process; all its threads get the same one."""
        value = self._values.get(_generation)
        if value is None:
            value = self._values.setdefault(_generation, self._make())  # in one step: the first thread wins
        return value


class ForkSafeLock:
    """A lock for `with` that is free in a new process, whoever held it in the old one."""

    def __init__(self) -> None:
        """Start unlocked."""
        self._lock = PerProcess(threading.Lock)

    def __enter__(self) -> None:
        self._lock.get().acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.get().release()
