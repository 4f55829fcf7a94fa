"""Tests of jobs/generate.py: which device and precision it takes, and what it says of them; a tiny model."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from jobs.generate import main
from model.network.song_model import SongModel
from model.settings.settings import load_config
from model.training.hardware import DeviceError
from model.training.nvidia_driver import Driver, Gpu
from model.weights.base_weights import load_model
from pipeline.input_file import InputError

SIZES = ("dim=64", "num_heads=1", "lm_layers=1", "dit_layers=1", "ffn_scale=2", "time_features=16", "init_std=0.1")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that never ends a song, lyrics, and 2 s of noise as a prompt."""
    folder = tmp_path_factory.mktemp("workplace")
    config = load_config("miniature.yaml", [f"model.{size}" for size in SIZES])
    torch.manual_seed(0)
    model = SongModel(config.model)
    with torch.no_grad():
        model.semantic_head.classify.bias[-1] = -1e4
    save_file(model.state_dict(), folder / "model.safetensors", {"config": json.dumps(config.to_dict())})
    (folder / "words.txt").write_text("[verse] La la la.")
    soundfile.write(folder / "style.wav", 0.1 * np.random.default_rng(0).standard_normal(96_000), 48_000)
    return folder


def run(workplace: Path, monkeypatch: pytest.MonkeyPatch, *options: str, expected_code: int = 0) -> dict[str, Any]:
    """Run the command as a user does and return its totals."""
    files = ("--checkpoint", "model.safetensors", "--lyrics", "words.txt", "--prompt", "style.wav")
    sampling = ("--seconds", "1.28", "--steps", "2", "--profile", "miniature")
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("sys.argv", ["generate.py", *files, *sampling, *options])
    totals, code = main()
    assert code == expected_code
    return totals


@pytest.fixture
def dtypes(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Of the weights of each model that the command loads."""
    seen: list[torch.dtype] = []

    def watch(*arguments: Any) -> Any:
        model, config = load_model(*arguments)
        seen.extend({parameter.dtype for parameter in model.parameters()})
        return model, config

    monkeypatch.setattr("jobs.generate.load_model", watch)
    return seen


def test_a_cpu_computes_in_float32_unless_told_otherwise(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtypes: list[torch.dtype],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    totals = run(workplace, monkeypatch, "--device", "cpu", "--out", "fp32.wav")
    assert (totals["device"], totals["dtype"]) == ("cpu", "fp32")
    assert dtypes == [torch.float32]
    assert any(line.startswith("steps of writing: one kernel at a time; CUDA") for line in caplog.messages)
    assert f"1 songs to write on the CPU ({torch.get_num_threads()} threads) in fp32" in caplog.messages
    assert any(line.startswith("attention: each song by itself") for line in caplog.messages)


def test_the_same_seed_gives_the_same_song_in_bf16(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, dtypes: list[torch.dtype]
) -> None:
    written = []
    for name, seed in (("first.wav", "3"), ("again.wav", "3"), ("other.wav", "4")):
        totals = run(workplace, monkeypatch, "--device", "cpu", "--dtype", "bf16", "--seed", seed, "--out", name)
        assert (totals["device"], totals["dtype"]) == ("cpu", "bf16")
        assert totals["songs"][0]["seconds"] == 1.28
        audio, rate = soundfile.read(workplace / name)
        assert (len(audio), rate) == (61_440, 48_000)
        assert np.isfinite(audio).all()
        written.append(audio)
    assert dtypes == [torch.bfloat16] * 3
    assert np.array_equal(written[0], written[1])
    assert not np.array_equal(written[0], written[2])


def test_a_gpu_that_cannot_be_used_ends_the_command_before_any_work(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(
        index=0,
        name="Tesla T4",
        memory_bytes=16 * 2**30,
        compute_capability=(7, 5),
        driver="418.87.00",
        driver_cuda=(10, 1),
        torch_cuda="12.8",
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("model.training.hardware.read_driver", lambda: Driver(version="418.87.00", gpus=(gpu,)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("jobs.generate.load_model", lambda *_: pytest.fail("worked before it looked"))
    for options in ((), ("--device", "cuda")):
        with pytest.raises(
            DeviceError, match=r"Tesla T4 \(driver 418\.87\.00, for CUDA 10\.1\) cannot be used by this"
        ):
            run(workplace, monkeypatch, *options)


def end_at_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model say EOS as soon as it may."""

    def load(*arguments: Any) -> Any:
        model, config = load_model(*arguments)
        with torch.no_grad():
            model.semantic_head.classify.bias[-1] = 1e4
        return model, config

    monkeypatch.setattr("jobs.generate.load_model", load)


@pytest.mark.parametrize("streams", [False, True])
def test_a_song_that_ends_at_once_is_a_failure_and_says_what_to_do(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, streams: bool
) -> None:
    end_at_once(workplace, monkeypatch)
    options = ["--device", "cpu", "--out", "none.wav", *(["--stream"] if streams else [])]
    totals = run(workplace, monkeypatch, *options, expected_code=1)
    assert totals["songs"][0]["out"] is None
    assert not (workplace / "none.wav").exists()
    assert "nothing is written; --min-seconds 30 keeps it from that, and another --seed may do" in caplog.text
    totals = run(workplace, monkeypatch, *options, "--min-seconds", "0.64")
    assert totals["songs"][0]["seconds"] == 0.64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "missing.wav"), r"prompt .*missing\.wav: no such file"),
        (("--out", "words.txt/song.wav"), r"--out .*: .*words\.txt is no folder that can be written to"),
        (("--steps", "0"), "--steps 0: expected 1 or more"),
        (("--batch", "songs.jsonl"), "--lyrics beside --batch, whose lines name it for each song; leave --lyrics out"),
    ],
)
def test_wrong_use_is_found_before_the_model_is_loaded(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("jobs.generate.load_model", lambda *_: pytest.fail("worked before it looked"))
    with pytest.raises(InputError, match=message):
        run(workplace, monkeypatch, "--device", "cpu", *options)


def test_lyrics_that_are_too_long_are_refused_by_name(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "long.txt").write_text("[verse] " + "La la la la. " * 200)
    with pytest.raises(InputError, match=r"long\.wav: its lyrics are \d+ symbols, this model takes \d+; shorten them"):
        run(workplace, monkeypatch, "--device", "cpu", "--lyrics", "long.txt", "--out", "long.wav")
