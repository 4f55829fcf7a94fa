"""Tests of jobs/decode_samples.py: samples are heard once, where the run shows its numbers; a miniature VAE."""

import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs import decode_samples
from jobs.decode_samples import main
from model.training.boards import WANDB_NAME, WANDB_STEP_NAME
from pipeline.input_file import InputError

CHANNELS = 64


def write_sample(run: Path, step: int, key: str, num_frames: int = 10, channels: int = CHANNELS) -> Path:
    path = run / f"samples/step_{step:06d}/{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    latents = torch.randn(num_frames, channels, generator=torch.Generator().manual_seed(step))
    tokens = torch.zeros(num_frames, dtype=torch.int64)
    save_file({"semantic_tokens": tokens, "latents": latents}, path, {"ended": "eos"})
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with two songs at two steps and a board."""
    run = tmp_path / "run"
    for step in (200, 1000):
        for key in ("one", "two"):
            write_sample(run, step, key)
    (run / "tensorboard").mkdir()
    return run


def decode(run: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[dict[str, Any], int]:
    monkeypatch.setattr("sys.argv", ["decode_samples.py", "--run", str(run), "--profile", "miniature", *options])
    return main()


def read_events(run: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(run / "tensorboard/samples"))
    events.Reload()
    return {tag: events.Audio(tag) for tag in events.Tags()["audio"]}


class FakeWandb(SimpleNamespace):
    """Keeps what it is told, and takes rising steps only."""

    def __init__(self) -> None:
        super().__init__(opened=[], logged=[], finished=0, steps={})

    def init(self, **options: Any) -> "FakeWandb":
        self.opened.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        run_id = self.opened[-1]["id"]
        assert step > self.steps.get(run_id, -1), "W&B ignores the rest"
        self.steps[run_id] = step
        self.logged.append((run_id, step, values))

    def finish(self) -> None:
        self.finished += 1

    @staticmethod
    def Audio(path: str, caption: str) -> tuple[str, str]:  # noqa: N802 - W&B's name
        assert Path(path).is_file()
        return Path(path).name, caption


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_samples_are_heard_at_their_steps(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals, code = decode(run_folder, monkeypatch)
    assert (code, totals["decoded"], totals["boards"]) == (0, 4, ["TensorBoard"])
    shown = read_events(run_folder)
    assert sorted(shown) == ["samples/one", "samples/two"]
    for step in (200, 1000):
        audio, rate = soundfile.read(run_folder / f"samples/step_{step:06d}/one.flac", dtype="int16")
        assert (audio.shape, rate) == ((10 * 1920, 2), 48_000)
        assert np.abs(audio).max() > 0
        (event,) = [event for event in shown["samples/one"] if event.step == step]
        assert event.sample_rate == 48_000
        heard, _ = soundfile.read(io.BytesIO(event.encoded_audio_string), dtype="int16")
        assert np.array_equal(heard, audio)


def test_nothing_is_done_twice_and_what_was_killed_goes_on(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, wandb: FakeWandb
) -> None:
    (run_folder / WANDB_NAME).write_text(json.dumps({"project": "songs", "id": "abc", "name": "run"}))
    decode(run_folder, monkeypatch)
    files = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.*") if path.name != decode_samples.LOCK}
    assert [(run, step) for run, step, _ in wandb.logged] == [("abc-samples", 200), ("abc-samples", 1000)]
    assert wandb.logged[0][2] == {"samples/one": ("one.flac", "one"), "samples/two": ("two.flac", "two")}
    assert wandb.opened[0]["group"] == "abc"
    assert wandb.finished == 1
    totals, _ = decode(run_folder, monkeypatch)
    assert totals["decoded"] == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len(wandb.logged) == 2

    gone = run_folder / "samples/step_001000/two.flac"  # as if killed before it, or before the boards had it
    gone.unlink()
    (run_folder / "tensorboard/samples/events.out.tfevents.000000001000.samples").unlink()
    (run_folder / f"samples/{WANDB_STEP_NAME}").write_text("200")
    wandb.steps.clear()
    totals, _ = decode(run_folder, monkeypatch)
    assert totals["decoded"] == 1
    assert wandb.logged[2][1] == 1000
    assert [event.step for event in read_events(run_folder)["samples/two"]] == [200, 1000]
    assert not [path for path in run_folder.rglob(".*") if path.name != decode_samples.LOCK]


def test_a_step_that_a_resumed_run_wrote_anew_is_heard_anew(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(run_folder, monkeypatch)
    before = read_events(run_folder)["samples/one"]
    shutil.rmtree(run_folder / "samples/step_001000")
    write_sample(run_folder, 1000, "one", num_frames=12)
    decode(run_folder, monkeypatch)
    after = read_events(run_folder)["samples/one"]
    assert [event.step for event in after] == [200, 1000]
    assert after[0] == before[0]
    assert after[1].length_frames == 12 * 1920


def test_samples_that_are_no_use_are_named_and_the_rest_is_decoded(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(run_folder, 1000, "silent", num_frames=0)
    damaged = run_folder / "samples/step_000200/one.safetensors"
    damaged.write_bytes(b"\x00" * 40)
    save_file({"latents": torch.full((3, CHANNELS), torch.nan)}, run_folder / "samples/step_000200/two.safetensors")
    totals, code = decode(run_folder, monkeypatch)
    assert (code, totals["decoded"], totals["ended_at_once"]) == (1, 2, 1)
    assert sorted(Path(path).name for path in totals["failed"]) == ["one.safetensors", "two.safetensors"]
    assert "not finite" in totals["failed"][str(run_folder / "samples/step_000200/two.safetensors")]
    assert [event.step for event in read_events(run_folder)["samples/two"]] == [1000]


def test_boards_that_are_not_installed_are_told(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (run_folder / WANDB_NAME).write_text(json.dumps({"project": "songs", "id": "abc", "name": "run"}))
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    totals, code = decode(run_folder, monkeypatch)
    assert (code, totals["decoded"], totals["boards"]) == (0, 4, [])
    for name in ("wandb", "tensorboard"):
        assert f"but {name} is not installed here, so samples do not get there" in caplog.text
    monkeypatch.undo()
    totals, _ = decode(run_folder, monkeypatch)
    assert totals["decoded"] == 0
    assert len(read_events(run_folder)["samples/one"]) == 2, "later, where it is installed"


def test_watching_takes_what_comes_and_ends_by_a_signal(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = run_folder / "samples/step_002000/one.flac"

    def write_and_stop() -> None:
        while not (run_folder / "tensorboard/samples/events.out.tfevents.000000001000.samples").exists():
            time.sleep(0.01)
        write_sample(run_folder, 2000, "one")
        while not late.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    writer = threading.Thread(target=write_and_stop)
    writer.start()
    totals, code = decode(run_folder, monkeypatch, "--watch", "--every", "0.05")
    writer.join()
    assert (code, totals["decoded"]) == (0, 5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_wrong_use_is_one_line_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such folder; expected that of a training run"):
        decode(tmp_path / "none", monkeypatch)
    with pytest.raises(InputError, match="no samples in it; the run writes some with report.samples_every"):
        decode(tmp_path, monkeypatch)
    write_sample(tmp_path, 100, "one", channels=3)
    with pytest.raises(InputError, match="latents of 3 channels, but the VAE has 64; name with --vae the one"):
        decode(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="--every 0.0: expected more than 0 seconds"):
        decode(tmp_path, monkeypatch, "--every", "0")
