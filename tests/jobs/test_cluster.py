import json
import socket
from pathlib import Path

import pytest

from jobs import cluster
from jobs.cluster import Cluster, JobError, connect, resolve_path


@pytest.mark.parametrize("num_cpus", [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize("requested", [None, 1, 3, 7])
def test_pools_fit_into_the_cluster(num_cpus, requested):
    cluster = Cluster(num_cpus, 0)
    for pool in (cluster.readers(), cluster.encoders(requested)):
        assert pool.num_workers >= 1
        assert 0 < pool.num_cpus <= 1
        assert pool.num_workers * pool.num_cpus <= num_cpus
    assert cluster.encoders(requested).num_workers == (requested or num_cpus)


def test_two_encoders_share_a_gpu_unless_other_numbers_are_asked_for():
    assert (Cluster(16, 4).encoders().num_workers, Cluster(16, 4).encoders().num_gpus) == (8, 0.5)
    for requested, num_gpus in ((8, 0.5), (6, 0.5), (3, 1.0), (1, 1.0), (12, 0.3333)):  # Ray gives 1.3 GPUs to nobody
        pool = Cluster(16, 4).encoders(requested)
        assert (pool.num_workers, pool.num_gpus) == (requested, num_gpus)


STREAMS = """
import json, os, psutil, time
from jobs.cluster import Crew, Died, JobError, Pool, connect, leave, on_every_node, stream

class Doubling:
    def __call__(self, row):
        if row["number"] == 13:
            raise ValueError("no 13 here")
        if row["number"] == 666:
            os._exit(1)
        if row["number"] == 777:
            memory = bytearray(1_000_000_000)
            memory[::4096] = bytes(len(memory[::4096]))
            time.sleep(30)
        if row["number"] == 888:
            time.sleep(60)
        return {"number": 2 * row["number"], "pid": os.getpid()}

class Telling:
    def __call__(self, row):
        return {"pid": os.getpid(), "arenas": os.environ.get("MALLOC_ARENA_MAX")}

class Late:  # starts at once in one process only
    def __init__(self):
        try:
            os.mkdir(os.environ["PWD"] + "/started")
        except FileExistsError:
            time.sleep(3)

    def __call__(self, row):
        return {"pid": os.getpid()}

def early(pool):
    with Crew(pool) as crew:
        return [row["pid"] for row in crew.stream([{"number": 1}, {"number": 2}], Late)]

def crews(pool):
    rows = [{"number": k} for k in range(8)]
    with Crew(pool) as crew:
        first = list(crew.stream(rows, Doubling))
        same = list(crew.fit(pool).stream(rows, Telling))
        with crew.fit(Pool(num_workers=1, num_cpus=0.5)) as other:
            pids = [[row["pid"] for row in rows] for rows in (first, same, other.stream(rows, Telling))]
    return pids, same[0]["arenas"]

def dying():
    os._exit(1)

def dying_once():
    try:
        os.mkdir(os.environ["PWD"] + "/died")
    except FileExistsError:
        return Telling()
    os._exit(1)

def broken():
    raise ValueError("no model there")

def error(numbers, make_worker):
    try:
        list(stream([{"number": k} for k in numbers], make_worker, pool))
    except JobError as found:
        return str(found)

def late():
    started = time.monotonic()
    rows = [{"number": k} for k in (888, 1, 2, 3)]
    seconds = lambda row: 2.0 if row["number"] == 888 else 60.0
    results = list(stream(rows, Doubling, Pool(num_workers=1, num_cpus=0.5), seconds))
    died = [result for result in results if isinstance(result, Died)]
    return [result.reason for result in died], len(results), time.monotonic() - started

def deaths(numbers, make_worker, pool=None):
    results = list(stream([{"number": k} for k in numbers], make_worker, pool or globals()["pool"]))
    died = [result for result in results if isinstance(result, Died)]
    return [(result.row["number"], result.reason) for result in died], len(results)

def processes():
    return [part for child in psutil.Process().children() for part in child.cmdline() if part.endswith(".py")]

pool = connect().encoders(2)
print(json.dumps({
    "mapped": list(stream([{"number": k} for k in range(10)], Doubling, pool)),
    "nothing": list(stream([], Doubling, pool)),
    "raises": error([1, 13, 2], Doubling),
    "cannot_be_made": error([1], broken),
    "dies": deaths([1, 666, 2, 3], Doubling),
    "dies_at_once": deaths([666], dying),
    "nodes": list(on_every_node(os.getpid)),
    "late": late(),
    "greedy": deaths([1, 777, 2], Doubling, Pool(num_workers=1, num_cpus=0.5, max_memory_bytes=500_000_000)),
    "dies_once": len(list(stream([{"number": k} for k in range(4)], dying_once, pool))),
    "early": early(pool),
    "crews": crews(pool),
    "processes": processes(),
    "left": leave() or processes(),
}))
"""


@pytest.mark.slow
def test_streams_over_a_ray_of_their_own(run, tmp_path):
    (tmp_path / "streams.py").write_text(STREAMS)
    done = run(tmp_path, "python streams.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # Ray writes there, too
    assert sorted(row["number"] for row in found["mapped"]) == list(range(0, 20, 2))
    assert 1 <= len({row["pid"] for row in found["mapped"]}) <= 2  # workers stay, row after row
    assert found["nothing"] == []
    assert len(set(found["early"])) == 1  # nobody waits for a process that is not needed, or hears of its end
    assert "_Worker.start failed" not in done.stdout + done.stderr
    assert found["raises"] == "ValueError: no 13 here"
    assert found["cannot_be_made"] == "ValueError: no model there"
    (first, same, other), arenas = found["crews"]
    assert set(first) & set(same)  # a crew goes on to other work
    assert len(set(first) | set(same)) <= 2
    assert len(set(other)) == 1  # a pool of another size has processes of its own
    assert not set(other) & set(same)
    assert arenas == "1"  # glibc reads it when a process starts
    assert sum(part.endswith("/autoscaler/_private/monitor.py") for part in found["processes"]) == 1  # `leave` ends it
    assert found["left"] == []
    for name, num_results in (("dies", 4), ("dies_at_once", 1)):  # the others go on
        ((row, reason),), count = found[name]
        assert (row, count) == (666, num_results)
        assert reason.startswith("its worker process died 3 times")
    assert found["nodes"] == [socket.gethostname()]
    (reason,), count, seconds = found["late"]
    assert "longer than --max-seconds-per-song" in reason
    assert count == 4, "another worker takes what is left"
    assert seconds < 30
    ((row, _),), count = found["greedy"]
    assert (row, count) == (777, 3)
    assert "--max-worker-memory allows 0.5" in done.stdout + done.stderr
    assert found["dies_once"] == 4


def test_relative_paths_mean_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert resolve_path(Path("raw")) == tmp_path / "raw"
    assert resolve_path(Path("/data")) == Path("/data")


def test_in_a_copy_made_by_ray_they_mean_the_installed_checkout(monkeypatch, tmp_path):
    copy = tmp_path / "_ray_pkg_0123"
    copy.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"working_dir": "gcs://_ray_pkg_0123.zip"}}')
    assert resolve_path(Path("raw")) == Path(__file__).resolve().parents[2] / "raw"
    monkeypatch.setattr("jobs.cluster._installed_checkout", lambda: None)
    with pytest.raises(JobError, match="absolute"):
        resolve_path(Path("raw"))


@pytest.fixture
def gpu_less(monkeypatch):
    """A Ray that sees no GPU."""
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 4.0})


def test_a_gpu_that_cannot_be_used_is_not_passed_over(gpu_less, monkeypatch):
    monkeypatch.setattr(cluster, "_explain_unusable_gpu", lambda: "driver 470 is too old for CUDA 12.8")
    with pytest.raises(JobError, match=r"driver 470 is too old for CUDA 12.8; or add --device cpu"):
        connect()
    assert connect("cpu") == Cluster(4, 0)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    with pytest.raises(JobError, match="driver 470 is too old"):
        connect()  # Ray has counted it all the same


def test_a_gpu_that_is_asked_for_has_to_be_there(gpu_less, monkeypatch):
    monkeypatch.setattr(cluster, "_explain_unusable_gpu", lambda: None)
    assert connect() == Cluster(4, 0)
    with pytest.raises(JobError, match="--device cuda: this Ray has no GPU"):
        connect("cuda")
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    assert (connect("cuda").device, connect("cpu").device) == ("cuda", "cpu")
