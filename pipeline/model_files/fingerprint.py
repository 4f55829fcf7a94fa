"""What identifies a model: a hash over the files that its stage reads."""

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path

from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.stage_files import MissingFilesError, find_files
from shards.atomic_file import open_atomic

logger = logging.getLogger(__name__)

_HASH_CHUNK_BYTES = 1 << 20
_MIN_KEPT_BYTES = 16 << 20  # smaller files are hashed sooner than their kept hash is looked up


def user_cache() -> Path:
    """Return the project's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "songbloom"


def fingerprint_model(path: Path, stage: str) -> str:
    """Return the SHA-256, as hex, over the names and contents of the files that a stage reads of a model.

    Files beside them count for nothing: a repository may hold other models. Hashes of large files are kept in the
    user's cache, by path, size and time.

    Raises:
        ModelFileError: a file is missing or cannot be read.
    """
    try:
        files = find_files(stage, path)
        stats = [(entry, entry.stat()) for entry in sorted(files)]
        digest = hashlib.sha256()
        for entry, status in stats:
            content = hash_file(entry.resolve(), status.st_size, status.st_mtime_ns)
            digest.update(f"{entry.name}\0{status.st_size}\0{content}\0".encode())
    except MissingFilesError as error:
        raise ModelFileError(f"{path}: {error}; expected the files of a model for stage {stage!r}") from error
    except OSError as error:
        raise ModelFileError(f"{error.filename or path}: {error.strerror}; expected a readable model file") from error
    return digest.hexdigest()


@lru_cache(maxsize=256)
def hash_file(path: Path, num_bytes: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file of this size and time as hex, from the user's cache where it is known."""
    kept = user_cache() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    facts = {"bytes": num_bytes, "mtime_ns": mtime_ns}
    if num_bytes >= _MIN_KEPT_BYTES and (known := _read_hash(kept, facts)) is not None:
        return known
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    if num_bytes >= _MIN_KEPT_BYTES:
        try:
            with open_atomic(kept) as stream:
                stream.write(json.dumps(facts | {"sha256": digest.hexdigest()}).encode())
        except OSError as error:  # only time is lost
            logger.debug("%s: hash not kept: %s", kept, error)
    return digest.hexdigest()


def _read_hash(path: Path, facts: dict[str, int]) -> str | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or {name: kept.get(name) for name in facts} != facts:
        return None
    known = kept.get("sha256")
    return known if isinstance(known, str) and len(known) == 64 else None
