"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for a hub must fail at once, not hang

pytest_plugins = ["tests.hub.plugin"]  # a model hub on loopback

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference numbers and songs beside the checkout, or skip the test where it is missing."""
    if not (SHARED / "design.md").exists():
        pytest.skip(f"no reference data: {SHARED} is missing")
    return SHARED
