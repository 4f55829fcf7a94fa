"""Processes of a real run that are killed: workers, and Ray itself. The result is that of a run nobody disturbed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.jobs.conftest import ROOT, SONGS, lay_out
from tests.jobs.fake_cleaning import results

pytestmark = [pytest.mark.slow, pytest.mark.demo_weights]


class Cleaning:
    """`python jobs/clean_lyrics.py` on two bundled songs, running."""

    def __init__(self, raw: Path, out: Path, environment: dict[str, str]) -> None:
        self._log = out.with_suffix(".log")
        command = [sys.executable, str(ROOT / "jobs" / "clean_lyrics.py"), "--in", str(raw), "--out", str(out)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait_for(self, text: str) -> None:
        """Wait until the log has a text."""
        deadline = time.monotonic() + 120
        while text not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.2)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of the run whose command line starts or ends with a name."""
        found = []
        for child in psutil.Process(self._process.pid).children(recursive=True):
            words = [word for word in child.cmdline() if word] or [""]
            if words[0].startswith(name) or words[0].endswith(name):
                found.append(child)
        return found

    def kill(self, name: str) -> int:
        """Kill -9 one process, once there is one, and return its id."""
        deadline = time.monotonic() + 60
        while not (found := self.processes(name)):
            assert time.monotonic() < deadline, f"no process {name}"
            time.sleep(0.2)
        found[0].kill()
        return found[0].pid

    def end(self) -> tuple[int, str]:
        """Wait for the end and return exit code and log."""
        code = self._process.wait(240)
        return code, self._log.read_text()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a user with profile miniature and no Ray running."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    return variables | {"SONGBLOOM_PROFILE": "miniature", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def start(tmp_path_factory, environment) -> Callable[[str], Cleaning]:
    """Return a function that starts a cleaning run into a folder of that name."""
    folder = tmp_path_factory.mktemp("faults")
    lay_out(folder / "raw", sorted(path.name for path in SONGS.iterdir() if path.is_dir())[:2])

    def start_run(name: str) -> Cleaning:
        run = Cleaning(folder / "raw", folder / name, environment)
        run.out = folder / name
        return run

    return start_run


@pytest.fixture(scope="module")
def whole(start) -> dict[str, bytes]:
    """What a run leaves that nobody disturbed."""
    run = start("whole")
    code, log = run.end()
    assert code == 0, log
    return results(run.out)


def test_workers_that_are_killed_are_started_again(start, whole):
    run = start("workers")
    run.wait_for("songs to listen to")
    killed = {run.kill("ray::_Worker") for _ in range(2) if not time.sleep(2)}
    code, log = run.end()
    assert code == 0, log
    assert len(killed) == 2
    assert results(run.out) == whole
    assert '"failed": 0' in log


def test_a_ray_that_is_killed_ends_the_run_and_the_next_one_goes_on(start, whole):
    run = start("raylet")
    run.wait_for("songs to listen to")
    run.kill("raylet")
    code, log = run.end()
    assert code == 1, log
    assert "error: Ray has died" in log, log
    assert "Traceback" not in log
    run = start("raylet")
    code, log = run.end()
    assert code == 0, log
    assert results(run.out) == whole
