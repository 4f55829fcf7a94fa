"""The arrows between folders, where heavy packages may be imported, and names that must not hide a library's."""

import ast
import functools
import importlib.metadata
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Who may import whom: folders by their path, files at the root of a package by the package's own name. A package's
# own files are always allowed; a row is broken by an import that it does not list.
TOP = {
    "shards": (),
    "pipeline": ("shards",),
    "model": ("shards",),
    "jobs": ("pipeline", "model", "shards"),
}
ROOMS = {
    # records that steps exchange, the contract of a step, opening of input files
    "pipeline": (),
    "pipeline/audio": ("pipeline",),
    "pipeline/model_files": (),
    "pipeline/lyrics": ("pipeline",),
    "pipeline/catalogue": ("pipeline/audio", "pipeline/lyrics", "pipeline"),
    "pipeline/lyric_formats": ("pipeline/lyrics", "pipeline"),
    "pipeline/phonemes": ("pipeline/model_files", "pipeline/lyric_formats", "pipeline/lyrics", "pipeline"),
    "pipeline/separation": ("pipeline/audio", "pipeline/model_files", "pipeline"),
    "pipeline/transcription": ("pipeline/audio", "pipeline/model_files", "pipeline/lyrics", "pipeline"),
    "pipeline/alignment": (
        "pipeline/audio", "pipeline/model_files", "pipeline/phonemes", "pipeline/lyrics", "pipeline",
    ),
    "pipeline/verification": ("pipeline/transcription", "pipeline/alignment", "pipeline/lyrics", "pipeline"),
    "pipeline/cleaning": (
        "pipeline/audio", "pipeline/model_files", "pipeline/lyrics", "pipeline/catalogue", "pipeline/lyric_formats",
        "pipeline/separation", "pipeline/transcription", "pipeline/alignment", "pipeline/verification", "pipeline",
    ),
    "pipeline/encoding": (
        "pipeline/audio", "pipeline/model_files", "pipeline/lyrics", "pipeline/catalogue", "pipeline/lyric_formats",
        "pipeline/phonemes", "pipeline",
    ),
    "pipeline/miniatures": (
        "pipeline/audio", "pipeline/model_files", "pipeline/separation", "pipeline/encoding", "pipeline",
    ),
    "model/network": (),
    "model/settings": ("model/network",),
    "model/data": ("model/settings", "model/network"),
    "model/weights": ("model/settings", "model/network"),
    "model/sampling": ("model/network",),
    "model/training": ("model/data", "model/sampling", "model/weights", "model/settings", "model/network"),
}  # fmt: skip
# Commands and measurements at a package's root may import anything of it.
_COMMANDS = {
    "pipeline": "bench bench_encodings bench_lyrics encoding_texts letter_table measure_aligner parity",
    "model": "convert fixture overfit parity train",
}
ENTRIES = {f"{package}/{name}.py" for package, names in _COMMANDS.items() for name in names.split()}
ONLY_IN = {"ray": {"jobs/cluster.py"}, "deepspeed": {"model/training/engine.py"}}
NOT_AT_IMPORT = {"demucs", "whisperx", "muq", "faster_whisper", "ctranslate2"}  # seconds and gigabytes: in setup() only
NOT_IN_SHARDS = {"torch", "librosa", "transformers"}


@functools.cache
def _imports(path: Path) -> list[tuple[str, int, bool]]:
    """Return (module, line, whether it runs when the file is imported); of `from folder import file`, the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) not in deferred) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            module = node.module or ""
            files = [f"{module}.{alias.name}" for alias in node.names if _room(f"{module}.{alias.name}")]
            found += [(name, node.lineno, id(node) not in deferred) for name in files or [module]]
    return found


def _sources() -> list[tuple[str, Path]]:
    return [(package, path) for package in TOP for path in sorted((ROOT / package).rglob("*.py"))]


def _room(module: str) -> str:
    """Return the folder whose row of the table a module of ours belongs to; "" where there is no such file."""
    path = ROOT.joinpath(*module.split("."))
    if not (path.with_suffix(".py").exists() or (path / "__init__.py").exists()):
        return ""
    folders = module.split(".")[: -1 if path.with_suffix(".py").exists() else None]
    return "/".join(folders[:2])


def test_arrows_between_packages_point_one_way():
    wrong = []
    for package, path in _sources():
        for module, line, _ in _imports(path):
            top = module.split(".")[0]
            if top in TOP and top not in (package, *TOP[package]):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {package} must not import {top}")
            if package == "shards" and top in NOT_IN_SHARDS:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: shards must not import {top}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_a_row():
    found = {
        "/".join(path.relative_to(ROOT).parts[:2])
        for package, path in _sources()
        if len(path.parts) > len(ROOT.parts) + 2
    }
    rooms = {room for room in found if room.split("/")[0] in ("pipeline", "model")} - {"model/bench"}
    assert rooms == set(ROOMS) - {"pipeline"}


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_between_folders_point_one_way(room: str):
    wrong = []
    paths = (ROOT / room).glob("*.py") if room == "pipeline" else (ROOT / room).rglob("*.py")
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        for module, line, _ in [] if name in ENTRIES else _imports(path):
            to = _room(module)
            if to.split("/")[0] == room.split("/")[0] and to not in (room, *ROOMS[room]):
                wrong.append(f"{name}:{line}: imports {module}; the row of {room} allows {ROOMS[room]}, not {to}")
    assert not wrong, "\n".join(wrong)


def test_engines_are_imported_in_one_place():
    wrong = []
    for _, path in _sources():
        name = path.relative_to(ROOT).as_posix()
        for module, line, _ in _imports(path):
            top = module.split(".")[0]
            if name not in ONLY_IN.get(top, {name}):
                wrong.append(f"{name}:{line}: {top} belongs in {', '.join(ONLY_IN[top])}")
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_load_when_a_stage_is_set_up():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: import {module} inside setup()"
        for _, path in _sources()
        for module, line, runs_at_import in _imports(path)
        if runs_at_import
        and module.split(".")[0] in NOT_AT_IMPORT
        and path.parent != ROOT / "pipeline" / "miniatures" / "training"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_hides_a_library():
    """`python model/train.py` puts model/ first on the path: model/logging.py would replace the real one."""
    libraries = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    own = {*TOP, "__init__", "__main__"}
    hiding = [
        str(path.relative_to(ROOT))
        for package in TOP
        for path in (ROOT / package).glob("*")
        if path.suffix in ("", ".py") and path.stem in libraries - own
    ]
    assert not hiding, f"these hide a library of the same name: {hiding}"
