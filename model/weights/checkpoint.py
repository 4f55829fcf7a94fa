"""Checkpoints: one folder per step, written beside the run and renamed when whole.

    step_000100/
      model.safetensors           float32 weights and buffers by name; the metadata holds the run's configuration
      adapters.safetensors        of a LoRA run instead: what is not of the weights that it started from; the metadata
                                  holds their SHA-256 too (model/weights/base_weights.py)
      ema.safetensors             the same for the moving average of the weights, where the run keeps one
      optimizer_<name>.safetensors  float32 optimizer state by parameter name, one file per kind of state
      state.json                  step, seed, dataset, losses, configuration
      complete.json               size and SHA-256 of every other file; written last

Nothing here depends on the number of ranks or on ZeRO's stage, and nothing is ever unpickled.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.network.config import ConfigError
from model.settings.settings import CheckpointConfig, RunConfig, config_from_dict
from model.settings.strict_yaml import build
from model.weights.weights_file import CheckpointError, load_weights, read_tensors
from shards.atomic_file import sync

WEIGHTS_NAME = "model.safetensors"
ADAPTERS_NAME = "adapters.safetensors"
OF_WEIGHTS = (WEIGHTS_NAME, ADAPTERS_NAME)  # every checkpoint has one of them
EMA_NAME = "ema.safetensors"
STATE_NAME = "state.json"
MARKER_NAME = "complete.json"
MAX_JSON_BYTES = 16 * 2**20

__all__ = ["CheckpointError", "CheckpointWriter", "TrainState", "load_weights", "read_tensors"]

_STEP_FOLDER = re.compile(r"step_(\d{6,12})")
_FILE_NAME = re.compile(r"[a-z][a-z_]{0,99}\.(safetensors|json)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """All that a run knows besides tensors; with the seed, the step decides every later batch and draw."""

    global_step: int  # updates made
    seed: int
    dataset_fingerprint: str
    first_loss: float | None  # None: no step yet
    first_val_loss: float | None  # None: no validation yet
    last_val_loss: float | None
    losses: tuple[float, ...]  # of the last updates, the newest at the end
    songs_seen: int = 0  # of the stream; the next step begins there
    skipped_updates: int = 0  # steps that made no update, because of their loss
    denied_songs: tuple[str, ...] = ()  # keys of the songs that caused it
    last_val_step: int | None = None  # the step of last_val_loss
    val_score: float | None = None  # then: the loss of the moving average, or of the weights where there is none
    base_file: str = ""  # of weights that adapters correct; as it was named when the run began
    base_sha256: str = ""  # of the weights that adapters correct; "": checkpoints hold all weights


class CheckpointWriter:
    """Writes one checkpoint; used as a context, which makes it appear whole at the end or not at all."""

    def __init__(self, run_folder: Path, state: TrainState, config: RunConfig) -> None:
        """Name the checkpoint after the state's step.

        Args:
            run_folder: made where it is missing; no other process writes to it.
            state: goes to state.json.
            config: goes to state.json and into the metadata of the weights; its section `checkpoint` tells which older
                ones stay.
        """
        self.path = name_folder(run_folder, state.global_step)
        self._partial = run_folder / f".{self.path.name}.partial"
        self._state = state
        self._config = config.to_dict()
        self._rules = config.checkpoint

    def __enter__(self) -> "CheckpointWriter":
        """Make an empty folder under a temporary name; what killed runs left is removed."""
        try:
            for leftover in self.path.parent.glob(".step_*.partial"):
                shutil.rmtree(leftover)
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `<name>.safetensors`; weights are named "model", or "adapters" where the rest lies elsewhere."""
        metadata = {
            "format": "pt",
            "config": json.dumps(self._config),
            "global_step": str(self._state.global_step),
            "dataset_fingerprint": self._state.dataset_fingerprint,
        }
        if self._state.base_sha256:
            metadata |= {"base_file": self._state.base_file, "base_sha256": self._state.base_sha256}
        path = self._partial / f"{name}.safetensors"
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
            sync(path)
        except (OSError, SafetensorError) as error:
            raise self._failure(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit: state, marker, rename, and only then delete the oldest; after an error delete what was written."""
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        try:
            self._commit()
        except OSError as os_error:
            raise self._failure(os_error) from os_error

    def _commit(self) -> None:
        _write_json(self._partial / STATE_NAME, {"state": asdict(self._state), "config": self._config})
        files = sorted(self._partial.iterdir())
        marker = {file.name: {"bytes": file.stat().st_size, "sha256": _hash(file)} for file in files}
        _write_json(self._partial / MARKER_NAME, {"files": marker})
        sync(self._partial)
        if self.path.exists():  # damaged, or the run would have gone on from it
            shutil.rmtree(self.path)
        self._partial.rename(self.path)
        sync(self.path.parent)
        for old in choose_old(self.path.parent, self._rules):
            (old / MARKER_NAME).unlink()
            shutil.rmtree(old)

    def _failure(self, error: Exception) -> CheckpointError:
        shutil.rmtree(self._partial, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return CheckpointError(f"checkpoint {self.path} cannot be written: {reason}; older checkpoints are untouched")


def name_folder(run_folder: Path, global_step: int) -> Path:
    """Return where the checkpoint of a step is, or would be."""
    return run_folder / f"step_{global_step:06d}"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Return the folders that carry a marker and all its files at full size, the newest step first."""
    if not run_folder.is_dir():
        return []
    steps = [
        (int(match[1]), path)
        for path in run_folder.iterdir()
        if (match := _STEP_FOLDER.fullmatch(path.name)) is not None
    ]
    complete = []
    for _, path in sorted(steps, reverse=True):
        try:
            _read_marker(path)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
        else:
            complete.append(path)
    return complete


def choose_old(run_folder: Path, rules: CheckpointConfig) -> list[Path]:
    """Return the checkpoints that no rule keeps: newest, best or of a round step."""
    checkpoints = list_checkpoints(run_folder)
    others = checkpoints[rules.keep :]
    if rules.keep_every:
        others = [path for path in others if _step_of(path) % rules.keep_every]
    if rules.keep_best:
        scores = {path: score for path in checkpoints if (score := read_score(path)) is not None}
        best = sorted(scores, key=lambda path: (scores[path], -_step_of(path)))[: rules.keep_best]
        others = [path for path in others if path not in best]
    return others


def read_score(path: Path) -> float | None:
    """Return the validation loss of just these weights, or None: not validated, or not to be read."""
    try:
        state, _ = read_state(path)
    except CheckpointError:
        return None
    return state.val_score if state.last_val_step == state.global_step else None


def name_step_folders(run_folder: Path) -> list[str]:
    """Return the names of all folders that are, or were, checkpoints."""
    if not run_folder.is_dir():
        return []
    return sorted(path.name for path in run_folder.iterdir() if _STEP_FOLDER.fullmatch(path.name))


def find_newest(run_folder: Path) -> Path | None:
    """Return the newest checkpoint whose every byte is what was written, or None; damaged ones are logged."""
    for path in list_checkpoints(run_folder):
        try:
            verify(path)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
        else:
            return path
    return None


def verify(path: Path) -> None:
    """Raise CheckpointError unless all files of the checkpoint have the checksums of its marker."""
    for name, (_, sha256) in _read_marker(path).items():
        if _hash(path / name) != sha256:
            raise CheckpointError(f"checkpoint {path}: {name} is damaged: its SHA-256 is not that of {MARKER_NAME}")


def read_state(path: Path) -> tuple[TrainState, RunConfig]:
    """Return what a checkpoint knows besides tensors, and the configuration of its run."""
    record = _read_json(path / STATE_NAME)
    try:
        state: TrainState = build(TrainState, record.get("state"), f"{path / STATE_NAME}.state")
        config = config_from_dict(record.get("config"), f"{path / STATE_NAME}.config")
        if not state.songs_seen:  # written before it was kept, when the batch size could not change
            state = replace(state, songs_seen=state.global_step * config.trainer.batch_size)
        return state, config
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def refuse_other_model(path: Path, found: RunConfig, expected: RunConfig) -> None:
    """Raise CheckpointError naming the first setting that gives the weights another meaning; dropout does not.

    What is trained must stay the same too: the optimizer's state is of those parameters.
    """
    decisive = {"finetune.lora_rank", "finetune.lora_alpha", "finetune.freeze", "optimizer.kind"}
    if found.finetune.lora_rank:
        decisive |= {"finetune.lora_targets", "finetune.new_codebook"}
    for key, (there, here) in compare(found, expected).items():
        is_of_model = key.startswith("model.") and not key.startswith("model.dropout.")
        if is_of_model or key in decisive:
            raise CheckpointError(
                f"checkpoint {path} is of another model: {key} is {there} there and {here} in this run; "
                "use its configuration, or another run folder (--out)"
            )


def compare(found: RunConfig, expected: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ: dotted key to both values, None where a section `deepspeed` lacks it."""
    there, here = (_flatten(config.to_dict()) for config in (found, expected))
    return {key: (there.get(key), here.get(key)) for key in here | there if there.get(key) != here.get(key)}


def find_weights(path: Path) -> Path:
    """Return the file of weights of a run (its newest checkpoint) or of a checkpoint: the moving average, where kept.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if path.is_file():
        return path
    folder: Path | None = path
    if _STEP_FOLDER.fullmatch(path.name):
        verify(path)
    else:
        folder = find_newest(path)
    if folder is None:
        raise CheckpointError(
            f"{path}: no checkpoint here; expected a run's folder, a folder step_*, or a .safetensors file"
        )
    files = _read_marker(folder)
    return folder / next(name for name in (EMA_NAME, *OF_WEIGHTS) if name in files)


def _step_of(path: Path) -> int:
    match = _STEP_FOLDER.fullmatch(path.name)
    assert match is not None, "listed as a checkpoint"
    return int(match[1])


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _read_marker(path: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 by file name, after checking that the files are there at these sizes."""
    files = _read_json(path / MARKER_NAME).get("files")
    if not isinstance(files, dict) or STATE_NAME not in files or not any(name in files for name in OF_WEIGHTS):
        expected = f"{STATE_NAME} and {' or '.join(OF_WEIGHTS)}"
        raise CheckpointError(f"checkpoint {path}: {MARKER_NAME} does not list {expected}")
    marker: dict[str, tuple[int, str]] = {}
    for name, entry in files.items():
        if not _FILE_NAME.fullmatch(name) or not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise CheckpointError(f"checkpoint {path}: {MARKER_NAME} is damaged at {name!r}")
        file = path / name
        num_bytes = file.stat().st_size if file.is_file() else 0
        if num_bytes != entry.get("bytes"):
            raise CheckpointError(f"checkpoint {path}: {name} has {num_bytes} bytes, expected {entry.get('bytes')}")
        marker[name] = (num_bytes, entry["sha256"])
    return marker


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path.parent}: {path.name} is missing: it was never finished")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}")
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: found a {type(record).__name__}, expected an object")
    return record


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    sync(path)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
