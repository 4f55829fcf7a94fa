"""Ray, and nothing else of the project: connecting, sizing worker pools, streaming rows through steps."""

import importlib.metadata
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where a token lies in the home folder, a running cluster asks for it, and Ray reads this variable when it is imported.
if (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray  # noqa: E402
from ray import cloudpickle  # noqa: E402
from ray.data import ActorPoolStrategy, DataContext  # noqa: E402
from ray.exceptions import RayError  # noqa: E402

logger = logging.getLogger(__name__)

Row = dict[str, Any]

DISTRIBUTION = "songbloom-train"
# Share of all CPUs that worker pools may hold; the rest reads files, so that no pool starves the readers.
POOL_CPU_SHARE = 0.9


class JobError(RuntimeError):
    """A job that cannot go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a stream.

    `make_worker` builds the callable that maps a row to a row. With `num_workers` 0 it is built anew for every row (for
    steps without weights); else that many processes build it once each and keep it.
    """

    name: str
    make_worker: Callable[[], Callable[[Row], Row]]
    num_workers: int = 0
    num_cpus: float = 0.1
    num_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What this job may use."""

    num_cpus: float
    num_gpus: float

    def pool(self, num_pools: int, requested: int | None = None) -> dict[str, Any]:
        """Return num_workers, num_cpus and num_gpus of one of `num_pools` equal pools of heavy workers.

        On GPUs every GPU serves one worker of each pool; on CPUs the pools share POOL_CPU_SHARE of all cores.
        """
        if self.num_gpus:
            workers = requested or int(self.num_gpus)
            share = self.num_gpus / (workers * num_pools)
            return {
                "num_workers": workers,
                "num_cpus": min(1.0, self._cpus_each(workers, num_pools)),
                "num_gpus": share,
            }
        workers = requested or max(1, int(self.num_cpus * POOL_CPU_SHARE / num_pools))
        return {"num_workers": workers, "num_cpus": self._cpus_each(workers, num_pools), "num_gpus": 0.0}

    def _cpus_each(self, workers: int, num_pools: int) -> float:
        # Ray counts CPUs in steps of 0.0001; rounding down keeps the sum of all pools under the share.
        return min(1.0, int(10_000 * self.num_cpus * POOL_CPU_SHARE / (workers * num_pools)) / 10_000)


def connect() -> Cluster:
    """Join the running Ray cluster, or start one in this process, and return what it has."""
    origin = "going on with the same Ray" if ray.is_initialized() else _join_or_start()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # advice on memory for every job
    logging.getLogger("ray.data").setLevel(logging.ERROR)
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
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, logging_level=logging.ERROR)
    return "started a Ray for this run"


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


def stream(rows: Sequence[Row], steps: Sequence[Step]) -> Iterator[Row]:
    """Pass every row through all steps, each on its own workers, and yield the results as they finish, in any order.

    Raises:
        JobError: a worker raised; the message is the worker's.
    """
    if not rows:
        return
    # One row is one block is one task: songs are large, and none waits for another.
    packed = [{"row": _pack(row)} for row in rows]
    dataset: ray.data.Dataset = ray.data.from_items(packed, override_num_blocks=len(rows))
    for step in steps:
        if step.num_workers:
            dataset = dataset.map(
                _worker_class(step.make_worker),  # type: ignore[arg-type]  # a class is as good as a function here
                compute=ActorPoolStrategy(size=step.num_workers),
                num_cpus=step.num_cpus,
                num_gpus=step.num_gpus or None,
            )
        else:
            dataset = dataset.map(_call_once(step.make_worker), num_cpus=step.num_cpus)
    try:
        for result in dataset.iter_rows():
            yield _unpack(result["row"])
    except RayError as error:
        raise JobError(_root_message(error)) from error


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


# Rows hold objects of ours that Arrow has no type for; as bytes they are an ordinary column. They are pickled as Ray
# pickles the arguments of every task: nothing from outside is ever unpickled.
def _pack(row: Row) -> bytes:
    return bytes(cloudpickle.dumps(row))  # type: ignore[no-untyped-call]


def _unpack(data: bytes) -> Row:
    row: Row = cloudpickle.loads(data)
    return row


def _worker_class(make_worker: Callable[[], Callable[[Row], Row]]) -> type:
    class Worker:  # a class of its own, as Ray warns of arguments to constructors
        def __init__(self) -> None:
            self._worker = make_worker()

        def __call__(self, item: Row) -> Row:
            return {"row": _pack(self._worker(_unpack(item["row"])))}

    return Worker


def _call_once(make_worker: Callable[[], Callable[[Row], Row]]) -> Callable[[Row], Row]:
    return lambda item: {"row": _pack(make_worker()(_unpack(item["row"])))}


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
