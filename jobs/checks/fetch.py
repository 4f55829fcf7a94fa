"""Brings models to this machine, and to every node of a cluster, and says how far it is."""

import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.checks.finding import format_bytes
from jobs.checks.model_list import ModelNeed, ModelState, look_up
from jobs.checks.models import hub_cache
from jobs.cluster import on_every_node
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.hub import HubError, HubName, RemoteModel, download, list_remote

logger = logging.getLogger(__name__)

PROGRESS_S = 10.0  # between two lines where no terminal shows a bar
_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")  # would name another folder than HF_HOME


def use_cache(folder: Path) -> None:
    """Let this process keep models in another folder, as HF_HOME does; before anything has asked for the hub's."""
    for name in _CACHE_VARIABLES:
        os.environ.pop(name, None)
    os.environ["HF_HOME"] = str(folder)
    # The library reads its variables when it is imported.
    assert hub_cache() == folder / "hub", "the hub's library was imported before --cache was known"


def ask_remote(states: Iterable[ModelState]) -> dict[HubName, RemoteModel | HubError]:
    """Ask the hub what it has of the models that are not here, each repository once; the error where it has not."""
    answers: dict[HubName, RemoteModel | HubError] = {}
    for state in states:
        name = state.need.hub_name
        if name is None or name in answers or not state.is_fetchable:
            continue
        try:
            answers[name] = list_remote(name, state.need.stage)
        except HubError as error:
            answers[name] = error
    return answers


def bytes_to_come(states: Iterable[ModelState]) -> int:
    """Return how much the models that are not here take, each repository once; parts that are here are counted too."""
    sizes = {state.need.hub_name: state.num_bytes or 0 for state in states if state.is_fetchable}
    return sum(sizes.values())


def free_cache_bytes() -> int:
    """Return the free bytes of the disk that the hub's cache lies on."""
    cache = hub_cache()
    return shutil.disk_usage(next(path for path in (cache, *cache.parents) if os.path.exists(path))).free


def fetch(state: ModelState, remote: RemoteModel | None = None) -> ModelState:
    """Download a model, and return its state afterwards; where that failed, `problem` says why and what to do."""
    name = state.need.hub_name
    assert name is not None, f"{state.need.name}: no hub has it"
    try:
        with _saying_progress(name, state.num_bytes or 0):
            download(name, state.need.stage, remote)
    except (HubError, ModelFileError) as error:
        problem = str(error) if isinstance(error, HubError) else f"{state.address}: {error}"
        return replace(state, state=look_up(state.need).state, problem=problem)
    after = look_up(state.need)
    return replace(after, licence=state.licence or after.licence)


@contextmanager
def _saying_progress(name: HubName, num_bytes: int) -> Iterator[None]:
    """Log how much of a repository has come, every `PROGRESS_S`; on a terminal the hub's library draws bars itself."""
    if sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_say_progress, args=(name, num_bytes, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say_progress(name: HubName, num_bytes: int, done: threading.Event) -> None:
    started, bytes_before = time.monotonic(), _cached_bytes(name)
    while not done.wait(PROGRESS_S):
        now = _cached_bytes(name)
        rate = (now - bytes_before) / (time.monotonic() - started)
        of_all = f" of {format_bytes(num_bytes)}" if num_bytes else ""
        logger.info("%s: %s%s, %s/s", name.repository, format_bytes(now), of_all, format_bytes(rate))


def _cached_bytes(name: HubName) -> int:
    """Return the bytes of a repository that are in the cache, parts of files among them."""
    from huggingface_hub.file_download import repo_folder_name

    folder = hub_cache() / repo_folder_name(repo_id=name.repository, repo_type="model") / "blobs"
    sizes = []
    for path in folder.glob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # renamed since it was listed: it has come as a whole
            continue
    return sum(sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeModels:
    """What one node of a cluster has of the models."""

    shares_cache: bool  # whether its cache is the driver's
    states: tuple[ModelState, ...]

    @property
    def missing(self) -> list[ModelState]:
        """Those that are not complete; a codebook is fitted and lies in the working directory."""
        return [state for state in self.states if state.state != "complete" and state.need.stage != "codebook"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRequest:
    """What every node is asked for."""

    needs: tuple[ModelNeed, ...]
    cache: str  # as --cache; "": the node's own
    token: str  # name of a file that the driver wrote into its cache

    def look(self) -> NodeModels:
        """Look which models the node has."""
        if self.cache:
            use_cache(Path(self.cache))
        shares_cache = (hub_cache() / self.token).exists()
        return NodeModels(shares_cache=shares_cache, states=tuple(look_up(need) for need in self.needs))

    def fetch(self) -> NodeModels:
        """Fetch what the node has not, unless its cache is the driver's."""
        found = self.look()
        if found.shares_cache:
            return found
        states = tuple(fetch(state) if state.is_fetchable else state for state in found.states)
        return replace(found, states=states)


def visit_nodes(needs: Sequence[ModelNeed], cache: str, *, is_dry: bool) -> dict[str, NodeModels]:
    """Return what every node of the cluster has after the missing models were fetched there, by the node's name.

    Args:
        needs: models; those of the driver's own machine are here already.
        cache: as --cache; "": every node's own HF_HOME.
        is_dry: only look.

    Raises:
        JobError: a node does not answer.
    """
    request = NodeRequest(needs=tuple(needs), cache=cache, token=f".songbloom-{uuid.uuid4().hex}")
    token = hub_cache() / request.token
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_bytes(b"")
    try:
        found = on_every_node(lambda: request.look())
        if is_dry or not any(node.missing and not node.shares_cache for node in found.values()):
            return found
        lacking = [name for name, node in found.items() if node.missing and not node.shares_cache]
        logger.info("fetching on %d more nodes, each by itself: %s", len(lacking), ", ".join(lacking))
        return on_every_node(lambda: request.fetch())
    finally:
        token.unlink(missing_ok=True)
