import json
from pathlib import Path

import pytest

from jobs.cluster import Cluster, JobError, resolve_path


@pytest.mark.parametrize("num_cpus", [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize("requested", [None, 1, 3, 7])
def test_pools_fit_into_the_cluster(num_cpus, requested):
    cluster = Cluster(num_cpus, 0)
    for pool in (cluster.readers(), cluster.encoders(requested)):
        assert pool.num_workers >= 1
        assert 0 < pool.num_cpus <= 1
        assert pool.num_workers * pool.num_cpus <= num_cpus
    assert cluster.encoders(requested).num_workers == (requested or num_cpus)


def test_every_gpu_serves_one_encoder_unless_more_are_asked_for():
    assert (Cluster(16, 4).encoders().num_workers, Cluster(16, 4).encoders().num_gpus) == (4, 1.0)
    for requested, num_gpus in ((8, 0.5), (6, 0.5), (3, 1.0), (1, 1.0), (12, 0.3333)):  # Ray gives 1.3 GPUs to nobody
        pool = Cluster(16, 4).encoders(requested)
        assert (pool.num_workers, pool.num_gpus) == (requested, num_gpus)


STREAMS = """
import json, os, psutil, time
from collections import namedtuple
from jobs.cluster import Crew, JobError, Pool, connect, leave, stream

Song = namedtuple("Song", "song_id")

class Doubling:
    def __call__(self, row):
        if row["number"] == 13:
            raise ValueError("no 13 here")
        if row["number"] == 666:
            os._exit(1)
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
        list(stream([{"number": k, "song": Song("the beast" if k == 666 else "")} for k in numbers], make_worker, pool))
    except JobError as found:
        return str(found)

def processes():
    return [part for child in psutil.Process().children() for part in child.cmdline() if part.endswith(".py")]

pool = connect().encoders(2)
print(json.dumps({
    "mapped": list(stream([{"number": k} for k in range(10)], Doubling, pool)),
    "nothing": list(stream([], Doubling, pool)),
    "raises": error([1, 13, 2], Doubling),
    "cannot_be_made": error([1], broken),
    "dies": error([1, 666, 2], Doubling),
    "dies_at_once": error([666], dying),
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
    for name in ("dies", "dies_at_once"):
        assert found[name].startswith("song 'the beast': the worker process died 3 times")
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
