"""Ray, and nothing else of the project: connecting, sizing worker pools, streaming rows through them."""

import importlib.metadata
import itertools
import json
import logging
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

# Where a token lies in the home folder, a running cluster asks for it, and Ray reads this variable when it is imported.
if (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import psutil  # noqa: E402
import ray  # noqa: E402
from ray.exceptions import OutOfMemoryError, RayActorError, RayError  # noqa: E402

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Device = Literal["auto", "cuda", "cpu"]
Result = TypeVar("Result")

DISTRIBUTION = "songbloom-train"
OWN_PACKAGES = ("pipeline", "model", "shards", "jobs")
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
_LOOK_S = 1.0  # between two looks at the clock, and at a worker's memory
_EXIT_MEMORY = 71
_PROBE_S = 3.0  # for a connection to a Ray that may be gone
WORKERS_PER_GPU = 2  # one reads, decodes and resamples on the CPU while the other uses the GPU


class JobError(RuntimeError):
    """A job that cannot go on."""


@dataclass(frozen=True, slots=True)
class Died:
    """A row whose worker process died each time that it was tried."""

    row: Row
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Worker processes that keep what they load: how many, and what each of them takes of the cluster."""

    num_workers: int
    num_cpus: float
    num_gpus: float = 0.0
    max_memory_bytes: int | None = None  # resident, of each worker; one that takes more ends


@dataclass(frozen=True, slots=True)
class Cluster:
    """What this job may use."""

    num_cpus: float
    num_gpus: float
    max_worker_bytes: int | None = None  # see `Pool`

    @property
    def device(self) -> str:
        """What models run on: "cuda" or "cpu"."""
        return "cuda" if self.num_gpus else "cpu"

    def readers(self) -> Pool:
        """Return a pool for work without weights: a whole core each, as many at once would only fill the memory."""
        return self._pool(max(1, int(self.num_cpus)), min(1.0, self.num_cpus))

    def encoders(self, requested: int | None = None) -> Pool:
        """Return a pool for work with weights: `WORKERS_PER_GPU` for each GPU, or one per core where there is none.

        More workers than GPUs share them in equal parts, so that all can start; fewer take one each.
        """
        workers = requested or max(1, int(WORKERS_PER_GPU * self.num_gpus or self.num_cpus))
        num_gpus = 1 / math.ceil(workers / self.num_gpus) if self.num_gpus else 0.0
        # Ray counts in steps of 0.0001; rounding down keeps the sum under what there is.
        num_cpus, num_gpus = (int(10_000 * what) / 10_000 for what in (self.num_cpus / workers, num_gpus))
        return self._pool(workers, min(1.0, num_cpus), num_gpus)

    def _pool(self, num_workers: int, num_cpus: float, num_gpus: float = 0.0) -> Pool:
        return Pool(
            num_workers=num_workers, num_cpus=num_cpus, num_gpus=num_gpus, max_memory_bytes=self.max_worker_bytes
        )


def connect(device: Device = "auto", max_worker_bytes: int | None = None) -> Cluster:
    """Join the running Ray cluster, or start one in this process, and return what of it this job may use.

    Args:
        device: "auto" takes the GPUs if there are any, "cuda" insists on them, "cpu" leaves them alone.
        max_worker_bytes: main memory of a worker, see `Pool`.

    Raises:
        JobError: no Ray answers, or there is a GPU that PyTorch cannot use: nothing is silently done on the CPU.
    """
    origin = "going on with the same Ray" if ray.is_initialized() else _join_or_start()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_gpus = resources.get("GPU", 0.0)
    if device == "cuda" and not num_gpus:
        raise JobError("--device cuda: this Ray has no GPU; start it on a machine with one, or leave --device out")
    if device != "cpu" and (fault := _explain_unusable_gpu()):  # Ray counts GPUs whose driver is too old as well
        raise JobError(f"{fault}; or add --device cpu")
    cluster = Cluster(resources.get("CPU", 1.0), 0.0 if device == "cpu" else num_gpus, max_worker_bytes)
    logger.info("%s: %g CPUs, %g GPUs", origin, cluster.num_cpus, cluster.num_gpus)
    return cluster


def _explain_unusable_gpu() -> str | None:
    """Return why PyTorch cannot use the GPU of this machine, None if it can or there is none."""
    from model.training.nvidia_driver import read_driver

    if not read_driver().gpus:  # importing PyTorch takes a second
        return None
    from model.training.hardware import explain_unusable_gpu

    return explain_unusable_gpu()


def is_running() -> bool:
    """Whether a Ray runs that a job of this machine would join."""
    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS") or _started_cluster())


def on_every_node(function: Callable[[], Result]) -> dict[str, Result]:
    """Run a function once on every node of the cluster that `connect` has joined, and return the results by node.

    Args:
        function: is sent to the nodes; it takes no CPU of those that jobs wait for.

    Raises:
        JobError: a node did not answer, or the function raised there; the message names the node.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in alive}
    remote: Any = ray.remote(_call)
    running = {}
    for node_id, host in nodes.items():
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # Several nodes of a test run on one host.
        name = host if list(nodes.values()).count(host) == 1 else f"{host} ({node_id[:8]})"
        running[name] = remote.options(num_cpus=0, scheduling_strategy=strategy).remote(function)
    results: dict[str, Result] = {}
    for name, future in running.items():
        try:
            results[name] = ray.get(future)
        except RayError as error:
            raise JobError(f"node {name}: {_root_message(error)}") from error
    return results


