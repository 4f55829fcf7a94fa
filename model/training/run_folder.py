"""Before anything is computed: whether every rank sees the run folder that rank 0 writes to."""

import secrets
import socket
from pathlib import Path
from time import monotonic, sleep

from model.training.ranks import Ranks
from model.weights.checkpoint import CheckpointError

TOKEN_NAME = ".run_token"  # gone before the first step
TOKEN_BITS = 62
VISIBLE_WITHIN_S = 10.0  # network file systems show a new file late
_LOOK_EVERY_S = 0.2


def check_run_folder(folder: Path, ranks: Ranks, *, is_shared: bool = True) -> None:
    """Make the run folder, and compare what each rank reads there with what rank 0 has written.

    All ranks take part, and all raise the same error.

    Args:
        folder: of the run.
        ranks: of the run.
        is_shared: False: each node has a folder of its own (`checkpoint.shared`), and each rank must be able to write
            there.

    Raises:
        CheckpointError: in one line, which ranks on which nodes cannot see it, or cannot write there.
    """
    token = secrets.randbits(TOKEN_BITS)
    path = folder / (TOKEN_NAME if is_shared else f"{TOKEN_NAME}_{ranks.rank}")
    is_writer = ranks.is_main or not is_shared
    problem = _write(path, token) if is_writer else ""
    is_written = is_writer and not problem
    if is_shared:
        token = ranks.tell(token)
        is_there = ranks.tell(int(is_written))
        if is_there and not ranks.is_main:
            problem = _look_for(path, token)
    named = f"rank {ranks.rank} on {socket.gethostname()} {problem}" if problem else ""
    problems = [text for text in ranks.collect(named) if text]
    if is_written:
        path.unlink(missing_ok=True)
    if problems:
        remedy = (
            "give all nodes one folder, or set checkpoint.shared: false and keep each node's own up to date "
            "(model/CLUSTER.md)"
            if is_shared and is_there
            else "name another --out, or make room there"
        )
        raise CheckpointError(f"run folder {folder}: {'; '.join(problems)}; {remedy}")


def _write(path: Path, token: int) -> str:
    """Return what is wrong, or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot make it: {error.strerror}"
    try:
        path.write_text(f"{token}\n")
    except OSError as error:
        return f"cannot write there: {error.strerror}"
    return ""


def _look_for(path: Path, token: int) -> str:
    """Return what is wrong, or nothing, as soon as the token is there."""
    started = monotonic()
    while True:
        try:
            found = path.read_text()
        except OSError as error:
            problem = f"does not see there what rank 0 wrote ({error.strerror})"
        else:
            if found == f"{token}\n":
                return ""
            problem = "sees another run there"
        if monotonic() - started > VISIBLE_WITHIN_S:
            return problem
        sleep(_LOOK_EVERY_S)
