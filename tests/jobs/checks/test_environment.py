"""Python, the packages against the locks, and Ray's variables."""

import json

import pytest

from jobs import doctor
from jobs.checks import environment


def test_python(monkeypatch):
    assert environment.check_python().status == "ok"
    monkeypatch.setattr(environment, "PYTHON", (3, 99))
    found = environment.check_python()
    assert (found.status, found.needed) == ("FAIL", "3.99")
    assert "make setup" in found.remedy


def test_packages_are_compared_with_the_locks(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "torch"))
    versions = {"numpy": "2.0.1", "torch": "2.8.0+cu128"}
    monkeypatch.setattr(environment, "_installed_version", versions.get)
    assert environment.check_packages(tmp_path).status == "warn"  # no lock
    lock = tmp_path / "requirements-pipeline.lock"
    lock.write_text("numpy==2.0.1 \\\n    --hash=sha256:00\ntorch==2.8.0 ; python_version < '4' \\\n")
    assert environment.check_packages(tmp_path).found == "2 packages in the locked versions"
    versions["numpy"] = "2.1.0"
    found = environment.check_packages(tmp_path)
    assert (found.status, found.found) == ("warn", "numpy 2.1.0 (locked: 2.0.1)")
    (tmp_path / "requirements-train.lock").write_text("numpy==2.1.0\n")  # another environment of this checkout
    assert environment.check_packages(tmp_path).status == "ok"
    del versions["torch"]
    found = environment.check_packages(tmp_path)
    assert (found.status, found.found, found.remedy) == ("FAIL", "not installed: torch", "make setup")


def test_without_packages_the_command_still_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "missing_packages", lambda: ["ray"])
    monkeypatch.setattr(environment, "missing_packages", lambda: ["ray"])
    with pytest.raises(SystemExit) as stopped:
        doctor.require_packages()
    assert stopped.value.code == 1
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("FAIL  packages     not installed: ray")
    assert json.loads(last)["failed"] == 1


def test_a_package_that_cannot_be_imported_is_a_line(monkeypatch, capsys):
    def fail(name):
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    with pytest.raises(SystemExit) as stopped:
        doctor.require_packages()
    assert stopped.value.code == 1
    assert "FAIL  packages     cannot be imported: libcudart.so.12" in capsys.readouterr().out
    monkeypatch.undo()
    doctor.require_packages()  # says nothing where all is well
    assert capsys.readouterr().out == ""


def test_a_token_is_asked_for_and_found(tmp_path):
    assert environment.check_ray_variables({}, tmp_path).status == "ok"
    found = environment.check_ray_variables({"RAY_AUTH_MODE": "token"}, tmp_path)
    assert found.status == "FAIL"
    assert "auth_token" in found.remedy
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    found = environment.check_ray_variables({"RAY_AUTH_MODE": "token"}, tmp_path)
    assert found.status == "ok"
    assert "`ray start`" in found.found
    assert "secret" not in found.text
