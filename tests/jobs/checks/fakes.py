"""What takes the place of GPUs, of a cluster and of songs in the tests of the checks."""

import wave
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.checks import gpus

GB = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeGpu:
    """What `model.training.hardware.read_gpus` says of a GPU."""

    name: str = "NVIDIA A100"
    memory_bytes: int | None = 85 * GB
    compute_capability: tuple[int, int] | None = (8, 0)
    driver: str = "550.54"


def give_gpus(
    monkeypatch: pytest.MonkeyPatch, *cards: FakeGpu, visible: int | None = None, unusable: str | None = None
) -> None:
    """Let this machine have some GPUs, of which PyTorch sees all or `visible`, or none for a reason."""
    from model.training import hardware

    monkeypatch.setattr(gpus, "read_driver", lambda: SimpleNamespace(gpus=cards, version="550.54" if cards else ""))
    monkeypatch.setattr(gpus, "count_visible_gpus", lambda: len(cards) if visible is None else visible)
    monkeypatch.setattr(hardware, "read_gpus", lambda: list(cards))
    monkeypatch.setattr(hardware, "explain_unusable_gpu", lambda: unusable)


def write_song(path: Path, seconds: float = 2.0) -> Path:
    """Write a wave file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\1\2" * round(8000 * seconds))
    return path


class Cluster:
    """Nodes in place of a Ray: each runs what it is sent, and may see another folder in place of the driver's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str, elsewhere: tuple[str, ...] = ()) -> None:
        self._names, self._elsewhere, self._patch = names, elsewhere, monkeypatch

    def __call__(self, function):
        results = {}
        for name in self._names:
            with self._patch.context() as patch:
                if name in self._elsewhere:
                    patch.setattr(Path, "read_bytes", _read_elsewhere)
                results[name] = function()
        return results


def _read_elsewhere(path: Path) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", str(path))
