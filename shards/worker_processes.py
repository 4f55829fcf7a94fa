"""Does tasks in processes and gives the results in the order of the tasks, however many processes there are."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from shards.schema import ShardError

_TASKS_AHEAD = 4  # for each worker: done or under way before the first of them is given
_MAX_DEATHS = 5  # in a row, beyond one of each worker
_MAX_END_S = 10.0  # that a process takes to end
_CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of Arrow hold

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class _Place(Generic[_Task, _Result]):
    """A task and what has become of it."""

    task: _Task
    result: _Result | None = None


@dataclass(slots=True, eq=False)
class _Worker:
    process: Any
    connection: Connection
    place: _Place[Any, Any] | None = field(default=None)  # what it is doing


def run_in_order(
    tasks: Iterable[_Task],
    make_work: Callable[[], Callable[[_Task], _Result]],
    explain_loss: Callable[[_Task, str], _Result],
    num_workers: int,
) -> Iterator[_Result]:
    """Yield the result of every task, in their order.

    Args:
        tasks: picklable; taken few at a time.
        make_work: picklable; called once in each process, and gives what does a task.
        explain_loss: makes the result of a task whose process died; its second argument says how.
        num_workers: processes; with 1 everything is done in this one.

    Raises:
        ShardError: processes die one after the other.
    """
    if num_workers == 1:
        work = make_work()
        yield from map(work, tasks)
        return
    remaining = iter(tasks)
    places: deque[_Place[_Task, _Result]] = deque()
    workers: list[_Worker] = []
    num_deaths = 0
    is_over = False
    try:
        while True:
            while not is_over and len(places) < _TASKS_AHEAD * num_workers:
                idle = next((worker for worker in workers if worker.place is None), None)
                if idle is None and len(workers) == num_workers:
                    break
                task = next(remaining, None)
                if task is None:
                    is_over = True
                    break
                if idle is None:
                    idle = _start(make_work)
                    workers.append(idle)
                idle.place = _Place(task)
                places.append(idle.place)
                _send(idle, task)
            if not places:
                return
            if places[0].result is not None:
                yield places.popleft().result  # type: ignore[misc]
                continue
            for worker in _wait(workers):
                place, worker.place = worker.place, None
                assert place is not None
                try:
                    place.result, num_deaths = worker.connection.recv(), 0
                except (EOFError, OSError):
                    workers.remove(worker)
                    how = _end(worker)
                    place.result = explain_loss(place.task, how)
                    num_deaths += 1
                    if num_deaths == _MAX_DEATHS + num_workers:
                        raise ShardError(
                            f"{num_deaths} workers died one after the other, the last one: {how}"
                        ) from None
    finally:
        for worker in workers:
            worker.process.terminate()
            _end(worker)


def _start(make_work: Callable[[], Callable[[Any], Any]]) -> _Worker:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(theirs, make_work), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the connection
    return _Worker(process, ours)


def _serve(connection: Connection, make_work: Callable[[], Callable[[Any], Any]]) -> None:
    """Do tasks until nobody sends any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key on the terminal reaches all; the first process ends the others
    work = make_work()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(work(task))


def _send(worker: _Worker, task: Any) -> None:
    try:
        worker.connection.send(task)
    except OSError:  # it has died since; `recv` will find the end of the connection
        pass


def _wait(workers: Iterable[_Worker]) -> list[_Worker]:
    """Return the workers that have an answer, or have died, when there are any."""
    by_connection = {worker.connection: worker for worker in workers if worker.place is not None}
    return [by_connection[connection] for connection in wait(by_connection) if isinstance(connection, Connection)]


def _end(worker: _Worker) -> str:
    """Wait for the end of a process and return how it ended."""
    worker.connection.close()
    worker.process.join(_MAX_END_S)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode
    name = f"worker process {worker.process.pid}"
    return f"{name} was killed by {signal.Signals(-code).name}" if code < 0 else f"{name} ended with exit code {code}"
