"""`python jobs/models.py`: what a user sees of the models, offline, with a hub, and with a hub that fails."""

import json
import logging
import sys
from pathlib import Path

import pytest

from jobs import models
from jobs.checks import fetch
from jobs.checks.fetch import NodeModels, NodeRequest, visit_nodes
from jobs.checks.finding import format_bytes
from jobs.checks.model_list import ModelNeed, languages_without_aligner, list_needs, look_up
from pipeline.model_files.hub_repositories import PUBLISHED
from pipeline.model_files.profiles import get_profile
from tests.hub.server import Repository

ROOT = Path(__file__).resolve().parents[2]
WHISPER = {name: f"{name} of a Whisper".encode() for name in ("config.json", "tokenizer.json", "vocabulary.json")}
# Named and laid out as on the hub; a few bytes each, which nobody loads here.
REPOSITORIES = (
    Repository("adefossez/HTDemucs", {"htdemucs.yaml": b"models: ['955717e8']\n", "955717e8.safetensors": b"s" * 3000}),
    Repository(
        "Systran/faster-whisper-large-v3", {**WHISPER, "preprocessor_config.json": b"{}", "model.bin": b"l" * 5000}
    ),
    Repository("Systran/faster-whisper-base", {**WHISPER, "model.bin": b"b" * 4000}),
    Repository(
        "facebook/wav2vec2-base-960h",
        {
            "config.json": b"{}",
            "vocab.json": b"{}",
            "preprocessor_config.json": b"{}",
            "model.safetensors": b"a" * 2000,
        },
        "apache-2.0",
    ),
    Repository("OpenMuQ/MuQ-large-msd-iter", {"config.json": b"{}", "model.safetensors": b"m" * 6000}, "cc-by-nc-4.0"),
    Repository(
        "CypressYang/SongBloom",
        {"autoencoder_music_dsp1920.ckpt": b"v" * 7000, "stable_audio_1920_vae.json": b"{}", "other.pt": b"x"},
        "other",
    ),
)
ADDRESS = "OpenMuQ/MuQ-large-msd-iter"


@pytest.fixture
def hub(test_hub, monkeypatch):
    """A hub with all models of profile full for English, and this process set to use it."""
    test_hub.hub.add(*REPOSITORIES)
    test_hub.use_here(monkeypatch)
    monkeypatch.setattr(models, "count_nodes", lambda: 0)
    return test_hub


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs the command in this process: its totals, its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["models.py", *arguments])
        totals, code = models.main()
        return totals, code, capsys.readouterr().out

    return run


def states_of(totals):
    return {entry["stage"]: entry["state"] for entry in totals["models"]}


def test_a_list_without_network_names_every_model_with_size_and_licence(run, tmp_path):
    done = run(tmp_path, f"python {ROOT}/jobs/models.py list --profile full", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 1, done.stderr  # nothing is here
    *lines, last = done.stdout.splitlines()
    for stage, name in (
        ("separator", "adefossez/HTDemucs"),
        ("asr", "Systran/faster-whisper-large-v3"),
        ("verifier", "Systran/faster-whisper-base"),
        ("aligner en", "facebook/wav2vec2-base-960h"),
        ("aligner zh", "jonatasgrosman/wav2vec2-large-xlsr-53-chinese-zh-cn"),
        ("muq", "OpenMuQ/MuQ-large-msd-iter"),
        ("vae", "CypressYang/SongBloom"),
    ):
        (line,) = (line for line in lines if line.startswith(f"missing  {stage} "))
        assert line.endswith(f"  {name}")
        published = PUBLISHED.get(name)
        assert (f"~{format_bytes(published.num_bytes)}  " if published else "unknown") in line
        assert (published.licence if published else "see its page") in line
    assert any("python jobs/fit_codebook.py" in line for line in lines)
    assert any("HF_HUB_OFFLINE is set" in line for line in lines)
    assert all(len(line) <= 100 for line in lines[:10])
    totals = json.loads(last)
    assert [entry["state"] for entry in totals["models"]] == ["missing"] * 8
    assert totals["models"][1]["address"].endswith("/Systran/faster-whisper-large-v3")
    assert not (tmp_path / "hub").exists()


def test_fetch_brings_everything_and_a_second_run_asks_for_nothing(hub, command):
    totals, code, out = command("fetch", "--languages", "en")
    assert code == 0
    states = states_of(totals)
    assert states.pop("codebook") == "missing"  # it is fitted, not fetched
    assert set(states.values()) == {"complete"}
    assert "complete  muq" in out
    assert "other.pt" not in hub.hub.fetched()
    hub.hub.requests.clear()
    totals, code, out = command("fetch", "--languages", "en")
    assert code == 0
    assert hub.hub.requests == []
    assert out.count("complete") == 6  # one table


def test_a_dry_run_shows_what_the_hub_has_and_fetches_nothing(hub, command):
    totals, code, out = command("fetch", "--dry-run", "--languages", "en")
    assert code == 1
    assert hub.hub.fetched() == []
    assert "~" not in out  # all sizes are the hub's own
    muq = next(entry for entry in totals["models"] if entry["stage"] == "muq")
    assert (muq["bytes"], muq["bytes_are_exact"], muq["licence"]) == (6002, True, "cc-by-nc-4.0")
    assert totals["bytes_to_come"] == sum(entry["bytes"] or 0 for entry in totals["models"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 401, "error_code": "RepoNotFound"}, "no such repository"),
        ({"status": 403, "error_code": "GatedRepo"}, "accept its terms"),
        ({"status": 404, "error_code": "EntryNotFound"}, "check"),
    ],
)
def test_one_model_that_fails_does_not_stop_the_others(hub, command, caplog, fault, message):
    hub.hub.fail("model.safetensors", **fault)
    totals, code, _ = command("fetch", "--only", "separator,muq,vae")
    assert code == 1
    assert states_of(totals) == {"separator": "complete", "muq": "incomplete", "vae": "complete"}
    (line,) = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    for part in ("muq", f"{hub.hub.endpoint}/{ADDRESS}", message):
        assert part in line
    assert "\n" not in line


