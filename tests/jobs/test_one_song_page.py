"""jobs/ONE_SONG.md names functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`([a-z_/]+\.py): (\w+)`", (ROOT / "jobs" / "ONE_SONG.md").read_text(encoding="utf-8"))


def test_the_page_names_every_step():
    assert len(NAMED) >= 25


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_step_is_where_the_page_says(path: str, name: str):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined, f"{path} defines {sorted(defined)}"
