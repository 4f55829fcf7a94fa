"""Python, the installed packages, and the environment variables that Ray reads.

Nothing but the standard library is imported: these checks have to work where packages are missing.
"""

import importlib.metadata
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.checks.finding import Finding

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (3, 11)
# Locks of the environments that jobs run in, the likeliest first.
LOCKS = ("requirements-pipeline.lock", "requirements.lock", "requirements-train.lock")
# What jobs import, and what decides their results.
PACKAGES = (
    *("torch", "torchaudio", "numpy", "pyarrow", "safetensors", "webdataset", "ray", "psutil", "huggingface-hub"),
    *("whisperx", "faster-whisper", "ctranslate2", "transformers", "demucs", "muq", "diffusers"),
    *("av", "librosa", "soundfile", "soxr", "scipy"),
)
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==([^\s;\\]+)")
_INSTALL = "make setup"
TOKEN_SOURCES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


def check_python() -> Finding:
    """Compare the running Python with the one that the packages are locked for."""
    found = ".".join(map(str, sys.version_info[:3]))
    needed = ".".join(map(str, PYTHON))
    if sys.version_info[:2] == PYTHON:
        return Finding(name="Python", status="ok", found=found)
    remedy = f"{_INSTALL}, then run with .venv/bin/python"
    return Finding(name="Python", status="FAIL", found=f"{found} ({sys.executable})", needed=needed, remedy=remedy)


def missing_packages() -> list[str]:
    """Return which of `PACKAGES` are not installed."""
    return [name for name in PACKAGES if _installed_version(name) is None]


def check_packages(root: Path = ROOT) -> Finding:
    """Compare the versions of `PACKAGES` with the locks of the checkout; another version is a warning."""
    if missing := missing_packages():
        return Finding(
            name="packages", status="FAIL", found=f"not installed: {', '.join(missing)}", needed="all", remedy=_INSTALL
        )
    pins = _read_locks(root)
    if not pins:
        return Finding(
            name="packages",
            status="warn",
            found=f"no lock with versions in {root}",
            needed=LOCKS[0],
            remedy="run from a whole checkout",
        )
    other = []
    for name in PACKAGES:
        version = (_installed_version(name) or "").partition("+")[0]  # "+cu128" says what it was built for
        if name in pins and version not in pins[name]:
            other.append(f"{name} {version} (locked: {pins[name][0]})")
    if other:
        return Finding(
            name="packages",
            status="warn",
            found=", ".join(other),
            needed="the locked versions, which the results were checked with",
            remedy=_INSTALL,
        )
    return Finding(name="packages", status="ok", found=f"{len(PACKAGES)} packages in the locked versions")


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_locks(root: Path) -> dict[str, list[str]]:
    """Return the pinned versions of every package, those of the first lock first."""
    pins: dict[str, list[str]] = {}
    for path in (root / name for name in LOCKS):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for match in filter(None, map(_PIN.match, lines)):
            pins.setdefault(match[1].lower().replace("_", "-"), []).append(match[2])
    return pins


def check_ray_variables(environment: Mapping[str, str], home: Path) -> Finding:
    """Check what Ray reads: which cluster a job joins, and the token that a cluster may ask for.

    Args:
        environment: as `os.environ`. `jobs.cluster` sets RAY_AUTH_MODE where a token lies in the home folder.
        home: where Ray keeps a token.
    """
    token_file = home / ".ray" / "auth_token"
    has_token = token_file.exists() or any(environment.get(n) for n in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    address, mode = environment.get("RAY_ADDRESS", ""), environment.get("RAY_AUTH_MODE", "")
    found = ", ".join(
        [
            f"RAY_ADDRESS={address}" if address else "RAY_ADDRESS not set",
            f"RAY_AUTH_MODE={mode}" if mode else "RAY_AUTH_MODE not set",
            *(["a token is there"] if has_token else []),
        ]
    )
    if mode.lower() == "token" and not has_token:
        return Finding(
            name="Ray settings",
            status="FAIL",
            found=f"{found}, but no token",
            needed=f"the cluster's token in {TOKEN_SOURCES}",
            remedy="copy ~/.ray/auth_token of the head node here, or `ray get-auth-token --generate` for a new cluster",
        )
    if has_token and mode.lower() != "disabled":
        found += ": jobs show it; `ray start` and `ray job submit` want RAY_AUTH_MODE=token exported"
    return Finding(name="Ray settings", status="ok", found=found)
