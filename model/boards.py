"""TensorBoard and Weights & Biases: the same numbers as metrics.jsonl, drawn as curves."""

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config import ConfigError
from model.settings import RunConfig


class Boards:
    """Shows numbers by step wherever the configuration wants them; for rank 0."""

    def __init__(self, folder: Path, config: RunConfig, first_step: int) -> None:
        """Open the boards; what they hold about steps after `first_step` is computed again.

        Raises:
            ConfigError: W&B is asked for and not installed.
        """
        self._writer: Any = None
        self._wandb: Any = None
        if config.report.wandb_project:
            self._wandb = _open_wandb(folder, config)
        if config.report.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # seconds: only where it is used

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Show `values` at a step; a slash in a name puts it into a group."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _open_wandb(folder: Path, config: RunConfig) -> Any:
    """Start, or go on with, the W&B run of this folder."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"report.wandb_project is {config.report.wandb_project!r}, but wandb is not installed: "
            "`.uv/bin/uv pip install wandb`, or set report.wandb_project to an empty text"
        ) from error
    run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return wandb.init(
        project=config.report.wandb_project,
        name=folder.name,
        id=run_id,
        resume="allow",
        dir=str(folder),
        config=config.to_dict(),
    )
