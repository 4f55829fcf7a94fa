"""TensorBoard and Weights & Biases: the same numbers as metrics.jsonl, drawn as curves, and samples to listen to."""

import importlib
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.network.config import ConfigError
from model.settings.settings import RunConfig
from shards.atomic_file import open_atomic

TENSORBOARD_FOLDER = "tensorboard"
WANDB_NAME = "wandb_run.json"  # in the run's folder, and moves with it
WANDB_STEP_NAME = "wandb_step"  # in the folder of samples: the last step whose samples W&B has

logger = logging.getLogger(__name__)


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
            _require_wandb(config.report.wandb_project)
            run = _claim_wandb(folder, config.report.wandb_project)
            self._wandb = _open_wandb(folder, run, id=run["id"], name=run["name"], config=config.to_dict())
        if config.report.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # seconds: only where it is used

            self._writer = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=first_step + 1)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """A sample to listen to."""

    name: str
    path: Path
    """Audio file, for W&B."""
    wav: bytes
    """The same in the one format that TensorBoard plays."""
    sample_rate: int
    num_channels: int
    num_frames: int
    """Samples per channel."""


class SampleBoards:
    """Shows samples by step where a run shows its numbers; for a process beside the run, or after it.

    TensorBoard takes a file of events per step, which is there whole or not at all. To W&B samples go as a run of
    their own in the group of the training run: no two processes may write to one, and it takes rising steps only.
    """

    def __init__(self, folder: Path, samples: Path) -> None:
        """Look at what the run in `folder` has opened; `samples` is its folder of samples."""
        self._folder, self._samples = folder, samples
        self._events: Path | None = None
        self._wandb: Any = None
        self._run: dict[str, str] | None = None
        if (folder / TENSORBOARD_FOLDER).is_dir() and _is_installed("tensorboard", "TensorBoard", folder):
            self._events = folder / TENSORBOARD_FOLDER / "samples"
        if (folder / WANDB_NAME).exists() and _is_installed("wandb", "W&B", folder):
            self._run = _read_wandb(folder / WANDB_NAME)

    @property
    def names(self) -> list[str]:
        """Return which boards there are."""
        return ["TensorBoard"] * (self._events is not None) + ["W&B"] * (self._run is not None)

    def lacks(self, step: int, paths: Sequence[Path]) -> bool:
        """Tell whether some board does not show the files at `paths` yet; they are all of that step."""
        return self._lacks_events(step, paths) or self._lacks_wandb(step)

    def show(self, step: int, sounds: Sequence[Sound]) -> None:
        """Show all samples of a step where they are not shown yet."""
        if self._lacks_events(step, [sound.path for sound in sounds]):
            self._write_events(step, sounds)
        if self._lacks_wandb(step):
            self._send(step, sounds)

    def close(self) -> None:
        """Wait until W&B has everything."""
        if self._wandb is not None:
            self._wandb.finish()

    def _name_events(self, step: int) -> Path:
        assert self._events is not None
        return self._events / f"events.out.tfevents.{step:012d}.samples"  # TensorBoard reads them in this order

    def _lacks_events(self, step: int, paths: Sequence[Path]) -> bool:
        if self._events is None:
            return False
        try:
            shown_ns = self._name_events(step).stat().st_mtime_ns
        except FileNotFoundError:
            return True
        return any(path.stat().st_mtime_ns > shown_ns for path in paths)  # a resumed run has written the step anew

    def _write_events(self, step: int, sounds: Sequence[Sound]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        written_at = sounds[0].path.stat().st_mtime
        audio = [
            Summary.Value(
                tag=f"samples/{sound.name}",
                audio=Summary.Audio(
                    sample_rate=sound.sample_rate,
                    num_channels=sound.num_channels,
                    length_frames=sound.num_frames,
                    encoded_audio_string=sound.wav,
                    content_type="audio/wav",
                ),
            )
            for sound in sounds
        ]
        begun = Event(wall_time=written_at, file_version="brain.Event:2")
        shown = Event(wall_time=written_at, step=step, summary=Summary(value=audio))
        target = self._name_events(step)
        target.parent.mkdir(exist_ok=True)
        part = self._samples / f".step_{step:06d}.events"  # TensorBoard opens all that has tfevents in its name
        with open_atomic(part) as file:
            writer = RecordWriter(file)
            for event in (begun, shown):
                writer.write(event.SerializeToString())
        part.replace(target)

    def _lacks_wandb(self, step: int) -> bool:
        return self._run is not None and step > self._read_wandb_step()

    def _read_wandb_step(self) -> int:
        try:
            return int((self._samples / WANDB_STEP_NAME).read_text())
        except FileNotFoundError:
            return -1
        except ValueError as error:
            raise ConfigError(
                f"{self._samples / WANDB_STEP_NAME}: expected the number of a step; delete the file, and all samples "
                "are sent to W&B once more"
            ) from error

    def _send(self, step: int, sounds: Sequence[Sound]) -> None:
        assert self._run is not None
        if self._wandb is None:
            run_id, name = f"{self._run['id']}-samples", f"{self._run['name']} samples"
            self._wandb = _open_wandb(self._folder, self._run, id=run_id, name=name, job_type="samples")
        audio = importlib.import_module("wandb").Audio
        self._wandb.log({f"samples/{sound.name}": audio(str(sound.path), caption=sound.name) for sound in sounds}, step)
        with open_atomic(self._samples / WANDB_STEP_NAME) as file:
            file.write(str(step).encode())


def _is_installed(module: str, board: str, folder: Path) -> bool:
    """Tell whether a board can be used, and say so where it cannot."""
    try:
        importlib.import_module(module)
    except ImportError:
        logger.warning(
            "%s shows its numbers in %s, but %s is not installed here, so samples do not get there: install it and run "
            "this again", folder, board, module,
        )  # fmt: skip
        return False
    return True


def _claim_wandb(folder: Path, project: str) -> dict[str, str]:
    """Return project, id and name of the W&B run of a run's folder, made up once and kept there."""
    path = folder / WANDB_NAME
    if path.exists():
        run = _read_wandb(path)
        if run["project"] == project:
            return run
    run = {"project": project, "id": secrets.token_hex(8), "name": folder.resolve().name}
    with open_atomic(path) as file:
        file.write((json.dumps(run) + "\n").encode())
    return run


def _read_wandb(path: Path) -> dict[str, str]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(run[name]) for name in ("project", "id", "name")}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected project, id and name of a W&B run; delete the file, and a new run begins there"
        ) from error


def _require_wandb(project: str) -> None:
    """Raise ConfigError where W&B is not installed."""
    try:
        importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"report.wandb_project is {project!r}, but wandb is not installed: "
            "`.uv/bin/uv pip install wandb`, or set report.wandb_project to an empty text"
        ) from error


def _open_wandb(folder: Path, run: Mapping[str, str], **options: Any) -> Any:
    """Start, or go on with, a W&B run; all of one folder are a group."""
    wandb = importlib.import_module("wandb")
    return wandb.init(project=run["project"], group=run["id"], resume="allow", dir=str(folder), **options)
