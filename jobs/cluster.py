"""Ray, and nothing else of the project: connecting, sizing worker pools, streaming rows through them."""

import importlib.metadata
import itertools
import json
import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where a token lies in the home folder, a running cluster asks for it, and Ray reads this variable when it is imported.
if (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import psutil  # noqa: E402
import ray  # noqa: E402
from ray.exceptions import OutOfMemoryError, RayActorError, RayError  # noqa: E402

logger = logging.getLogger(__name__)

Row = dict[str, Any]

DISTRIBUTION = "songbloom-train"
# glibc's settings for workers: keep a few hundred megabytes that are freed. A network takes and frees the same tens of
# megabytes again and again, and giving them back to have them cleared anew takes a third of a Whisper's encoder and an
# eighth of a separation on a CPU (pipeline/README.md). One arena, as only the first can hold so much, and CTranslate2
# works in threads of its own. What is larger than the threshold, as an hour's samples, goes back at once. Read when a
# process starts: too late for mallopt, as a worker of Ray has threads by then.
_KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}
# The part of a Ray of our own that would start machines. Told to end it goes on, and Ray waits a second for it.
_MONITOR = "/autoscaler/_private/monitor.py"
MAX_RETRIES = 2  # of a row whose worker died, say with its machine or for want of memory


class JobError(RuntimeError):
    """A job that cannot go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Worker processes that keep what they load: how many, and what each of them takes of the cluster."""

    num_workers: int
    num_cpus: float
    num_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What this job may use."""

    num_cpus: float
    num_gpus: float

    @property
    def device(self) -> str:
        """What models run on: "cuda" or "cpu"."""
        return "cuda" if self.num_gpus else "cpu"

    def readers(self) -> Pool:
        """Return a pool for work without weights: a whole core each, as many at once would only fill the memory."""
        return Pool(num_workers=max(1, int(self.num_cpus)), num_cpus=min(1.0, self.num_cpus))

    def encoders(self, requested: int | None = None) -> Pool:
        """Return a pool for work with weights: one worker per GPU, or per core where there is none.

        More workers than GPUs share them in equal parts, so that all can start; fewer take one each.
        """
        workers = requested or max(1, int(self.num_gpus or self.num_cpus))
        num_gpus = 1 / math.ceil(workers / self.num_gpus) if self.num_gpus else 0.0
        # Ray counts in steps of 0.0001; rounding down keeps the sum under what there is.
        num_cpus, num_gpus = (int(10_000 * what) / 10_000 for what in (self.num_cpus / workers, num_gpus))
        return Pool(num_workers=workers, num_cpus=min(1.0, num_cpus), num_gpus=num_gpus)


def connect() -> Cluster:
    """Join the running Ray cluster, or start one in this process, and return what it has."""
    origin = "going on with the same Ray" if ray.is_initialized() else _join_or_start()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cluster = Cluster(resources.get("CPU", 1.0), resources.get("GPU", 0.0))
    logger.info("%s: %g CPUs, %g GPUs", origin, cluster.num_cpus, cluster.num_gpus)
    return cluster


def _join_or_start() -> str:
    """Join the cluster that RAY_ADDRESS or this machine names, else start one that ends with this process."""
    address = os.environ.get("RAY_ADDRESS") or _started_cluster()
    if address and address != "local":
        try:
            ray.init(address=address, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise JobError(f"no Ray answers at {address}; run `ray stop`, and `ray start --head` again") from error
        return f"joined the Ray at {address}"
    # Ray would leave a token in the home folder for this short-lived cluster, and from then on `ray start` would ask
    # for it and `ray job submit` would fail. It listens on this machine only.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.update(_worker_environment())
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, logging_level=logging.ERROR)
    return "started a Ray for this run"


def leave() -> None:
    """End the Ray that was started for this run, or leave the one that was joined; at exit Ray would take longer."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended by itself
            if any(part.endswith(_MONITOR) for part in child.cmdline()):
                child.kill()
    ray.shutdown()  # type: ignore[no-untyped-call]


