"""The arrows between folders, where heavy packages may be imported, and names that must not hide a library's."""

import ast
import importlib.metadata
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipeline", "model", "shards", "jobs")
ALLOWED = {
    "shards": {"shards"},
    "pipeline": {"pipeline", "shards"},
    "model": {"model", "shards"},
    "jobs": {"jobs", "pipeline", "model", "shards"},
}
ONLY_IN = {"ray": {"jobs/cluster.py"}, "deepspeed": {"model/engine.py"}}
NOT_AT_IMPORT = {"demucs", "whisperx", "muq", "faster_whisper", "ctranslate2"}  # seconds and gigabytes: in setup() only
NOT_IN_SHARDS = {"torch", "librosa", "transformers"}


def _imports(path: Path) -> list[tuple[str, int, bool]]:
    """Return (module, line, whether it runs when the file is imported)."""
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
            found.append((node.module or "", node.lineno, id(node) not in deferred))
    return found


def _sources() -> list[tuple[str, Path]]:
    return [(folder, path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_arrows_point_one_way():
    wrong = []
    for folder, path in _sources():
        for module, line, _ in _imports(path):
            top = module.split(".")[0]
            if top in FOLDERS and top not in ALLOWED[folder]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {folder} must not import {top}")
            if folder == "shards" and top in NOT_IN_SHARDS:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: shards must not import {top}")
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
        for folder, path in _sources()
        for module, line, runs_at_import in _imports(path)
        if runs_at_import and module.split(".")[0] in NOT_AT_IMPORT and path.parent.name != "miniature_training"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_hides_a_library():
    """`python model/train.py` puts model/ first on the path: model/logging.py would replace the real one."""
    libraries = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    own = {*FOLDERS, "__init__", "__main__"}
    hiding = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).glob("*")
        if path.suffix in ("", ".py") and path.stem in libraries - own
    ]
    assert not hiding, f"these hide a library of the same name: {hiding}"
