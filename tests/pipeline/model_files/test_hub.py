"""Downloads from a hub: what is asked for, what a fault looks like to a user, and what is in the cache afterwards."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from pipeline.model_files.errors import ModelFileError, ModelNotFoundError
from pipeline.model_files.hub import HubName, RemoteFile, list_remote
from pipeline.model_files.names import resolve_model
from tests.hub.plugin import LoopbackHub
from tests.hub.published_models import ALIGNER_DE as GERMAN
from tests.hub.published_models import ALIGNER_EN as ENGLISH
from tests.hub.published_models import MUQ, SEPARATOR, VAE, WHISPER_BASE
from tests.hub.published_models import WHISPER_LARGE as WHISPER
from tests.hub.server import Content, Hub, Repository, StandIn

WEIGHTS = b"weights" * 1_000
NOBODY_READS = StandIn(9)


def config(name: str) -> bytes:
    return f'{{"of": "{name}"}}'.encode()  # every one another: files of the same content are fetched once


SMALL: dict[str, dict[str, Content]] = {
    MUQ: {
        "README.md": NOBODY_READS,
        "config.json": config("muq"),
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": NOBODY_READS,
    },
    SEPARATOR: {
        "955717e8.json": NOBODY_READS,
        "955717e8.safetensors": WEIGHTS,
        "htdemucs.yaml": b"models: ['955717e8']\n",
    },
    VAE: {
        "autoencoder_music_dsp1920.ckpt": WEIGHTS,
        "songbloom_full_150s.pt": StandIn(7_490_000_000),
        "songbloom_full_150s.yaml": NOBODY_READS,
        "stable_audio_1920_vae.json": config("vae"),
        "vocab_g2p.yaml": NOBODY_READS,
    },
    ENGLISH: {
        "config.json": config("aligner"),
        "model.safetensors": WEIGHTS,
        "preprocessor_config.json": config("preprocessor"),
        "pytorch_model.bin": NOBODY_READS,
        "tf_model.h5": NOBODY_READS,
        "tokenizer_config.json": NOBODY_READS,
        "vocab.json": config("vocab"),
    },
    GERMAN: {
        "config.json": config("aligner"),
        "flax_model.msgpack": NOBODY_READS,
        "preprocessor_config.json": config("preprocessor"),
        "pytorch_model.bin": WEIGHTS,
        "vocab.json": config("vocab"),
    },
    WHISPER: {
        "config.json": config("whisper"),
        "model.bin": WEIGHTS,
        "preprocessor_config.json": config("preprocessor"),
        "tokenizer.json": config("tokenizer"),
        "vocabulary.json": b"[]",
    },
    WHISPER_BASE: {
        "config.json": config("whisper"),
        "model.bin": WEIGHTS,
        "tokenizer.json": config("tokenizer"),
        "vocabulary.txt": b"a\n",
    },
}


@pytest.fixture
def here(test_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The hub with small repositories, for this process; the user's cache is empty."""
    test_hub.hub.add(*(Repository(name, files) for name, files in SMALL.items()))
    test_hub.use_here(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return test_hub


@pytest.fixture
def hub(here: LoopbackHub) -> Hub:
    return here.hub


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library try again at once: it waits 23 s in all."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def refused(name: str = MUQ, stage: str = "muq", error: type[Exception] = ModelNotFoundError) -> str:
    """Return the one line that a user sees."""
    with pytest.raises(error) as raised:
        resolve_model(name, stage)
    message = str(raised.value)
    assert "\n" not in message
    assert name in message
    return message


# ---- what is asked for


@pytest.mark.parametrize(
    ("name", "stage", "repository"),
    [
        (MUQ, "muq", MUQ),
        ("htdemucs", "separator", SEPARATOR),
        (VAE, "vae", VAE),
        ("wav2vec2-en", "aligner", ENGLISH),
        ("wav2vec2-de", "aligner", GERMAN),
        ("large-v3", "asr", WHISPER),
        ("base", "verifier", WHISPER_BASE),
    ],
)
def test_what_a_stage_reads_is_downloaded_once_and_nothing_else(
    here: LoopbackHub, monkeypatch: pytest.MonkeyPatch, name: str, stage: str, repository: str
) -> None:
    path = resolve_model(name, stage)
    wanted = {file: content for file, content in SMALL[repository].items() if isinstance(content, bytes)}
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == wanted
    assert sorted(here.hub.fetched()) == sorted(wanted)
    assert path.parents[2] == here.cache
    num_requests = len(here.hub.requests)
    assert resolve_model(name, stage) == path
    here.go_offline(monkeypatch)
    assert resolve_model(name, stage, may_download=False) == path
    assert len(here.hub.requests) == num_requests


def test_the_weights_come_last(hub: Hub) -> None:
    """A download that ends early leaves no folder that has its weights and lacks what tells how to read them."""
    resolve_model(VAE, "vae")
    assert hub.fetched() == ["stable_audio_1920_vae.json", "autoencoder_music_dsp1920.ckpt"]


@pytest.mark.parametrize("config", ["vae.json", "config.json", "stable_audio_1920_vae.json", None])
def test_one_file_of_a_repository_comes_with_its_config(hub: Hub, config: str | None) -> None:
    files: dict[str, Content] = {"deep/vae.ckpt": WEIGHTS, "deep/other.ckpt": StandIn(9), "config.json": StandIn(9)}
    hub.add(Repository("owner/songs", files | ({f"deep/{config}": b"{}"} if config else {})))
    path = resolve_model("owner/songs/deep/vae.ckpt", "vae")
    assert path.read_bytes() == WEIGHTS
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted(["vae.ckpt", *([config] if config else [])])


def test_a_hub_says_size_hash_and_licence(hub: Hub) -> None:
    hub.add(Repository(MUQ, SMALL[MUQ] | {"config.json": b"{}"}, licence="cc-by-nc-4.0"))
    remote = list_remote(HubName(MUQ), "muq")
    assert remote.licence == "cc-by-nc-4.0"
    assert remote.commit == hub.repositories[MUQ].commit
    config, weights = remote.files
    assert config == RemoteFile("config.json", 2, "", "9e26dfeeb6e641a33dae4961196235bdb965b21b")  # as git has it
    assert (weights.num_bytes, len(weights.sha256), weights.git_sha1) == (7_000, 64, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", HubName("a/b")),
        ("a/b/c/d.ckpt", HubName("a/b", "c/d.ckpt")),
        *((text, None) for text in ("a", "/a/b", "./a/b", "../a", "~/a/b", "a//b", "a/b/../c", "a/b/c//d", "a/b/c\0")),
    ],
)
def test_names_of_a_hub(text: str, expected: HubName | None) -> None:
    assert HubName.parse(text) == expected


