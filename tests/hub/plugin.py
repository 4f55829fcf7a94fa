"""Fixtures: a model hub on loopback, empty, or with the repositories of profile `full`."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .published_models import REPOSITORIES, PublishedModels
from .server import Hub, HubServer

_OF_THE_USER = (
    *("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"),
    *("HF_HUB_ENABLE_HF_TRANSFER", "TRANSFORMERS_OFFLINE"),
)


@dataclass(frozen=True, slots=True)
class LoopbackHub:
    """A hub that serves, and a cache of its own to download into."""

    hub: Hub
    home: Path  # HF_HOME

    @property
    def cache(self) -> Path:
        """Where huggingface_hub puts what it downloads."""
        return self.home / "hub"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for a command that is to use this hub, and nothing of the user's own."""
        changed = {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return {name: value for name, value in os.environ.items() if name not in _OF_THE_USER} | changed

    def use_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let huggingface_hub use this hub in the test's own process: it has read its environment long ago."""
        from huggingface_hub import constants, file_download
        from huggingface_hub.utils import reset_sessions

        monkeypatch.setattr(constants, "ENDPOINT", self.hub.endpoint)
        template = f"{self.hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(self.home / "token"))
        for name in _OF_THE_USER:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        reset_sessions()  # those of an offline process refuse every request

    def go_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with HF_HUB_OFFLINE=1."""
        from huggingface_hub import constants
        from huggingface_hub.utils import reset_sessions

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        reset_sessions()


@pytest.fixture(scope="session")
def published_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublishedModels]:
    """Return the repositories of profile `full`, each built on first use and kept for the session."""
    folder = tmp_path_factory.mktemp("published")
    yield PublishedModels(folder)
    shutil.rmtree(folder)  # too large to be kept, as the folders of the last sessions are


@pytest.fixture
def test_hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """Start an empty hub; a test that touches a file which nobody should ask for fails at its end."""
    from huggingface_hub.utils import reset_sessions

    server, home = HubServer(), tmp_path / "hf-home"
    server.start()
    yield LoopbackHub(server.hub, home)
    server.stop()
    reset_sessions()
    shutil.rmtree(home, ignore_errors=True)
    assert not server.hub.touched_stand_ins(), "files that no stage reads were asked for"


@pytest.fixture
def full_hub(test_hub: LoopbackHub, published_models: PublishedModels) -> LoopbackHub:
    """Return a hub with all repositories of profile `full`; about a minute and 3 GB the first time."""
    test_hub.hub.add(*(published_models.repository(name) for name in REPOSITORIES))
    return test_hub
