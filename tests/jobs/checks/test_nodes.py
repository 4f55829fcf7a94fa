"""A Ray that answers or not, and what the nodes of a cluster see and find."""

import socket
from dataclasses import replace

import pytest

from jobs.checks import nodes
from jobs.checks.finding import Finding
from jobs.cluster import JobError
from tests.jobs.checks.fakes import Cluster, write_song


@pytest.fixture
def listener():
    """Return the port of a program that listens on this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_ray_that_does_not_answer_fails_at_once(listener, monkeypatch):
    monkeypatch.setattr(nodes, "is_running", lambda: True)
    assert nodes.check_ray({"RAY_ADDRESS": f"127.0.0.1:{listener}"}).status == "ok"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        found = nodes.check_ray({"RAY_ADDRESS": address})
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(JobError, match="nothing answers"):
            nodes.count_nodes()
    assert found.status == "FAIL"
    assert "unset RAY_ADDRESS" in found.remedy
    found = nodes.check_ray({"RAY_ADDRESS": "http://127.0.0.1:8265"})
    assert (found.status, "dashboard" in found.found) == ("FAIL", True)


def test_ports_that_another_program_has(listener, monkeypatch):
    monkeypatch.setattr(nodes, "is_running", lambda: False)
    monkeypatch.setattr(nodes, "RAY_PORTS", {listener: "--port=6380"})
    found = nodes.check_ray({})
    assert (found.status, found.remedy) == ("warn", "ray start --head --port=6380")
    monkeypatch.setattr(nodes, "RAY_PORTS", {})
    assert nodes.check_ray({}).status == "ok"


def test_no_ray_is_started_to_count_nodes(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(nodes, "is_running", lambda: False)
    monkeypatch.setattr(nodes, "connect", lambda *_: pytest.fail("a Ray was started"))
    assert nodes.count_nodes() == 0


def test_nodes_read_and_write_the_same_folders(tmp_path, monkeypatch):
    song = write_song(tmp_path / "raw" / "a.wav")
    monkeypatch.setattr(nodes, "on_every_node", Cluster(monkeypatch, "head", "worker"))
    (found,) = nodes.check_shared_folders(song, tmp_path / "clean")
    assert (found.status, found.found.startswith("2 nodes read --in")) == ("ok", True)
    monkeypatch.setattr(nodes, "on_every_node", Cluster(monkeypatch, "head", "worker", elsewhere=("worker",)))
    (found,) = nodes.check_shared_folders(song, tmp_path / "clean")
    assert (found.status, found.node, found.name) == ("FAIL", "worker", "output")
    assert "another folder there" in found.found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]  # no token is left


def test_every_node_that_lacks_a_folder_is_named(tmp_path):
    good = nodes.FolderView(has_source=True, reads_token=True)
    views = {
        "a": good,
        "b": replace(good, has_source=False),
        "c": replace(good, problem="Read-only file system"),
    }
    found = nodes.judge_views(views, tmp_path / "a.wav", tmp_path, num_seen=2)
    assert [(item.node, item.name, item.status) for item in found] == [("b", "input", "FAIL"), ("c", "output", "FAIL")]
    assert "Read-only" in found[1].found
    (found,) = nodes.judge_views({"a": good, "b": good}, tmp_path / "a.wav", tmp_path, num_seen=1)
    assert "1 of 2 files that nodes wrote are seen here" in found.found


def test_checks_of_nodes_show_what_is_not_ok(monkeypatch):
    monkeypatch.setattr(nodes, "on_every_node", Cluster(monkeypatch, "a", "b"))
    fine, bad = Finding(name="x", status="ok", found="1"), Finding(name="y", status="FAIL", found="2")
    found = nodes.check_machines(lambda: [fine, bad])
    assert [(item.node, item.name, item.status) for item in found] == [
        ("a", "node", "ok"),
        ("a", "y", "FAIL"),
        ("b", "node", "ok"),
        ("b", "y", "FAIL"),
    ]
    assert found[0].found == "1 of 2 checks ok"