def test_the_environment_is_all_that_a_command_needs(test_hub: LoopbackHub, tmp_path: Path) -> None:
    test_hub.hub.add(Repository(VAE, SMALL[VAE]))
    code = f"from pipeline.model_files.names import resolve_model; print(resolve_model({VAE!r}, 'vae'))"
    environment = test_hub.environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    paths = []
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=True,
        )
        paths.append(Path(done.stdout.strip()))
    assert paths[0] == paths[1]
    assert sorted(entry.name for entry in paths[0].iterdir()) == [
        "autoencoder_music_dsp1920.ckpt",
        "stable_audio_1920_vae.json",
    ]


# ---- downloads that are cut, and snapshots that are not complete


def test_a_cut_download_goes_on_where_it_stopped(hub: Hub) -> None:
    whole = os.urandom(24 << 20)
    hub.add(Repository(MUQ, SMALL[MUQ] | {"model.safetensors": whole}))
    hub.fail("model.safetensors", method="GET", cut_after=15 << 20, times=1)
    message = refused()
    assert f"hub {hub.endpoint}/{MUQ}" in message
    assert "the download was cut" in message
    assert "run the command again, a download goes on where it stopped" in message
    path = resolve_model(MUQ, "muq")
    assert (path / "model.safetensors").read_bytes() == whole
    assert hub.starts("model.safetensors") == [0, 10 << 20]  # the library writes 10 MiB at once
    assert hub.starts("config.json") == [0]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(here: LoopbackHub) -> None:
    weights = list_remote(HubName(MUQ), "muq").files[1]
    part = here.cache / "models--OpenMuQ--MuQ-large-msd-iter" / "blobs" / f"{weights.sha256}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS + b"more")
    assert (resolve_model(MUQ, "muq") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "stage", "repository", "missing"),
    [
        ("wav2vec2-en", "aligner", ENGLISH, "vocab.json"),
        ("wav2vec2-de", "aligner", GERMAN, "preprocessor_config.json"),
        ("large-v3", "asr", WHISPER, "preprocessor_config.json"),
        (VAE, "vae", VAE, "stable_audio_1920_vae.json"),
        (MUQ, "muq", MUQ, "model.safetensors"),
        ("htdemucs", "separator", SEPARATOR, "955717e8.safetensors"),
    ],
)
def test_a_snapshot_that_is_not_complete(
    here: LoopbackHub, monkeypatch: pytest.MonkeyPatch, name: str, stage: str, repository: str, missing: str
) -> None:
    path = resolve_model(name, stage)
    (path / missing).resolve().unlink()
    (path / missing).unlink()
    del here.hub.requests[:]
    here.go_offline(monkeypatch)
    message = refused(name, stage)
    assert "what is here is not complete" in message
    assert f"{missing} missing" in message or f"*{Path(missing).suffix} missing" in message
    assert "HF_HUB_OFFLINE is set" in message
    here.use_here(monkeypatch)
    assert "nothing is downloaded while a job runs" in str(_not_here(name, stage))
    assert not here.hub.requests
    assert resolve_model(name, stage) == path
    assert (path / missing).read_bytes() == SMALL[repository][missing]
    assert here.hub.fetched() == [missing]