def _join_or_start() -> str:
    """Join the cluster that RAY_ADDRESS or this machine names, else start one that ends with this process."""
    address = os.environ.get("RAY_ADDRESS") or _started_cluster()
    if address and address != "local":
        if problem := explain_unusable_address(address):
            raise JobError(f"{problem}; start that Ray, or unset RAY_ADDRESS: the job then starts one for itself")
        try:
            ray.init(address=address, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise JobError(f"no Ray answers at {address}; run `ray stop`, and `ray start --head` again") from error
        return f"joined the Ray at {address}"
    # Ray would leave a token in the home folder for this short-lived cluster, and from then on `ray start` would ask
    # for it and `ray job submit` would fail. It listens on this machine only.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.update(_worker_environment())
    try:
        ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, logging_level=logging.ERROR)
    except OSError as error:  # its sockets lie in the temporary folder, and the path of a socket has 107 bytes
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        raise JobError(
            f"Ray cannot start: {error}. Its temporary folder is {folder}; set RAY_TMPDIR to one with a short name, "
            "that can be written"
        ) from error
    return "started a Ray for this run"


def leave() -> None:
    """End the Ray that was started for this run, or leave the one that was joined; at exit Ray would take longer."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended by itself
            if any(part.endswith(_MONITOR) for part in child.cmdline()):
                child.kill()
    # It imports for this, which fails where there is no memory; that has been said already.
    with suppress(MemoryError, SystemError, ImportError):
        ray.shutdown()  # type: ignore[no-untyped-call]


def _started_cluster() -> str | None:
    """Return the address that `ray start --head` left on this machine; never that of another program's own Ray."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    if not path.exists():
        return None
    address = path.read_text().strip()
    host, _, port = address.rpartition(":")
    # A cluster that was killed leaves its address behind, and Ray would wait for it.
    return address if port.isdigit() and answers(host, int(port)) else None


def explain_unusable_address(address: str) -> str:
    """Return why no job can join the Ray at an address of RAY_ADDRESS; "": it answers, or there is no way to ask.

    Ray itself would try for several minutes.
    """
    if address.startswith(("http://", "https://")):
        return f"RAY_ADDRESS={address} is a dashboard, which no job can join (RAY_API_SERVER_ADDRESS may name it)"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or answers(host, int(port)):
        return ""
    return f"nothing answers at RAY_ADDRESS={address}"


