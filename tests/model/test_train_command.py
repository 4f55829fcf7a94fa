"""The command model/train.py: killed, on ranks that die, and used wrongly. Real processes."""

import errno
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pyarrow import parquet
from safetensors.torch import load_file

from model.network.config import ConfigError
from model.network.varlen import describe_attention
from model.train import _keep_warnings, main
from model.training.hardware import describe_device
from model.training.nvidia_driver import Driver, Gpu
from model.training.ranks import Ranks
from model.training.run_start import refuse_without_compiler
from model.weights.checkpoint import list_checkpoints

from .conftest import OF_RANKS
from .processes import find_ports
from .runs import read_metrics, run_to
from .tiny_dataset import tiny_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_were_not(dataset: Path, tmp_path: Path):
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    changes = {"schedule__num_steps": 60, "checkpoint__every": 3, "trainer__ema_decay": 0.9, "trainer__val_every": 20}
    commands = {}
    for name in ("whole", "killed"):
        config = tiny_config(dataset, tmp_path / name, **changes)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config.to_dict()))
        commands[name] = [sys.executable, str(ROOT / "model" / "train.py"), "--config", str(tmp_path / f"{name}.yaml")]
    environment = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(commands["whole"], env=environment, capture_output=True, check=True)
    metrics, kills = tmp_path / "killed" / "metrics.jsonl", 0
    while True:
        process = subprocess.Popen(
            commands["killed"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        size = metrics.stat().st_size if metrics.exists() else 0
        while kills < 2 and process.poll() is None and (not metrics.exists() or metrics.stat().st_size <= size):
            time.sleep(0.01)  # until it is past its start
        if kills == 2 or process.poll() is not None:
            break
        time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        kills += 1
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert kills, f"seed {seed}: never killed"
    keys = ("loss", "ce", "flow", "grad_norm", "lr")
    assert read_metrics(tmp_path / "killed", *keys) == read_metrics(tmp_path / "whole", *keys), f"seed {seed}"
    for name in ("model", "ema", "optimizer_exp_avg", "optimizer_exp_avg_sq"):
        files = [load_file(tmp_path / run / "step_000060" / f"{name}.safetensors") for run in ("whole", "killed")]
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0]), f"seed {seed}: {name}"


@pytest.mark.slow
def test_the_users_command_trains_on_two_ranks(dataset: Path, tmp_path: Path):
    config = tiny_config(dataset, tmp_path / "run", trainer__val_every=2)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.to_dict()))
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--quiet", "--num_accelerators", "2"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    done = subprocess.run(
        [*launcher, "model/train.py", "--config", str(tmp_path / "tiny.yaml"), "--max-steps", "2"],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["steps"] == 2
    assert summary["checkpoint"] == str(tmp_path / "run" / "step_000002")
    assert "step 2/2  loss " in done.stderr
    assert len(read_metrics(tmp_path / "run", "loss", "songs_per_s", "eta_s")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "rank 1 has ended or cannot be reached; ending too"),
        (signal.SIGSTOP, "rank 1 has not been heard of for 5 s (last: "),
    ],
)
def test_a_rank_that_dies_or_hangs_in_training_ends_the_other_which_names_it(
    dataset: Path, tmp_path: Path, number: int, said: str
):
    config = tiny_config(
        dataset, tmp_path / "run", schedule__num_steps=100_000, checkpoint__every=100_000, trainer__rank_timeout_s=5.0
    )
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.to_dict()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    base |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(ROOT / "model" / "train.py"), "--config", str(tmp_path / "tiny.yaml")]
    processes = [
        subprocess.Popen(
            command,
            env=base | {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / rank).open("w"),
        )
        for rank in ("0", "1")
    ]
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert processes[0].poll() is None, (tmp_path / "0").read_text()
        time.sleep(0.05)  # until it trains
    processes[1].send_signal(number)
    assert processes[0].wait(timeout=60) != 0
    processes[1].kill()
    processes[1].wait()
    assert f"rank 0: {said}" in (tmp_path / "0").read_text()