def _not_here(name: str, stage: str) -> ModelNotFoundError:
    with pytest.raises(ModelNotFoundError) as raised:
        resolve_model(name, stage, may_download=False)
    return raised.value


def test_a_repository_that_changes_during_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    download = huggingface_hub.hf_hub_download

    def then_change(*args: object, **kwargs: object) -> str:
        path = download(*args, **kwargs)
        if not kwargs.get("local_files_only"):
            hub.add(Repository(MUQ, SMALL[MUQ] | {"model.safetensors": WEIGHTS + b"new"}))
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", then_change)
    assert "7003 bytes that are not those of the hub" in refused_file()
    assert (resolve_model(MUQ, "muq") / "model.safetensors").read_bytes() == WEIGHTS + b"new"


# ---- bytes


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_refused_and_removed(here: LoopbackHub, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    here.hub.fail(file, method="GET", wrong_bytes=True)
    message = refused_file()
    assert f"{file}: {len(SMALL[MUQ][file])} bytes that are not those of the hub" in message
    assert "it was removed, run the command again" in message
    here.go_offline(monkeypatch)
    assert f"{file}" in refused() or "model.safetensors missing" in refused()
    here.use_here(monkeypatch)
    here.hub.recover()
    assert (resolve_model(MUQ, "muq") / file).read_bytes() == SMALL[MUQ][file]


def refused_file() -> str:
    with pytest.raises(ModelFileError) as raised:
        resolve_model(MUQ, "muq")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_other_ways_to_download_stay_off(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub offers its large files over Xet too, and the package for it is installed."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_ENABLE_HF_TRANSFER", True)
    assert file_download.is_xet_available()
    resolve_model(MUQ, "muq")
    assert not [request for request in hub.requests if "xet" in request.path]
    assert (constants.HF_HUB_DISABLE_XET, constants.HF_HUB_ENABLE_HF_TRANSFER) == (False, True)


def test_a_token_goes_to_the_hub_and_to_nobody_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve_model(MUQ, "muq")
    places = {(request.has_token, "/resolve" in request.path or "/api/" in request.path) for request in hub.requests}
    assert places == {(True, True), (False, False)}


# ---- what a user sees when a hub fails


LIST, SMALL_FILE, LARGE_FILE = "", "config.json", "model.safetensors"


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        (LIST, {"status": 401, "error_code": "RepoNotFound"}, "no such repository, or a private one; check its name"),
        (LIST, {"status": 401}, r"access refused \(401\); set HF_TOKEN to a token that may read it"),
        (LIST, {"status": 403, "error_code": "GatedRepo"}, "gated; accept its terms on that page, then set HF_TOKEN"),
        (LIST, {"status": 404}, r"no such file \(404\); check the model's name"),
        (
            LIST,
            {"status": 429},
            r"the hub asks for fewer requests \(429\); wait some minutes and run the command again",
        ),
        (LIST, {"status": 500}, r"the hub fails \(500\); run the command again later"),
        (LIST, {"body": b"<html>Log in</html>"}, "what answers is no model hub .*; check HF_ENDPOINT and HTTPS_PROXY"),
        (LIST, {"body": b"{}"}, "what answers is no model hub .*; check HF_ENDPOINT and HTTPS_PROXY"),
        (LIST, {"body": b"[]"}, "what answers is no model hub .*; check HF_ENDPOINT and HTTPS_PROXY"),
        (LIST, {"delay_s": 0.5}, "cannot be reached: .*timed out.*; check the network, HTTPS_PROXY or HF_ENDPOINT"),
        (SMALL_FILE, {"status": 403, "error_code": "GatedRepo"}, "gated; accept its terms .* HF_TOKEN"),
        (SMALL_FILE, {"status": 404, "error_code": "EntryNotFound"}, r"no such file \(404\)"),
        (SMALL_FILE, {"status": 429}, r"the hub asks for fewer requests \(429\)"),
        (SMALL_FILE, {"status": 503}, r"the hub fails \(503\)"),
        (SMALL_FILE, {"body": b"<html>Log in</html>"}, "what answers is no model hub"),
        (LARGE_FILE, {"status": 401}, r"access refused \(401\)"),
        (LARGE_FILE, {"status": 502, "method": "HEAD"}, r"the hub fails \(502\)"),
        (LARGE_FILE, {"status": 502, "method": "GET"}, r"the hub fails \(502\)"),
        (LARGE_FILE, {"status": 429, "method": "GET"}, r"the hub asks for fewer requests \(429\)"),
        (
            LARGE_FILE,
            {"cut_after": 100, "method": "GET"},
            "the download was cut: .*; run the command again, a download",
        ),
    ],
)
@pytest.mark.usefixtures("no_waiting")
def test_faults_of_a_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, file: str, fault: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.fail(file, **fault)
    place = f"{hub.endpoint}/{MUQ}{f' ({file})' if file else ''}"
    seen = refused()
    assert re.search(rf"\({re.escape(place)}: {message}", seen), seen
    hub.recover()
    resolve_model(MUQ, "muq")


