"""Models of a hub: a repository's snapshot in the local cache, and its download.

Only the files that a stage reads are asked for. Whatever a hub or the disk does, the error is one line that says what
to do next; a download that was cut goes on where it stopped.
"""

import errno
import hashlib
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.fingerprint import hash_file
from pipeline.model_files.hub_repositories import required_files
from pipeline.model_files.stage_files import VAE_CONFIGS, MissingFilesError, choose_files, find_files

logger = logging.getLogger(__name__)

_CONNECTION = re.compile(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)): |\n.*", re.DOTALL)
_AGAIN = "run the command again, a download goes on where it stopped"


class HubError(Exception):
    """A hub, the way to it or the disk failed; the message says how, and what to do."""


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, and one file of it where only that is meant."""

    repository: str
    file_name: str = ""

    @classmethod
    def parse(cls, name: str) -> "HubName | None":
        """Read "owner/repository" or "owner/repository/file"; None for anything else."""
        owner, _, rest = name.partition("/")
        repository, _, file_name = rest.partition("/")
        if not owner or not repository or name.startswith((".", "~")) or "\0" in name:
            return None
        if {"", ".", ".."} & set(file_name.split("/")) and file_name:
            return None
        return cls(f"{owner}/{repository}", file_name)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as a hub lists it."""

    name: str
    num_bytes: int
    sha256: str  # "" where the hub does not say it: small files
    git_sha1: str = ""  # of a small file, as git names it; "" where the hub does not say it

    @property
    def etag(self) -> str:
        """The name under which the cache keeps the content, and the part of it that has come."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """What a hub has for one stage."""

    commit: str
    licence: str  # "" where the hub does not say it
    files: tuple[RemoteFile, ...]


def find_snapshot(name: HubName, stage: str) -> Path | None:
    """Return a model from the local cache, its snapshot's folder or the one file that is meant; None if it is not here.

    Raises:
        MissingFilesError: it is here in part; the message names what is missing.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        if name.file_name:
            return Path(hf_hub_download(name.repository, name.file_name, local_files_only=True))
        folder = Path(snapshot_download(name.repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    find_files(stage, folder, required_files(name.repository))
    return folder


def list_remote(name: HubName, stage: str) -> RemoteModel:
    """Ask the hub which files a stage would read of a repository.

    Raises:
        HubError: it cannot be asked, or has no such model.
    """
    from huggingface_hub import HfApi, constants

    with _explaining(name):
        # The library would wait without end for a hub that is silent.
        info = HfApi().model_info(name.repository, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    siblings = {entry.rfilename: entry for entry in info.siblings or []}
    try:
        chosen = _choose(name, stage, siblings)
    except MissingFilesError as error:
        raise HubError(f"{name.address}: {error}; expected a model for stage {stage!r}: check its name") from error
    with _explaining(name):
        files = [_remote_file(siblings[file_name]) for file_name in chosen]
    licence = info.card_data.get("license") if info.card_data else None
    return RemoteModel(info.sha or "main", str(licence or ""), tuple(files))


def _remote_file(entry: Any) -> RemoteFile:  # the library's RepoSibling, whose types nobody has checked
    size, sha256, blob = entry.size or 0, entry.lfs.sha256 if entry.lfs else "", entry.blob_id or ""
    if not isinstance(size, int) or size < 0 or not isinstance(sha256, str) or not isinstance(blob, str):
        raise TypeError(f"{entry.rfilename} has size {size!r:.40} and hash {sha256 or blob!r:.80}")
    # A large file's blob is the pointer that git keeps for it, not its content.
    return RemoteFile(entry.rfilename, size, sha256, "" if sha256 else blob)


def _choose(name: HubName, stage: str, present: Iterable[str]) -> list[str]:
    """Return which files of a repository are read: what the stage takes, or the one that is meant and its config."""
    if not name.file_name:
        return choose_files(stage, present, required_files(name.repository))
    if name.file_name not in present:
        raise MissingFilesError(f"{name.file_name} missing")
    file = PurePosixPath(name.file_name)
    configs = [str(file.with_name(config)) for config in (f"{file.stem}.json", *VAE_CONFIGS)] if stage == "vae" else []
    return [name.file_name, *[config for config in configs if config in present][:1]]


def download(name: HubName, stage: str, remote: RemoteModel | None = None) -> Path:
    """Bring what a stage reads into the local cache and return where it lies; what is there already is not asked for.

    Raises:
        HubError: see `list_remote`; or the download failed.
        ModelFileError: what came is not what the hub says it has.
    """
    from huggingface_hub import hf_hub_download

    remote = remote or list_remote(name, stage)
    size = _format_size(sum(file.num_bytes for file in remote.files))
    logger.info("downloading %s (%s) for stage %s", name.repository, size, stage)
    folder = _blob_folder(name)
    with _explaining(name):
        _require_space(name, remote, folder)
    paths = {}
    # The largest last: a snapshot that has its weights has the files beside them as well.
    for file in sorted(remote.files, key=lambda file: (file.num_bytes, file.name)):
        with _explaining(name, file), _plain_http():
            _drop_overlong_part(folder, file)
            # By branch and not by commit: only so the cache knows which snapshot is the newest.
            path = Path(hf_hub_download(name.repository, file.name))
        _verify(path, file)
        paths[file.name] = path
    if len({path.parent for path in paths.values()}) > 1:
        raise HubError(f"{name.address}: it changed during the download; run the command again")
    return paths[name.file_name] if name.file_name else path.parent


def _format_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _blob_folder(name: HubName) -> Path:
    """Return where the cache keeps the contents of a repository's files, and "*.incomplete" parts of them."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name.repository, repo_type="model") / "blobs"


def _require_space(name: HubName, remote: RemoteModel, folder: Path) -> None:
    """Raise HubError where the disk lacks room for what is still to come; a disk that says 0 may not know."""
    needed = 0
    for file in remote.files:
        here = [folder / file.etag, folder / f"{file.etag}.incomplete"]
        needed += max(file.num_bytes - max(path.stat().st_size if path.is_file() else 0 for path in here), 0)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if 0 < free < needed:
        raise HubError(f"{name.address}: {_no_space(needed)}; {_format_size(free)} are free")


def _drop_overlong_part(folder: Path, file: RemoteFile) -> None:
    """Remove a part that is longer than the whole: no hub could go on with it."""
    part = folder / f"{file.etag}.incomplete"
    if file.etag and part.is_file() and part.stat().st_size > file.num_bytes > 0:
        part.unlink()


def _verify(path: Path, file: RemoteFile) -> None:
    """Compare a file with what the hub says of it; a wrong one is removed, so that it is fetched again."""
    blob = path.resolve()
    status = blob.stat()
    is_right = status.st_size == file.num_bytes or not file.num_bytes
    if is_right and file.sha256:
        is_right = hash_file(blob, status.st_size, status.st_mtime_ns) == file.sha256
    elif is_right and file.git_sha1:
        content = blob.read_bytes()
        is_right = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.git_sha1
    if not is_right:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ModelFileError(
            f"{path}: {status.st_size} bytes that are not those of the hub ({file.num_bytes} bytes, hash "
            f"{file.etag or 'not stated'}); it was removed, run the command again"
        )


@contextmanager
def _plain_http() -> Iterator[None]:
    """Switch off the other ways of downloading that are used where their packages are installed.

    hf_xet and hf_transfer raise errors of their own kinds for a broken line or a full disk, and start a file anew.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET, constants.HF_HUB_ENABLE_HF_TRANSFER
    constants.HF_HUB_DISABLE_XET, constants.HF_HUB_ENABLE_HF_TRANSFER = True, False
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET, constants.HF_HUB_ENABLE_HF_TRANSFER = before


@contextmanager
def _explaining(name: HubName, file: RemoteFile | None = None) -> Iterator[None]:
    """Turn whatever a hub or the disk does into a HubError of one line."""
    from huggingface_hub.errors import HFValidationError

    what = name.address if file is None else f"{name.address} ({file.name})"
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{name.repository}: no name of a repository: {_first_line(error)}") from error
    except OSError as error:  # those of the hub and of requests are as well
        raise HubError(f"{what}: {_explain(error, file.num_bytes if file else 0)}") from error
    # What the library says to an answer in another form.
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise HubError(f"{what}: {_no_hub(error)}") from error


def _explain(error: BaseException, num_bytes: int) -> str:
    """Return what happened, and what to do; `num_bytes` is the size of the file that was to be written."""
    from huggingface_hub import errors
    from requests import ConnectionError, HTTPError, RequestException, Timeout
    from requests.exceptions import ChunkedEncodingError

    match error:
        case errors.LocalEntryNotFoundError() if error.__cause__ is not None:  # whatever its first request met
            return _explain(error.__cause__, num_bytes)
        case errors.GatedRepoError():
            return "gated; accept its terms on that page, then set HF_TOKEN to a token of yours"
        case errors.RepositoryNotFoundError():
            return "no such repository, or a private one; check its name, or set HF_TOKEN"
        case HTTPError() if error.response is not None:
            return _explain_status(error.response.status_code, error)
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set; unset it, or put the files into the hub cache"
        case ChunkedEncodingError():
            return f"the download was cut: {_reason(error)}; {_AGAIN}"
        case ConnectionError() | Timeout():
            return f"cannot be reached: {_reason(error)}; check the network, HTTPS_PROXY or HF_ENDPOINT. Then {_AGAIN}"
        case RequestException() | errors.FileMetadataError() | errors.LocalEntryNotFoundError():
            return _no_hub(error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return _no_space(num_bytes)
        case OSError() if error.errno is not None:
            return f"the hub cache cannot be written: {_first_line(error)}; set HF_HOME to a folder that can"
    return f"{_first_line(error)}; {_AGAIN}"


def _explain_status(status: int, error: BaseException) -> str:
    if status == 429:
        return "the hub asks for fewer requests (429); wait some minutes and run the command again"
    if status in (401, 403):
        return f"access refused ({status}); set HF_TOKEN to a token that may read it"
    if status == 404:
        return "no such file (404); check the model's name"
    if status >= 500:
        return f"the hub fails ({status}); run the command again later"
    return f"{_first_line(error)}; check the model's name and HF_ENDPOINT"


def _no_hub(error: BaseException) -> str:
    reason = _reason(error).split(". ")[0]
    return f"what answers is no model hub ({type(error).__name__}: {reason}); check HF_ENDPOINT and HTTPS_PROXY"


def _no_space(num_bytes: int) -> str:
    needed = f", {_format_size(num_bytes)} are needed" if num_bytes else ""
    return (
        f"no space left on the disk of the hub cache{needed}; make room, or set HF_HOME to a folder on another disk, "
        f"and {_AGAIN}"
    )


def _reason(error: BaseException) -> str:
    """Return what urllib3 says of a failed request, without the connection that it says it of."""
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", None) or cause  # of a request that was tried several times
    if isinstance(cause, BaseException):
        cause = next((text for text in cause.args if isinstance(text, str)), _first_line(cause))
    return _CONNECTION.sub("", str(cause).strip()) or _first_line(error)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
