"""Ray, and nothing else of the project: connecting, sizing worker pools, streaming rows through steps."""

import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

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
    if not ray.is_initialized():
        _join_or_start()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # advice on memory for every job
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cluster = Cluster(resources.get("CPU", 1.0), resources.get("GPU", 0.0))
    logger.info("Ray with %g CPUs and %g GPUs", cluster.num_cpus, cluster.num_gpus)
    return cluster


def _join_or_start() -> None:
    # A running cluster asks for a token where one lay in the home folder when it started.
    if (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        ray.init(address="auto", logging_level=logging.ERROR)
    except ConnectionError:  # none is running
        # Ray would leave a token in the home folder for this short-lived cluster, and from then on `ray start` would
        # ask for it and `ray job submit` would fail. It listens on this machine only.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, logging_level=logging.ERROR)


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
                _Worker,  # type: ignore[arg-type]  # a class is as good as a function here
                fn_constructor_args=(step.make_worker,),
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
        raise JobError(str(getattr(error, "cause", None) or error)) from error


# Rows hold objects of ours that Arrow has no type for; as bytes they are an ordinary column. They are pickled as Ray
# pickles the arguments of every task: nothing from outside is ever unpickled.
def _pack(row: Row) -> bytes:
    return bytes(cloudpickle.dumps(row))  # type: ignore[no-untyped-call]


def _unpack(data: bytes) -> Row:
    row: Row = cloudpickle.loads(data)
    return row


class _Worker:
    def __init__(self, make_worker: Callable[[], Callable[[Row], Row]]) -> None:
        self._worker = make_worker()

    def __call__(self, item: Row) -> Row:
        return {"row": _pack(self._worker(_unpack(item["row"])))}


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
