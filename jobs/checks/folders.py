"""The folders that a job reads and writes, and the room on their disk."""

import os
import uuid
from dataclasses import replace
from pathlib import Path

from jobs.checks.catalogue_size import CatalogueSize, measure_catalogue
from jobs.checks.finding import Finding, Status, format_bytes
from pipeline.input_file import InputError
from pipeline.model_files.profiles import Profile

MIN_FREE_BYTES = 100_000_000  # less than this is a full disk: a few songs' latents
TOKEN_PREFIX = ".songbloom-doctor-"
_OTHER_DISK = "make room, or name a folder on another disk with --out"


def existing_folder(path: Path) -> Path:
    """Return the folder itself, or the nearest above it that exists: where a job would make it."""
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))  # Path's may raise


def check_source(source: Path, *, is_given: bool) -> tuple[Finding, CatalogueSize | None]:
    """Check that there are songs and that some of them can be opened.

    Args:
        source: folder or manifest.
        is_given: whether somebody named it; the default's absence on a fresh checkout is a warning.
    """
    try:
        size = measure_catalogue(source)
    except (InputError, OSError) as error:
        status: Status = "FAIL" if is_given or os.path.exists(source) else "warn"
        remedy = "put audio there, or name another folder or manifest with --in"
        found = str(error).partition("; put audio")[0]
        return Finding(name="input", status=status, found=found, needed="songs", remedy=remedy), None
    unreadable = [path for path in size.samples if not _can_read(path)]
    if unreadable:
        found = (
            f"{len(unreadable)} of {len(size.samples)} files that were tried cannot be read, such as {unreadable[0]}"
        )
        return Finding(
            name="input", status="FAIL", found=found, remedy="give the user of the jobs the right to read"
        ), size
    return Finding(name="input", status="ok", found=f"{source}: {size}, {format_bytes(size.num_bytes)}"), size


def _can_read(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return bool(stream.read(1))
    except OSError:
        return False


def check_output(out: Path) -> Finding:
    """Write a file where `out` is, or will be made, and delete it."""
    folder = existing_folder(out)
    token = folder / f"{TOKEN_PREFIX}{uuid.uuid4().hex}"
    try:
        token.write_bytes(b"songbloom")
        token.unlink()
    except OSError as error:
        return Finding(
            name="output",
            status="FAIL",
            found=f"{folder} cannot be written: {error.strerror}",
            remedy="give the user of the jobs the right to write there, or name another folder with --out",
        )
    where = f"{out}: writable" if folder == out else f"{out}: not there yet, {folder} is writable"
    return Finding(name="output", status="ok", found=where)


def free_bytes(out: Path) -> tuple[int, Path]:
    """Return the bytes that this user may still write where `out` lies, and the folder that was asked.

    0 also where the disk has room for bytes but not for another file.

    Raises:
        OSError: the disk does not answer.
    """
    folder = existing_folder(out)
    status = os.statvfs(folder)
    has_files_left = status.f_files == 0 or status.f_favail > 0  # some file systems count no files
    return status.f_bavail * status.f_frsize * has_files_left, folder


def check_room(out: Path) -> Finding:
    """Check that the disk of `out` is not full."""
    try:
        free, folder = free_bytes(out)
    except OSError as error:
        return Finding(name="disk", status="FAIL", found=f"{out}: {error.strerror}", remedy=_OTHER_DISK)
    if free < MIN_FREE_BYTES:
        found = f"{format_bytes(free)} free at {folder}"
        return Finding(name="disk", status="FAIL", found=found, needed=format_bytes(MIN_FREE_BYTES), remedy=_OTHER_DISK)
    return Finding(name="disk", status="ok", found=f"{format_bytes(free)} free at {folder}")


def check_disk(out: Path, size: CatalogueSize | None, profile: Profile) -> Finding:
    """Compare the room on the disk of `out` with what all jobs write for the catalogue; None: it is not known."""
    finding = check_room(out)
    if size is None or finding.status == "FAIL":
        return finding
    num_bytes = size.output_bytes(profile)
    needed = f"about {format_bytes(num_bytes)} for clean lyrics, codebook and shards"
    if free_bytes(out)[0] < num_bytes:
        return replace(finding, status="FAIL", needed=needed, remedy=_OTHER_DISK)
    return replace(finding, found=f"{finding.found} (needed: {needed})")