def test_a_repository_that_is_gone_is_one_line_and_the_others_come(hub, command, caplog):
    del hub.hub.repositories[ADDRESS]
    command("list", "--only", "muq,vae")
    assert ["no such repository" in record.getMessage() for record in caplog.records] == [True]
    caplog.clear()
    totals, code, _ = command("fetch", "--languages", "en", "--only", "muq,vae")
    assert code == 1
    assert states_of(totals) == {"muq": "missing", "vae": "complete"}
    assert totals["missing"] == ["muq"]
    (line,) = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert "no such repository" in line
    assert ADDRESS in line


def test_a_damaged_download_is_removed_and_named(hub, command, caplog):
    hub.hub.fail("model.safetensors", wrong_bytes=True)
    totals, code, _ = command("fetch", "--only", "muq")
    assert code == 1
    assert states_of(totals) == {"muq": "incomplete"}
    assert any("not those of the hub" in record.getMessage() for record in caplog.records)
    hub.hub.recover()
    _, code, out = command("fetch", "--only", "muq")
    assert code == 0
    assert "model.safetensors missing" in out  # the first table says what of it was here


def test_a_disk_without_room_is_found_before_anything_comes(hub, command, caplog, monkeypatch):
    monkeypatch.setattr(models, "free_cache_bytes", lambda: 10_000)
    _, code, _ = command("fetch", "--languages", "en")
    assert code == 1
    assert hub.hub.fetched() == []
    message = caplog.records[-1].getMessage()
    for part in ("are to come", "10 kB are free", "--cache"):
        assert part in message


def test_offline_every_missing_model_is_named_with_its_remedy(hub, command, caplog, monkeypatch):
    hub.go_offline(monkeypatch)
    totals, code, out = command("fetch", "--only", "muq,vae")
    assert code == 1
    assert hub.hub.requests == []
    assert "unset it to fetch" in out
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all("HF_HUB_OFFLINE" in line for line in errors)


def test_another_cache_is_used_and_the_user_told_to_name_it(test_hub, run, tmp_path):
    test_hub.hub.add(*REPOSITORIES)
    done = run(
        tmp_path,
        f"python {ROOT}/jobs/models.py fetch --profile full --only separator,muq --cache there",
        **{name: value for name, value in test_hub.environment.items() if name.startswith(("HF_", "NO_PROXY"))}
        | {"HF_HUB_CACHE": str(tmp_path / "not-there")},
    )
    assert done.returncode == 0, done.stderr
    assert f"export HF_HOME={tmp_path}/there" in done.stderr
    totals = json.loads(done.stdout.splitlines()[-1])
    assert all(entry["path"].startswith(f"{tmp_path}/there/hub/") for entry in totals["models"])
    assert not (tmp_path / "not-there").exists()


def test_lines_say_how_far_a_download_is_where_no_terminal_shows_bars(hub, command, caplog, monkeypatch):
    monkeypatch.setattr(fetch, "PROGRESS_S", 0.05)
    hub.hub.fail("955717e8.safetensors", delay_s=0.3, method="GET")
    caplog.set_level(logging.INFO)
    _, code, _ = command("fetch", "--only", "separator")
    assert code == 0
    lines = [record.getMessage() for record in caplog.records if record.getMessage().endswith("/s")]
    assert lines
    assert lines[0].startswith("adefossez/HTDemucs: ")
    assert " of 3 kB, " in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ftch", "invalid choice"),
        ("fetch --only separater", "did you mean 'separator'?"),
        ("fetch --languages Klingon", "ISO 639-1"),
        ("fetch --only ,", "at least one"),
        ("fetch --profile huge", "profile"),
    ],
)
def test_wrong_use_is_one_line(run, tmp_path, arguments, message):
    done = run(tmp_path, f"python {ROOT}/jobs/models.py {arguments}")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert message in line


