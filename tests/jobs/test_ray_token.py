"""Where Ray left a token in the home folder, a running cluster asks for it; our jobs bring it along."""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CONNECT = "from jobs.cluster import connect; import ray; connect(); print(ray.get_runtime_context().gcs_address)"


def test_a_job_joins_a_cluster_that_asks_for_a_token(run, ray_head, environment, tmp_path):
    token = Path(environment["HOME"]) / ".ray" / "auth_token"
    token.parent.mkdir(exist_ok=True)
    token.write_text(os.urandom(32).hex())
    head = ray_head(tmp_path)
    try:
        (tmp_path / "connect.py").write_text(CONNECT.replace("; ", "\n"))
        done = run(tmp_path, "python connect.py")
    finally:
        head.stop()
        token.unlink()
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1" not in done.stdout, "a Ray of its own instead of the running one"
    assert "Unauthenticated" not in done.stderr
