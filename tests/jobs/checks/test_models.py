"""Models that are here or not, a codebook that fits its MuQ or not, a hub that answers or not."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.checks import models as model_checks
from jobs.checks.model_list import ModelNeed, ModelState, list_needs, look_up
from pipeline.encoding.codebook import Codebook
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.profiles import get_profile
from tests.jobs.checks.fakes import GB

FULL, MINIATURE = get_profile("full"), get_profile("miniature")


def complete(stage: str, path: Path, name: str = "mine") -> ModelState:
    return ModelState(need=ModelNeed(stage=stage, name=name), state="complete", path=path, num_bytes=10, is_exact=True)


def test_models_are_counted_and_missing_ones_named_with_one_command():
    states = [look_up(need) for need in list_needs(MINIATURE, ["en"])]
    (found,) = model_checks.check_models(states, "fetch it")
    assert (found.status, found.found.startswith("6 here")) == ("ok", True)
    muq = ModelState(need=ModelNeed(stage="muq", name="OpenMuQ/x"), state="missing", num_bytes=GB)
    asr = replace(muq, need=ModelNeed(stage="asr", name="base"), state="incomplete", problem="model.bin missing")
    wrong = replace(muq, need=ModelNeed(stage="vae", name="/no/where"), problem="model '/no/where' not found")
    first, second = model_checks.check_models([muq, asr, wrong], "fetch it")
    assert (first.status, first.remedy) == ("FAIL", "fetch it")
    assert first.found == "2 of 3 not here: muq OpenMuQ/x (~1.0 GB), asr base (in part: model.bin missing)"
    assert (second.status, "--vae" in second.remedy) == ("FAIL", True)


@pytest.fixture
def fitted(tmp_path):
    """Return a MuQ of this test and a codebook that says it was fitted on it."""
    import torch

    muq = tmp_path / "muq"
    muq.mkdir()
    (muq / "config.json").write_text("{}")
    (muq / "model.safetensors").write_bytes(b"weights")
    tensors = {
        "project_in": torch.ones(2, 4),
        "center": torch.zeros(4),
        "codes": torch.eye(2),
        "project_out": torch.ones(4, 2),
        "bias_out": torch.zeros(4),
    }
    metadata = {"muq": "mine", "muq_sha256": fingerprint_model(muq, "muq"), "muq_layer": 6}
    Codebook(**tensors, metadata=metadata).save(tmp_path / "codebook")
    return complete("muq", muq), complete("codebook", tmp_path / "codebook")


def test_a_codebook_has_to_fit_muq_and_layer(fitted):
    muq, codebook = fitted
    found = model_checks.check_codebook(codebook, muq, FULL)
    assert (found.status, "2 entries, layer 6, fits MuQ" in found.found) == ("ok", True)
    found = model_checks.check_codebook(codebook, muq, replace(FULL, muq_layer=7))
    assert (found.status, "fitted on layer 6" in found.found) == ("FAIL", True)
    (muq.path / "model.safetensors").write_bytes(b"other weights")
    found = model_checks.check_codebook(codebook, muq, FULL)
    assert (found.status, "another MuQ (mine)" in found.found) == ("FAIL", True)
    assert "fit_codebook.py" in found.remedy
    absent = replace(muq, state="missing", path=None)
    assert "MuQ not compared" in model_checks.check_codebook(codebook, absent, FULL).found


def test_a_damaged_codebook_fails_and_one_that_is_to_be_fitted_warns(fitted, tmp_path, monkeypatch):
    muq, codebook = fitted
    (codebook.path / "config.json").write_text("{")
    assert model_checks.check_codebook(codebook, muq, FULL).status == "FAIL"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codebook").rename(tmp_path / "elsewhere")
    absent = look_up(ModelNeed(stage="codebook", name="codebook"))
    found = model_checks.check_codebook(absent, muq, FULL)
    assert (found.status, found.remedy.startswith("python jobs/fit_codebook.py")) == ("warn", True)
    (tmp_path / "codebook").mkdir()
    in_part = look_up(ModelNeed(stage="codebook", name="codebook"))
    assert model_checks.check_codebook(in_part, muq, FULL).status == "FAIL"


def test_the_hub_is_asked_only_where_something_is_missing(test_hub, monkeypatch):
    test_hub.use_here(monkeypatch)
    here = complete("muq", Path("/here"))
    assert "not asked" in model_checks.check_hub([here]).found
    assert test_hub.hub.requests == []
    missing = ModelState(need=ModelNeed(stage="muq", name="OpenMuQ/x"), state="missing")
    found = model_checks.check_hub([here, missing])
    assert (found.status, "answers after" in found.found) == ("ok", True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        found = model_checks.check_hub([missing])
    assert found.status == "warn"
    assert f"{address} cannot be reached: " in found.found
    assert "HTTPS_PROXY" in found.remedy
    assert "<" not in found.found  # no object of a library
    test_hub.go_offline(monkeypatch)
    assert "HF_HUB_OFFLINE" in model_checks.check_hub([missing]).found


def test_what_the_hub_s_library_reads(monkeypatch, tmp_path):
    monkeypatch.setattr(model_checks, "hub_cache", lambda: tmp_path / "hub")
    found = model_checks.check_hub_settings({"HF_HOME": str(tmp_path), "HF_TOKEN": "secret"})
    assert (found.status, f"HF_HOME={tmp_path}" in found.found) == ("ok", True)
    assert "secret" not in found.text
    found = model_checks.check_hub_settings({"HF_ENDPOINT": "mirror.example"})
    assert (found.status, found.remedy) == ("FAIL", "export HF_ENDPOINT=https://mirror.example")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert model_checks.check_hub_settings({}).status == "warn"