def _started_cluster() -> str | None:
    """Return the address that `ray start --head` left on this machine; never that of another program's own Ray."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    if not path.exists():
        return None
    address = path.read_text().strip()
    host, _, port = address.rpartition(":")
    try:  # a cluster that was killed leaves its address behind, and Ray would wait for it
        socket.create_connection((host, int(port)), timeout=3).close()
    except (OSError, ValueError):
        return None
    return address


def _worker_environment() -> dict[str, str]:
    """Return the settings of `_KEEP_FREED_MEMORY` that nobody has set otherwise."""
    return {name: value for name, value in _KEEP_FREED_MEMORY.items() if name not in os.environ}


class Crew:
    """Worker processes that map rows, one kind of work after the other; each keeps what it loads for it.

    They end with the `with` block.
    """

    def __init__(self, pool: Pool) -> None:
        """Start nothing yet: few rows make few workers."""
        self._pool = pool
        self._workers: list[Any] = []
        self._num_streams = 0

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []

    def fit(self, pool: Pool) -> "Crew":
        """Return a crew for the work that comes next: this one where the pools are equal, else a new one."""
        if pool == self._pool:
            return self
        self.__exit__()
        return Crew(pool)

    def _hire(self, num_workers: int) -> None:
        actor: Any = ray.remote(_Worker)
        actor = actor.options(
            num_cpus=self._pool.num_cpus,
            num_gpus=self._pool.num_gpus,
            max_restarts=-1,
            max_task_retries=MAX_RETRIES,
            # A Ray that was started for this run has it already, and processes of it that wait for work serve.
            runtime_env={"env_vars": settings} if (settings := _worker_environment()) else None,
        )
        self._workers += [actor.remote() for _ in range(num_workers - len(self._workers))]

    def stream(self, rows: Sequence[Row], make_worker: Callable[[], Callable[[Row], Row]]) -> Iterator[Row]:
        """Map every row to a row, and yield the results as they finish, in any order.

        Every process calls `make_worker` once, and takes the next row when it is done with one.

        Raises:
            JobError: a worker raised; the message is the worker's. Or it died, and again when the row was tried again.
        """
        self._hire(min(self._pool.num_workers, len(rows)))
        self._num_streams += 1
        work = self._num_streams, ray.put(make_worker)
        waiting, num_left = iter(rows), len(rows)
        # A worker gets its first row when it has started: on a busy cluster some may never do. A start is not tried
        # again, as Ray would report those that `__exit__` ends; who dies in it is made anew with its first row.
        starts = [(w.start.options(max_task_retries=0), w) for w in self._workers[: len(rows)]]
        running: dict[Any, tuple[Any, Row]] = {start.remote(*work): (worker, {}) for start, worker in starts}
        while num_left:
            done = ray.wait(list(running))[0][0]
            worker, row = running.pop(done)
            result = _result(done, row)
            for following in itertools.islice(waiting, 1):  # before the caller takes its time over the result
                running[worker.process.remote(*work, following)] = worker, following
            if row:
                num_left -= 1
                yield result


def stream(rows: Sequence[Row], make_worker: Callable[[], Callable[[Row], Row]], pool: Pool) -> Iterator[Row]:
    """Map rows as `Crew.stream` does, on a crew of its own."""
    with Crew(pool) as crew:
        yield from crew.stream(rows, make_worker)


def _result(done: Any, row: Row) -> Row:
    try:
        result: Row = ray.get(done)
    except (RayActorError, OutOfMemoryError) as error:
        if not row:  # it died as it started
            return row
        raise JobError(
            f"song {_song_id(row)!r}: the worker process died {MAX_RETRIES + 1} times, for want of memory or in a "
            f"library; run fewer workers (--workers) or leave the song out, and run again: {error}"
        ) from error
    except RayError as error:
        raise JobError(_root_message(error)) from error
    return result


def _song_id(row: Row) -> str:
    return next((str(value.song_id) for value in row.values() if hasattr(value, "song_id")), "")


class _Worker:
    """A process that maps rows; where it is started anew after its death it has to be made anew as well."""

    def __init__(self) -> None:
        self._work = 0
        self._map: Callable[[Row], Row]

    def start(self, work: int, make_worker: Callable[[], Callable[[Row], Row]]) -> Row:
        if work != self._work:  # not in __init__: what is raised there reaches nobody as it is
            self._map = make_worker()
            self._work = work
        return {}

    def process(self, work: int, make_worker: Callable[[], Callable[[Row], Row]], row: Row) -> Row:
        self.start(work, make_worker)
        return self._map(row)


def _root_message(error: BaseException) -> str:
    """Return what a worker raised, without the wrappers around it, and the notes that were added to it."""
    while inner := getattr(error, "cause", None) or error.__cause__:
        error = inner
    return " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


@contextmanager
def naming(song_id: str) -> Iterator[None]:
    """Add the song's name to whatever goes wrong in the block."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"(song {song_id!r})")
        raise


def resolve_path(path: Path) -> Path:
    """Return an absolute path for one that a user wrote.

    Relative paths mean the working directory, as everywhere. A job submitted with `--working-dir` runs in a copy that
    Ray made and deletes: there they mean the checkout that the environment was installed from.
    """
    if path.is_absolute():
        return path
    if not _runs_in_uploaded_copy():
        return Path.cwd() / path
    root = _installed_checkout()
    if root is None:
        raise JobError(f"{path}: this job runs in a copy made by --working-dir, which Ray deletes; give absolute paths")
    logger.info("running in an uploaded copy: %s means %s", path, root / path)
    return root / path


def _runs_in_uploaded_copy() -> bool:
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return bool(config.get("runtime_env", {}).get("working_dir")) and "_ray_pkg_" in str(Path.cwd())


def _installed_checkout() -> Path | None:
    record = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    details = json.loads(record) if record else {}
    if not details.get("dir_info", {}).get("editable"):
        return None
    return Path(details["url"].removeprefix("file://"))
