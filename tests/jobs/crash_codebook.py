"""Fits a codebook as jobs/fit_codebook.py does, but without Ray, in a process that is killed where a test says."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from jobs import fit_codebook
from jobs.cluster import Cluster
from jobs.run_options import RunOptions
from pipeline.encoding.codebook_fitter import CodebookFitter
from pipeline.model_files.profiles import PROFILES


def run(
    source: Path, out: Path, *, order: int = 0, patch: Callable[..., None] = setattr, **options: Any
) -> dict[str, Any]:
    """Run one fit to its end, in this process, songs in an order drawn from `order`: that of so many workers."""
    kill_after_songs = options.pop("kill_after_songs", None)

    def stream(rows: list[dict[str, Any]], make_worker: Callable[[], Any], *_: Any) -> Iterator[dict[str, Any]]:
        worker = make_worker() if rows else None
        for count, row in enumerate(random.Random(order).sample(rows, len(rows))):
            if count == kill_after_songs:
                os.kill(os.getpid(), signal.SIGKILL)
            assert worker is not None
            yield worker(row)

    patch(fit_codebook, "stream", stream)
    patch(fit_codebook, "connect", lambda *_: Cluster(1, 0))
    defaults = {"limit": None, "max_vectors": 10_000, "seed": 0, "codebook_dim": 8, "epochs": 3}
    return fit_codebook.fit_codebook(
        source, out, PROFILES["miniature"], SimpleNamespace(**(defaults | options)), RunOptions()
    )


def fork(source: Path, out: Path, *, after_songs: int | None = None, after_updates: int | None = None) -> int:
    """Start a fit in a process of its own, kill it there, and return how it ended, as os.waitpid tells.

    A fork need not import everything anew; it has no threads of its own, so torch must run with one.
    """
    assert torch.get_num_threads() == 1
    child = os.fork()
    if child == 0:
        try:
            if after_updates is not None:
                _kill_after_updates(after_updates)
            run(source, out, kill_after_songs=after_songs)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def _kill_after_updates(count: int) -> None:
    """End this process in the middle of an epoch."""
    update, done = CodebookFitter.update, 0

    def counting_update(self: CodebookFitter, features: Any) -> None:
        nonlocal done
        if done == count:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        update(self, features)

    CodebookFitter.update = counting_update  # type: ignore[method-assign]
