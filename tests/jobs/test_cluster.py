from pathlib import Path

import pytest

from jobs.cluster import POOL_CPU_SHARE, Cluster, JobError, resolve_path


@pytest.mark.parametrize("num_cpus", [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize("num_pools", [1, 2])
def test_pools_never_take_all_cpus(num_cpus, num_pools):
    pool = Cluster(num_cpus, 0).pool(num_pools)
    taken = pool["num_workers"] * pool["num_cpus"] * num_pools
    assert pool["num_workers"] >= 1
    assert 0 < taken <= POOL_CPU_SHARE * num_cpus + 1e-9


def test_every_gpu_serves_one_worker_of_each_pool():
    pool = Cluster(16, 4).pool(2)
    assert (pool["num_workers"], pool["num_gpus"]) == (4, 0.5)


def test_more_workers_than_fit_share_what_there_is():
    pool = Cluster(2, 0).pool(2, requested=3)
    assert pool["num_workers"] == 3
    assert 3 * 2 * pool["num_cpus"] <= 1.8


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
