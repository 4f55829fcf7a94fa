"""A user's folder: the commands as they stand in the repository, two bundled songs, miniature models."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SONGS = ROOT / "jobs" / "demo_songs"

Run = Callable[..., subprocess.CompletedProcess[str]]


def lay_out(raw: Path, names: list[str]) -> None:
    """Copy bundled songs into raw/ as a user has them: audio and lyrics."""
    for name in names:
        (raw / name).mkdir(parents=True)
        for path in (SONGS / name).iterdir():
            if path.suffix != ".json":
                shutil.copy(path, raw / name / path.name)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a command line as a user types it, and returns what came of it."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SONGBLOOM_PROFILE": "miniature",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "XDG_CACHE_HOME": cache,  # Whisper base is joined there once
        "HOME": str(tmp_path_factory.mktemp("home")),  # Ray behaves differently where it left a token before
    }
    for name in ("PYTHONPATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):  # what is installed must do
        environment.pop(name, None)

    def run_in(folder: Path, command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command.split(),
            cwd=folder,
            env=environment | changes,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )

    return run_in


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder like a checkout's root: jobs/ and model/ are there, raw/ holds two songs."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("jobs", "model"):
        (folder / name).symlink_to(ROOT / name)
    lay_out(folder / "raw", sorted(path.name for path in SONGS.iterdir() if path.is_dir())[:2])
    return folder
