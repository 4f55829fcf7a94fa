"""Checkpoints written beside the run: training goes on while a thread writes what was gathered."""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from model.settings.settings import RunConfig
from model.weights.checkpoint import CheckpointWriter, TrainState

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """Writes one checkpoint at a time; for rank 0.

    Between gathering and the end of writing, its copy takes 12 bytes per parameter of the machine's memory, 16 with a
    moving average; with adapters over given weights, of those alone.
    """

    def __init__(self, run_folder: Path, config: RunConfig) -> None:
        """Write below `run_folder` as the configuration says."""
        self._run_folder = run_folder
        self._config = config
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainState, tensors: Iterable[tuple[str, Mapping[str, Tensor]]]) -> None:
        """Take the tensors, each a copy that nobody changes, and write them meanwhile; waits for the one before.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        gathered = list(tensors)
        self._writing = self._executor.submit(self._write, state, gathered)

    def check(self) -> None:
        """Raise CheckpointError if the last checkpoint could not be written; does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when all is written, or raise CheckpointError."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finish writing; what went wrong is left to `wait`."""
        self._executor.shutdown(wait=True)

    def _write(self, state: TrainState, gathered: list[tuple[str, Mapping[str, Tensor]]]) -> None:
        with CheckpointWriter(self._run_folder, state, self._config) as writer:
            for name, tensors in gathered:
                writer.add(name, tensors)
        logger.info("saved %s", writer.path)
