"""The Ray that jobs join, the same checks on every node of it, and whether all nodes see the same folders."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.checks.finding import Finding
from jobs.checks.folders import TOKEN_PREFIX, existing_folder
from jobs.cluster import JobError, answers, connect, explain_unusable_address, is_running, on_every_node

RAY_PORTS = {6379: "--port=6380", 8265: "--dashboard-port=8266"}  # and what to give `ray start` where one is taken
_TOKEN = b"songbloom"


def check_ray(environment: Mapping[str, str]) -> Finding:
    """Say whether a Ray runs that jobs will join, and whether one could start here."""
    if problem := explain_unusable_address(environment.get("RAY_ADDRESS", "")):
        return Finding(
            name="Ray",
            status="FAIL",
            found=problem,
            needed="in RAY_ADDRESS, HOST:PORT of a Ray that answers (its port is 6379 by default)",
            remedy="start that cluster, or unset RAY_ADDRESS: each job then starts a Ray for itself",
        )
    if is_running():
        where = environment.get("RAY_ADDRESS") or "on this machine"
        return Finding(name="Ray", status="ok", found=f"one runs ({where}), jobs join it")
    taken = [port for port in RAY_PORTS if answers("127.0.0.1", port)]
    if not taken:
        ports = " and ".join(map(str, RAY_PORTS))
        return Finding(name="Ray", status="ok", found=f"none runs, each job starts its own; ports {ports} are free")
    return Finding(
        name="Ray",
        status="warn",
        found=f"another program listens on port {' and '.join(map(str, taken))}",
        needed="free ports, for `ray start --head` only",
        remedy=f"ray start --head {' '.join(RAY_PORTS[port] for port in taken)}",
    )


def count_nodes() -> int:
    """Join the Ray that runs, if one does, and return how many nodes it has; 0: none runs. Never starts one.

    Raises:
        JobError: a Ray is named or runs, but does not answer.
    """
    if problem := explain_unusable_address(os.environ.get("RAY_ADDRESS", "")):
        raise JobError(problem)
    if not is_running() or os.environ.get("RAY_ADDRESS") == "local":
        return 0
    connect("cpu")  # so that a GPU that cannot be used, a finding of its own, does not end this
    return len(on_every_node(lambda: None))


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderView:
    """What one node sees of the driver's folders."""

    has_source: bool
    reads_token: bool
    problem: str = ""  # why it could not write; "": it could


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderRequest:
    """What every node is asked to look at."""

    sample: str  # a file of --in, or the folder itself
    sample_bytes: int
    folder: str  # where --out is or will be made
    token: str  # name of a file that the driver wrote there
    own_token: str  # name that the node's file starts with

    def look(self) -> FolderView:
        """Look from the node that this runs on."""
        folder, sample = Path(self.folder), Path(self.sample)
        try:
            size = sample.stat().st_size
        except OSError:
            size = -1
        try:
            reads_token = (folder / self.token).read_bytes() == _TOKEN
        except OSError:
            reads_token = False
        own = folder / f"{self.own_token}{uuid.uuid4().hex}"
        problem = ""
        try:
            own.write_bytes(_TOKEN)
        except OSError as error:
            problem = error.strerror or type(error).__name__
        has_source = size == self.sample_bytes or (size >= 0 and sample.is_dir())
        return FolderView(has_source=has_source, reads_token=reads_token, problem=problem)


def check_shared_folders(sample: Path, out: Path) -> list[Finding]:
    """Check that every node reads --in, reads what the driver writes below --out, and writes there itself.

    Args:
        sample: absolute path of a file of --in; the folder itself where it has no songs yet.
        out: absolute path.

    Raises:
        JobError: a node does not answer.
        OSError: this machine cannot write below `out`; that is a finding of `check_output`.
    """
    folder = existing_folder(out)
    mark = uuid.uuid4().hex
    request = FolderRequest(
        sample=str(sample),
        sample_bytes=sample.stat().st_size if os.path.exists(sample) else -1,
        folder=str(folder),
        token=f"{TOKEN_PREFIX}{mark}",
        own_token=f"{TOKEN_PREFIX}{mark}-node-",
    )
    (folder / request.token).write_bytes(_TOKEN)
    try:
        views = on_every_node(lambda: request.look())
        num_seen = len(list(folder.glob(f"{request.own_token}*")))
    finally:
        for path in folder.glob(f"{request.token}*"):
            path.unlink(missing_ok=True)
    return judge_views(views, sample, folder, num_seen)


def judge_views(views: Mapping[str, FolderView], sample: Path, folder: Path, num_seen: int) -> list[Finding]:
    """Return what the nodes' views mean: one finding where all is well, else one per node and fault.

    Args:
        views: by node.
        sample: what they looked for below --in.
        folder: where they wrote.
        num_seen: how many of their files the driver sees there.
    """
    shared = "a folder that all nodes share, under the same path (NFS, Lustre, ...)"
    findings = []
    for node, view in views.items():
        if not view.has_source:
            remedy = f"mount the folder of --in on {node} as well"
            found = f"{sample} is not there, or is another file"
            findings.append(Finding(name="input", status="FAIL", found=found, needed=shared, remedy=remedy, node=node))
        if view.problem or not view.reads_token:
            found = (
                f"{folder} cannot be written: {view.problem}" if view.problem else f"{folder} is another folder there"
            )
            remedy = f"mount the folder of --out on {node} as well"
            findings.append(Finding(name="output", status="FAIL", found=found, needed=shared, remedy=remedy, node=node))
    num_written = sum(not view.problem for view in views.values())
    if not findings and num_seen < num_written:
        found = f"{folder}: {num_seen} of {num_written} files that nodes wrote are seen here"
        remedy = "see how the share is mounted; a cached view may lag by seconds"
        findings.append(Finding(name="output", status="FAIL", found=found, needed=shared, remedy=remedy))
    if not findings:
        found = f"{len(views)} nodes read --in, and read and write below {folder}"
        findings.append(Finding(name="nodes", status="ok", found=found))
    return findings


def check_machines(check: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """Run checks on every node, and return what is not ok there, with one line per node that says the rest.

    Args:
        check: is sent to the nodes, which have this project installed.

    Raises:
        JobError: a node does not answer, or cannot run the checks.
    """
    findings = []
    for node, found in on_every_node(lambda: list(check())).items():
        faults = [replace(finding, node=node) for finding in found if finding.status != "ok"]
        num_ok = len(found) - len(faults)
        findings.append(Finding(name="node", status="ok", found=f"{num_ok} of {len(found)} checks ok", node=node))
        findings += faults
    return findings


def explain_failure(error: JobError | OSError) -> Finding:
    """Return the finding of a cluster that does not do what it is asked."""
    remedy = "`ray status` shows its nodes; each needs this project in the same version"
    return Finding(name="nodes", status="FAIL", found=str(error), needed="nodes that answer", remedy=remedy)
