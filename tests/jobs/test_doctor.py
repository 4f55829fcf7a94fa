"""`python jobs/doctor.py`: what a user reads, exit codes, JSON, and a cluster that is looked at from every node."""

import json
import sys
from pathlib import Path

import pytest

from jobs import doctor
from jobs.checks import examine, nodes
from jobs.cluster import JobError
from tests.jobs.checks.fakes import Cluster, give_gpus, write_song

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Return a function that runs the command in this process, alone and with the miniatures."""
    give_gpus(monkeypatch)
    monkeypatch.setattr(nodes, "is_running", lambda: False)
    monkeypatch.setattr(nodes, "RAY_PORTS", {})
    write_song(tmp_path / "raw" / "a.wav")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["doctor.py", "--profile", "miniature", *arguments])
        totals, code = doctor.main()
        return totals, code, capsys.readouterr()

    return run


@pytest.mark.demo_weights
def test_a_healthy_machine(command):
    totals, code, printed = command()
    assert code == 0, printed.out
    assert totals["failed"] == 0
    assert set(totals) == {"ok", "warn", "failed"}
    lines = printed.out.splitlines()
    assert len(lines) == totals["ok"] + totals["warn"]  # one line each where no terminal is
    names = {line[6:18].strip() for line in lines}
    assert names >= {"Python", "packages", "GPU", "memory", "/dev/shm", "input", "output", "disk", "models", "codebook"}


@pytest.mark.demo_weights
def test_json_has_every_finding_and_lines_go_to_stderr(command):
    totals, code, printed = command("--json", "--in", "nowhere", "--gpus", "1")
    assert code == 1
    assert printed.out == ""
    assert "FAIL  GPU" in printed.err
    failed = {entry["name"]: entry for entry in totals["findings"] if entry["status"] == "FAIL"}
    assert set(failed) == {"GPU", "input"}
    assert set(failed["input"]) == {"name", "status", "found", "needed", "remedy", "node"}
    assert totals["failed"] == 2
    assert json.loads(json.dumps(totals)) == totals


def test_a_cluster_that_is_asked_for_and_not_there_fails(command):
    _, code, printed = command("--nodes")
    assert code == 1
    assert "no Ray runs here" in printed.out


def test_a_cluster_is_checked_from_every_node(command, monkeypatch, tmp_path):
    cluster = Cluster(monkeypatch, "head", "worker")
    monkeypatch.setattr(nodes, "on_every_node", cluster)
    monkeypatch.setattr(examine, "count_nodes", lambda: 2)
    _, code, printed = command("--nodes")
    assert code == 0, printed.out
    assert "2 nodes read --in" in printed.out
    assert "worker: 1" in printed.out  # so many checks ok

    def fail(function):
        raise JobError("node worker: ModuleNotFoundError: No module named 'jobs'")

    monkeypatch.setattr(nodes, "on_every_node", fail)
    _, code, printed = command("--nodes")
    assert code == 1
    assert "FAIL  nodes        node worker: ModuleNotFoundError" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gpu 2", "did you mean --gpus?"),
        ("--gpus -1", "--gpus -1: expected 0 or more"),
        ("--languages klingon", "ISO 639-1"),
        ("--profile tiny", "profile"),
    ],
)
def test_wrong_use_is_one_line(run, tmp_path, arguments, message):
    done = run(tmp_path, f"python {ROOT}/jobs/doctor.py {arguments}")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert message in line


@pytest.mark.demo_weights
def test_the_command_as_a_user_runs_it(run, tmp_path):
    write_song(tmp_path / "raw" / "a.wav")
    done = run(tmp_path, f"python {ROOT}/jobs/doctor.py --profile full --asr turbo", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 1, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    (models,) = (line for line in lines if line.startswith("FAIL  models"))
    assert models.endswith("-> python jobs/models.py fetch --profile full --languages en,zh --asr turbo")
    assert "Traceback" not in done.stderr
    assert json.loads(last)["failed"] >= 1
