"""GPUs that are there, hidden, unusable, old or small, against what the stages take."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from jobs.checks import gpus
from pipeline.model_files.profiles import get_profile
from tests.jobs.checks.fakes import GB, FakeGpu, give_gpus

FULL, MINIATURE = get_profile("full"), get_profile("miniature")


def gpu_findings(**settings):
    return gpus.check_gpus(settings.pop("profile", FULL), **{"num_wanted": None, "num_languages": 1} | settings)


def test_no_gpu_is_a_warning_for_full_models_and_fine_for_miniatures(monkeypatch):
    give_gpus(monkeypatch)
    (found,) = gpu_findings()
    assert (found.status, found.name) == ("warn", "GPU")
    assert "--profile miniature" in found.remedy
    (found,) = gpu_findings(profile=MINIATURE)
    assert found.status == "ok"


def test_a_container_without_its_gpus_is_told_apart_from_a_machine_without(monkeypatch):
    give_gpus(monkeypatch)
    monkeypatch.setattr(gpus, "read_driver", lambda: SimpleNamespace(gpus=(), version="535.104"))
    (found,) = gpu_findings()
    assert "driver 535.104 is loaded" in found.found
    assert "--gpus all" in found.found


def test_fewer_gpus_than_wanted_fail(monkeypatch):
    give_gpus(monkeypatch, FakeGpu(), FakeGpu())
    (found,) = gpu_findings(num_wanted=4)
    assert (found.status, found.found, found.needed) == ("FAIL", "2 found", "4 (--gpus)")
    assert gpu_findings(num_wanted=2)[0].status == "ok"


def test_a_gpu_that_pytorch_cannot_use_fails_with_its_reason(monkeypatch):
    give_gpus(
        monkeypatch,
        FakeGpu(),
        unusable="NVIDIA A100 cannot be used: driver 450; update the driver, or use --device cpu",
    )
    (found,) = gpu_findings()
    assert (found.status, found.found) == ("FAIL", "NVIDIA A100 cannot be used: driver 450")
    assert found.remedy == "update the driver, or use --device cpu"


def test_hidden_gpus_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    give_gpus(monkeypatch, FakeGpu(), FakeGpu(), visible=1)
    assert "1 of 2 visible: CUDA_VISIBLE_DEVICES='0'" in gpu_findings()[0].found
    give_gpus(monkeypatch, FakeGpu(), visible=0)
    assert "1 hidden by CUDA_VISIBLE_DEVICES" in gpu_findings()[0].found


def test_equal_gpus_are_one_line_and_each_job_has_one(monkeypatch):
    give_gpus(monkeypatch, *[FakeGpu()] * 8)
    what, cleaning, extraction = gpu_findings()
    assert what.found == "8 x NVIDIA A100 (85.0 GB, compute capability 8.0, driver 550.54)"
    assert {what.status, cleaning.status, extraction.status} == {"ok"}
    assert "for 2 workers a GPU" in cleaning.found


def test_a_gpu_with_room_for_one_worker_says_how_many(monkeypatch):
    each = gpus.bytes_per_worker("extraction", FULL, 1)
    give_gpus(monkeypatch, *[FakeGpu(memory_bytes=each + GB)] * 3)
    extraction = gpu_findings()[-1]
    assert (extraction.status, extraction.remedy) == ("warn", "python jobs/extract_tokens.py --workers 3")
    give_gpus(monkeypatch, FakeGpu(memory_bytes=each - GB))
    assert gpu_findings()[-1].status == "FAIL"


def test_an_old_gpu_fails_and_one_without_bfloat16_warns(monkeypatch):
    give_gpus(monkeypatch, FakeGpu(compute_capability=(6, 1)))
    assert gpu_findings()[0].status == "FAIL"
    give_gpus(monkeypatch, FakeGpu(compute_capability=(7, 5)))
    found = gpu_findings()[0]
    assert found.status == "warn"
    assert "bfloat16" in found.needed
    give_gpus(monkeypatch, FakeGpu(compute_capability=None, memory_bytes=None))
    assert [item.status for item in gpu_findings()] == ["ok", "warn", "warn"]


def test_a_worker_takes_all_weights_and_the_largest_working_set():
    weights = sum(stage.weight_bytes for stage in gpus.STAGES.values() if stage.job == "extraction")
    largest = gpus.STAGES["muq"].part_bytes * FULL.gpu_batch
    assert largest > gpus.STAGES["vae"].part_bytes * FULL.vae_gpu_batch
    expected = gpus.CONTEXT_BYTES + gpus.SPARE * (weights + largest)
    assert gpus.bytes_per_worker("extraction", FULL, 1) == pytest.approx(expected, abs=1)
    more = gpus.bytes_per_worker("extraction", replace(FULL, vae_gpu_batch=8), 1)
    assert more - expected == pytest.approx(gpus.SPARE * (8 * gpus.STAGES["vae"].part_bytes - largest), abs=2)
    one, two, three = (gpus.bytes_per_worker("cleaning", FULL, n) for n in (1, 2, 3))
    assert two - one == pytest.approx(gpus.SPARE * gpus.STAGES["aligner"].weight_bytes, abs=2)
    assert three == two  # no more aligners than `pipeline.alignment.by_language.MAX_LOADED` stay loaded
    assert gpus.bytes_per_worker("cleaning", MINIATURE, 1) < one / 5