def answers(host: str, port: int) -> bool:
    """Whether a program listens at a port of TCP."""
    try:
        socket.create_connection((host, port), timeout=_PROBE_S).close()
    except (OSError, OverflowError):
        return False
    return True


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

    def _start_workers(self, num_workers: int) -> None:
        self._workers += [self._start_worker() for _ in range(num_workers - len(self._workers))]

    def _start_worker(self) -> Any:
        actor: Any = ray.remote(_Worker)
        return actor.options(
            num_cpus=self._pool.num_cpus,
            num_gpus=self._pool.num_gpus,
            max_restarts=-1,
            max_task_retries=MAX_RETRIES,
            # A Ray that was started for this run has it already, and processes of it that wait for work serve.
            runtime_env={"env_vars": settings} if (settings := _worker_environment()) else None,
        ).remote(self._pool.max_memory_bytes)

    def stream(
        self,
        rows: Sequence[Row],
        make_worker: Callable[[], Callable[[Row], Row]],
        max_seconds: Callable[[Row], float] | None = None,
    ) -> Iterator[Row | Died]:
        """Map every row to a row, and yield the results as they finish, in any order.

        Every process calls `make_worker` once, and takes the next row when it is done with one. A row whose process
        died, and again each time it was tried again, comes back as `Died`: the others go on. So does a row that takes
        longer than `max_seconds` says for it; its process is ended, and another takes its place.

        Raises:
            JobError: a worker raised; the message is the worker's.
        """
        self._start_workers(min(self._pool.num_workers, len(rows)))
        self._num_streams += 1
        work = self._num_streams, ray.put(make_worker)
        waiting, num_left = iter(rows), len(rows)
        # A worker gets its first row when it has started: on a busy cluster some may never do. A start is not tried
        # again, as Ray would report those that `__exit__` ends; one that dies in it starts again with its first row.
        starts = [(w.start.options(max_task_retries=0), w) for w in self._workers[: len(rows)]]
        running = {start.remote(*work): _Task(worker, {}, math.inf) for start, worker in starts}
        while num_left:
            done = ray.wait(list(running), timeout=_LOOK_S)[0]
            now_s = time.monotonic()
            late = [future for future, task in running.items() if future not in done and now_s > task.deadline_s]
            for future in done + late:
                task = running.pop(future)
                result = self._end_late(task) if future in late else _result(future, task.row)
                worker = self._workers[-1] if future in late else task.worker
                for following in itertools.islice(waiting, 1):  # before the caller takes its time over the result
                    deadline_s = now_s + max_seconds(following) if max_seconds else math.inf
                    running[worker.process.remote(*work, following)] = _Task(worker, following, deadline_s)
                if task.row:
                    num_left -= 1
                    yield result

    def _end_late(self, task: "_Task") -> Died:
        """End a worker that takes too long, and start another, the last of the workers."""
        ray.kill(task.worker)  # its row with it, which Ray would else try again
        self._workers.remove(task.worker)
        self._workers.append(self._start_worker())
        return Died(task.row, "it took longer than --max-seconds-per-song allows; a library hangs, or the limit is low")


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker does: a row, or its start where there is none, until `deadline_s` of the monotonic clock."""

    worker: Any
    row: Row
    deadline_s: float


def stream(
    rows: Sequence[Row],
    make_worker: Callable[[], Callable[[Row], Row]],
    pool: Pool,
    max_seconds: Callable[[Row], float] | None = None,
) -> Iterator[Row | Died]:
    """Map rows as `Crew.stream` does, on a crew of its own."""
    with Crew(pool) as crew:
        yield from crew.stream(rows, make_worker, max_seconds)


def _result(done: Any, row: Row) -> Row | Died:
    try:
        result: Row = ray.get(done)
    except (RayActorError, OutOfMemoryError) as error:
        if not _has_nodes():
            raise JobError("Ray has died, and its workers with it; start it again and run the same command") from error
        if not row:  # it died as it started
            return row
        why = "for want of memory" if isinstance(error, OutOfMemoryError) else "for want of memory or in a library"
        return Died(row, f"its worker process died {MAX_RETRIES + 1} times, {why}; fewer --workers leave more memory")
    except RayError as error:
        raise JobError(_root_message(error)) from error
    return result


class _Worker:
    """A process that maps rows; where it is started anew after its death it has to be made anew as well."""

    def __init__(self, max_memory_bytes: int | None) -> None:
        self._work = 0
        self._map: Callable[[Row], Row]
        if max_memory_bytes is not None:
            threading.Thread(target=_watch_memory, args=(max_memory_bytes,), daemon=True).start()

    def start(self, work: int, make_worker: Callable[[], Callable[[Row], Row]]) -> Row:
        if work != self._work:  # not in __init__: what is raised there reaches nobody as it is
            self._map = make_worker()
            self._work = work
        return {}

    def process(self, work: int, make_worker: Callable[[], Callable[[Row], Row]], row: Row) -> Row:
        self.start(work, make_worker)
        return self._map(row)


def _watch_memory(max_bytes: int) -> None:
    """End this process once it holds more memory: its row is tried again, and comes back as `Died` in the end."""
    process = psutil.Process()
    while (num_bytes := process.memory_info().rss) <= max_bytes:
        time.sleep(_LOOK_S)
    logger.error(
        "%.1f GB of memory, --max-worker-memory allows %.1f: this process ends", num_bytes / 1e9, max_bytes / 1e9
    )
    os._exit(_EXIT_MEMORY)


def _root_message(error: BaseException) -> str:
    """Return what a worker raised, without the wrappers around it, and the notes that were added to it."""
    while isinstance(error, RayError) and (inner := getattr(error, "cause", None) or error.__cause__):
        error = inner
    is_ours = type(error).__module__.split(".")[0] in OWN_PACKAGES  # its message says all
    text = str(error) if is_ours else f"{type(error).__name__}: {error}"
    return " ".join([text, *getattr(error, "__notes__", [])])


def _has_nodes() -> bool:
    """Whether any machine of the cluster is left; Ray itself takes a while to notice that none is."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return any(answers(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in nodes)


def _call(function: Callable[[], Result]) -> Result:
    return function()


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
    if path.is_absolute() or not _runs_in_uploaded_copy():
        return _normalise(path)
    root = _installed_checkout()
    if root is None:
        raise JobError(f"{path}: this job runs in a copy made by --working-dir, which Ray deletes; give absolute paths")
    logger.info("running in an uploaded copy: %s means %s", path, root / path)
    return _normalise(root / path)


def _normalise(path: Path) -> Path:
    """Return an absolute path without `..`; links stay: a folder of links is a common way to choose songs.

    `..` after a link means the folder above what it leads to, as for the shell's `ls`.
    """
    absolute = Path.cwd() / path
    while ".." in absolute.parts:
        parts = absolute.parts
        position = parts.index("..")
        absolute = Path(*parts[:position]).resolve().parent.joinpath(*parts[position + 1 :])
    return absolute


def _runs_in_uploaded_copy() -> bool:
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return bool(config.get("runtime_env", {}).get("working_dir")) and "_ray_pkg_" in str(Path.cwd())


def _installed_checkout() -> Path | None:
    record = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    details = json.loads(record) if record else {}
    if not details.get("dir_info", {}).get("editable"):
        return None
    return Path(details["url"].removeprefix("file://"))