def test_models_of_a_profile_by_language():
    full = get_profile("full")
    labels = [need.label for need in list_needs(full, ["en", "zh", "en", "xx"])]
    expected = ["separator", "asr", "verifier", "aligner en", "aligner zh", "muq", "codebook", "vae"]
    assert labels == expected
    assert languages_without_aligner(full, ["en", "xx"]) == ["xx"]
    miniature = list_needs(get_profile("miniature"), ["en", "zh"], ["aligner"])
    assert [need.label for need in miniature] == ["aligner en,zh"]  # one model for both


def test_a_local_path_is_no_hub_name(tmp_path):
    folder = tmp_path / "owner" / "muq"
    folder.mkdir(parents=True)
    state = look_up(ModelNeed(stage="muq", name=str(folder)))
    assert (state.state, state.address, state.is_fetchable) == ("missing", "", False)
    assert "config.json" in state.problem
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"m" * 10)
    state = look_up(ModelNeed(stage="muq", name=str(folder)))
    assert (state.state, state.num_bytes, state.is_exact) == ("complete", 12, True)


@pytest.mark.demo_weights
def test_what_ships_or_installs_with_the_project_has_a_licence():
    by_stage = {need.stage: look_up(need) for need in list_needs(get_profile("miniature"), ["en"])}
    assert {state.state for state in by_stage.values()} == {"complete"}
    assert by_stage["muq"].licence == by_stage["aligner"].licence == "Apache-2.0"


def test_one_machine_starts_no_ray(hub, command, monkeypatch):
    monkeypatch.undo()
    hub.use_here(monkeypatch)
    for name in ("connect", "on_every_node"):
        monkeypatch.setattr(f"jobs.checks.nodes.{name}", lambda *_: pytest.fail("a Ray was asked for"))
    monkeypatch.setattr("jobs.checks.nodes.is_running", lambda: False)
    monkeypatch.setattr(sys, "argv", ["models.py", "list", "--only", "muq"])
    totals, _ = models.main()
    assert totals["nodes"] == {}


class Nodes:
    """Two nodes in place of a cluster: the driver's machine, and one with a cache of its own."""

    def __init__(self, monkeypatch, other_cache):
        from huggingface_hub import constants

        self._own, self._other, self._patch = constants.HF_HUB_CACHE, str(other_cache), monkeypatch
        self.num_calls = 0

    def __call__(self, function):
        self.num_calls += 1
        results = {}
        for node, cache in (("head", self._own), ("worker", self._other)):
            self._patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
            results[node] = function()
        self._patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", self._own)
        return results


def test_every_node_of_a_cluster_gets_the_models(hub, command, monkeypatch, tmp_path):
    nodes = Nodes(monkeypatch, tmp_path / "other")
    monkeypatch.setattr(models, "count_nodes", lambda: 2)
    monkeypatch.setattr(fetch, "on_every_node", nodes)
    totals, code, _ = command("list", "--only", "muq")
    assert code == 1
    assert totals["nodes"]["worker"] == {"shares_cache": False, "missing": ["muq"]}
    totals, code, _ = command("fetch", "--only", "muq")
    assert code == 0
    assert totals["nodes"] == {
        "head": {"shares_cache": True, "missing": []},
        "worker": {"shares_cache": False, "missing": []},
    }
    assert list((tmp_path / "other").rglob("model.safetensors"))
    assert not list(hub.cache.glob(".songbloom-*"))


def test_nodes_that_share_the_cache_fetch_nothing(hub, command, caplog, monkeypatch):
    nodes = Nodes(monkeypatch, hub.cache)
    monkeypatch.setattr(models, "count_nodes", lambda: 2)
    monkeypatch.setattr(fetch, "on_every_node", nodes)
    caplog.set_level(logging.INFO)
    totals, code, _ = command("fetch", "--only", "muq")
    assert code == 0
    assert nodes.num_calls == 1
    assert any("all 2 nodes share" in record.getMessage() for record in caplog.records)


def test_a_node_that_cannot_fetch_makes_the_command_fall_short(hub, monkeypatch, tmp_path):
    need = list_needs(get_profile("full"), [], ["muq"])
    monkeypatch.setattr(fetch, "on_every_node", Nodes(monkeypatch, tmp_path / "other"))
    hub.hub.fail("model.safetensors", status=403, error_code="GatedRepo")
    worker = visit_nodes(need, "", is_dry=False)["worker"]
    assert isinstance(worker, NodeModels)
    assert [state.need.stage for state in worker.missing] == ["muq"]
    assert "accept its terms" in worker.missing[0].problem
    assert NodeRequest(needs=tuple(need), cache="", token="no-such-file").look().shares_cache is False


def test_a_node_that_shares_the_cache_does_not_try_again(hub):
    hub.cache.mkdir(parents=True)
    (hub.cache / "token").write_bytes(b"")
    request = NodeRequest(needs=tuple(list_needs(get_profile("full"), [], ["muq"])), cache="", token="token")
    assert [state.need.stage for state in request.fetch().missing] == ["muq"]
    assert hub.hub.requests == []