def test_no_repository_of_that_name(hub: Hub) -> None:
    message = refused("owner/no-such-model")
    assert (
        f"{hub.endpoint}/owner/no-such-model: no such repository, or a private one; check its name, or set HF_TOKEN"
        in message
    )
    assert "(2) give a local path" in message
    assert "no name of a repository" in refused("owner/bad name")


def test_a_repository_of_something_else(hub: Hub) -> None:
    message = refused(GERMAN, "muq")
    assert "model.safetensors missing; expected a model for stage 'muq': check its name" in message
    assert "none.ckpt missing" in refused(f"{VAE}/none.ckpt", "vae")
    assert not hub.fetched()


def test_nothing_listens_there(here: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    message = refused()
    assert f"http://127.0.0.1:1/{MUQ}: cannot be reached: " in message
    assert "Connection refused; check the network, HTTPS_PROXY or HF_ENDPOINT" in message
    monkeypatch.setattr(constants, "ENDPOINT", "127.0.0.1:1")
    assert "what answers is no model hub" in refused()


# ---- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


NO_SPACE = "no space left on the disk of the hub cache"


def test_a_disk_that_is_too_small_is_known_before_the_download(
    hub: Hub, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(Repository(MUQ, SMALL[MUQ] | {"model.safetensors": bytes(2_000_000)}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(small_disk / "hub"))
    message = refused()
    assert f"{NO_SPACE}, 2.0 MB are needed; make room, or set HF_HOME to a folder on another disk" in message
    assert not hub.fetched()


def test_a_disk_that_fills_up_during_the_download(hub: Hub, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(Repository(MUQ, SMALL[MUQ] | {"model.safetensors": bytes(2_000_000)}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(small_disk / "hub"))
    monkeypatch.setattr("pipeline.model_files.hub._require_space", lambda *_: None)
    message = refused()
    assert f"({hub.endpoint}/{MUQ} (model.safetensors): {NO_SPACE}" in message
    assert "set HF_HOME to a folder on another disk" in message


def test_no_space_while_a_file_is_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", fail)
    assert f"{NO_SPACE}, 0.0 MB are needed; make room, or set HF_HOME" in refused()


def test_a_cache_that_cannot_be_written(here: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    message = refused()
    assert "the hub cache cannot be written: " in message
    assert "set HF_HOME to a folder that can" in message
