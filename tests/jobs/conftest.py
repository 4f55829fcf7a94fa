"""A user's folder: the commands as they stand in the repository, two bundled songs, miniature models."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SONGS = ROOT / "jobs" / "demo_songs"

DASHBOARD = ("127.0.0.1", 8265)

Run = Callable[..., subprocess.CompletedProcess[str]]


def lay_out(raw: Path, names: list[str]) -> None:
    """Copy bundled songs into raw/ as a user has them: audio and lyrics."""
    for name in names:
        (raw / name).mkdir(parents=True)
        for path in (SONGS / name).iterdir():
            if path.suffix != ".json":
                shutil.copy(path, raw / name / path.name)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a user on a fresh machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    variables = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SONGBLOOM_PROFILE": "miniature",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "XDG_CACHE_HOME": cache,  # Whisper base is joined there once
        "HOME": str(tmp_path_factory.mktemp("home")),  # Ray behaves differently where it left a token before
    }
    for name in ("PYTHONPATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):  # what is installed must do
        variables.pop(name, None)
    return variables


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Run:
    """Return a function that runs a command line as a user types it, and returns what came of it."""

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


class RayHead:
    """A Ray cluster of a test, started as `ray start --head` and ended without touching any other on the machine."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Start it and wait until jobs can be submitted."""
        with socket.socket() as probe:
            if probe.connect_ex(DASHBOARD) == 0:
                pytest.skip("a Ray dashboard is running on this machine already; stop it with `ray stop`")
        self._log = (folder / "ray.log").open("w")
        self._process = subprocess.Popen(
            ["ray", "start", "--head", "--num-cpus", "2", "--block"],
            cwd=folder,
            env=environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(DASHBOARD) == 0:
                    time.sleep(2)  # the port opens a moment before jobs are taken
                    return
            time.sleep(0.5)
        self.stop()
        pytest.fail((folder / "ray.log").read_text())

    def stop(self) -> None:
        """End it; a second call does nothing."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(60)
        self._log.close()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder like a checkout's root: jobs/ and model/ are there, raw/ holds two songs."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("jobs", "model"):
        (folder / name).symlink_to(ROOT / name)
    lay_out(folder / "raw", sorted(path.name for path in SONGS.iterdir() if path.is_dir())[:2])
    return folder


@pytest.fixture(scope="session")
def ray_head(environment: dict[str, str]) -> Callable[[Path], RayHead]:
    """Return a function that starts a Ray cluster in a folder."""
    return lambda folder: RayHead(folder, environment)