@pytest.mark.slow
def test_a_run_that_gets_a_signal_saves_and_ends_with_the_code_to_start_it_again(dataset: Path, tmp_path: Path):
    config = tiny_config(
        dataset, tmp_path / "run", schedule__num_steps=100_000, checkpoint__every=100_000, trainer__zero_stage=2
    )
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.to_dict()))
    metrics = tmp_path / "run" / "metrics.jsonl"
    base = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    command = [sys.executable, str(ROOT / "model" / "train.py"), "--config", str(tmp_path / "tiny.yaml")]

    def start(*options: str) -> list[subprocess.Popen[str]]:
        ranks = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
        ranks["MASTER_PORT"] = find_ports(1)[0]
        return [
            subprocess.Popen(
                [*command, *options],
                env=base | ranks | {"RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ("0", "1")
        ]

    processes = start()
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert processes[0].poll() is None
        time.sleep(0.05)  # until it trains
    processes[1].send_signal(signal.SIGUSR1)  # one rank is enough
    (out, said), _ = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [75, 75], said
    summary = json.loads(out.strip().splitlines()[-1])
    assert not summary["is_finished"]
    step = summary["steps"]
    assert f"asked to leave at step {step}; start it again to go on" in said
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == [f"step_{step:06d}"]
    processes = start("--max-steps", str(step + 1))
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [found for found, *_ in read_metrics(tmp_path / "run", "loss")] == list(range(1, step + 2))


def test_warnings_of_every_rank_are_kept(tmp_path: Path):
    root_logger = logging.getLogger()
    before = list(root_logger.handlers)
    _keep_warnings(tmp_path / "run", 3)
    try:
        logging.getLogger("model.data.batches").warning("left out: %s", "a shard")
        logging.getLogger("model.data.batches").info("not worth a line")
    finally:
        for handler in set(root_logger.handlers) - set(before):
            root_logger.removeHandler(handler)
            handler.close()
    text = (tmp_path / "run" / "logs" / "rank_3.log").read_text()
    assert text.endswith("WARNING model.data.batches: left out: a shard\n")
    assert text.count("\n") == 1


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that wrong use of train.py ends with."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_wrong_use_ends_with_one_line(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(tiny_config(dataset, tmp_path / "run").to_dict()))
    config = ["--config", str(tiny)]
    assert "the following arguments are required: --config" in refuse([], capsys)
    assert "unrecognized arguments: --bogus" in refuse([*config, "--bogus"], capsys)
    assert "--max-steps is 0, expected at least 1" in refuse([*config, "--max-steps", "0"], capsys)
    assert "config fill.yaml: no such file" in refuse(["--config", "fill.yaml"], capsys)
    assert "unknown key 'knd'; did you mean 'kind'?" in refuse([*config, "--set", "optimizer.knd=adamw"], capsys)
    assert "nowhere/index.parquet is missing" in refuse([*config, "--data", str(tmp_path / "nowhere")], capsys)
    codes = refuse([*config, "--set", "model.codebook_size=64"], capsys)
    assert "codebook_size is 32, but model.codebook_size is 64; set model.codebook_size" in codes
    channels = refuse([*config, "--set", "model.latent_channels=8"], capsys)
    assert "latent_channels is 4, but model.latent_channels is 8" in channels
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_cannot_be_used_ends_the_run_unless_the_cpu_is_asked_for(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    gpu = Gpu(
        index=0,
        name="Tesla V100-SXM2-32GB",
        memory_bytes=32 * 2**30,
        compute_capability=(7, 0),
        driver="470.82.01",
        driver_cuda=(11, 4),
        torch_cuda="12.8",
    )
    monkeypatch.setattr("model.training.hardware.read_driver", lambda: Driver(version="470.82.01", gpus=(gpu,)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(tiny_config(tmp_path / "nowhere", tmp_path / "run").to_dict()))
    for device in ([], ["--device", "auto"], ["--device", "cuda"]):
        said = refuse(["--config", str(tiny), *device], capsys)
        assert "Tesla V100-SXM2-32GB (driver 470.82.01, for CUDA 11.4) cannot be used by this PyTorch" in said
        assert "or run on the CPU with --device cpu" in said
    assert "nowhere/index.parquet is missing" in refuse(["--config", str(tiny), "--device", "cpu"], capsys)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "nowhere/index.parquet is missing" in refuse(["--config", str(tiny)], capsys)
    assert "invalid choice: 'gpu'" in refuse(["--config", str(tiny), "--device", "gpu"], capsys)


def test_layers_that_cannot_be_compiled_end_the_run(
    dataset: Path, ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(tiny_config(dataset, tmp_path / "run").to_dict()))
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    said = refuse(["--config", str(tiny), "--set", "trainer.compile_layers=true"], capsys)
    assert "trainer.compile_layers is true or auto, but TORCH_COMPILE_DISABLE=1 switches torch.compile off" in said


def test_a_missing_compiler_is_named_before_the_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"no compiler was found \(g\+\+\); install one, or set compile_layers: false"
    ):
        refuse_without_compiler(torch.device("cpu"))
    monkeypatch.setattr("model.training.run_start.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"no compiler was found \(gcc, clang\)"):
        refuse_without_compiler(torch.device("cuda"))
    for name in ("g++", "clang"):
        (tmp_path / name).touch(mode=0o755)
    refuse_without_compiler(torch.device("cpu"))
    refuse_without_compiler(torch.device("cuda"))
    monkeypatch.setattr("model.training.run_start.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="Triton, which compiles for GPUs, is not installed"):
        refuse_without_compiler(torch.device("cuda"))


def test_a_run_says_what_it_computes_on(dataset: Path, ranks: Ranks, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    run_to(tiny_config(dataset, tmp_path / "run"), ranks, 1)
    assert f"rank 0 computes on {describe_device(ranks.device)}; layers are not compiled" in caplog.messages
    assert describe_attention(ranks.device, torch.float32) in caplog.messages


def test_an_index_of_another_schema_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(dataset, tmp_path / "data")
    index = tmp_path / "data" / "index.parquet"
    table = parquet.read_table(index)
    parquet.write_table(table.replace_schema_metadata({"shards_schema_version": "99"}), index)
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(tiny_config(tmp_path / "data", tmp_path / "run").to_dict()))
    said = refuse(["--config", str(tiny)], capsys)
    assert "index.parquet" in said
    assert "schema version '99', this reader knows 1" in said
    (tmp_path / "data" / "dataset.json").write_text(
        (dataset / "dataset.json").read_text().replace('"schema_version": 1', '"schema_version": 98')
    )
    shutil.copy(dataset / "index.parquet", index)
    assert "dataset.json: schema version 98, this reader knows 1" in refuse(["--config", str(tiny)], capsys)


def test_a_full_disk_while_saving_ends_with_one_line(
    dataset: Path, ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fill_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("model.weights.checkpoint.save_file", fill_disk)
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(tiny_config(dataset, tmp_path / "run", checkpoint__every=2).to_dict()))
    said = refuse(["--config", str(tiny)], capsys)
    assert "step_000002 cannot be written: No space left on device; older checkpoints are untouched" in said
    assert not list((tmp_path / "run").glob("*step*"))


def test_the_launchers_flag_is_accepted_and_other_ranks_stay_silent(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("model.train.SPEAK_FIRST_S", 0.0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught:
        main(["--local_rank=1", "--config", "fill.yaml"])
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "")


def test_a_dry_run_prints_the_released_sizes(capsys: pytest.CaptureFixture[str]):
    main(["--config", "full.yaml", "--dry-run"])
    printed = capsys.readouterr().out
    assert "1,872,371,393" in printed, "songbloom_full_150s has 1,872.37 M parameters"
    assert "TFLOP a step of 128 songs of 150 s" in printed
    assert "  total                 10," in printed, "10.2 PFLOP a step by published arithmetic"
