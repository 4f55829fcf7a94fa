"""Tests of model/CLUSTER.md: every command in it parses, and the Slurm script does what the page says."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deepspeed.launcher.runner import _parse_hostfile
from deepspeed.launcher.runner import parse_args as parse_deepspeed
from torch.distributed.run import parse_args as parse_torchrun

from model.bench.__main__ import BENCHMARKS
from model.settings.settings import load_config
from model.train import _parse

from .conftest import OF_RANKS
from .processes import ROOT, find_ports

PAGE = (ROOT / "model/CLUSTER.md").read_text()
BLOCKS = re.findall(r"^```(bash|text)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
SCRIPT = next(text for _, text in BLOCKS if text.startswith("#!"))
# Of sbatch, as its manual names them.
SBATCH = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "requeue", "open-mode",
          "signal"}  # fmt: skip
VARIABLES = {"$SLURM_NNODES": "2", "$first": "node1", "$SLURM_JOB_ID": "7"}


def list_commands() -> list[list[str]]:
    """Return the words of every command of the page that starts Python."""
    commands = []
    for kind, text in BLOCKS:
        if kind != "bash":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            for name, value in VARIABLES.items():
                line = line.replace(name, value)
            words = shlex.split(line, comments=True)
            words = words[2:] if words[:1] == ["srun"] else words
            if words and words[0] in ("python", "torchrun", "deepspeed"):
                commands.append([word for word in words if word != "&"])
    return commands


def test_there_are_commands_of_every_kind() -> None:
    assert [words[0] for words in list_commands()] == ["python", "python", "torchrun", "deepspeed", "torchrun"]


@pytest.mark.parametrize("words", list_commands(), ids=" ".join)
def test_every_command_parses(words: list[str]) -> None:
    if words[:3] == ["python", "-m", "model.bench"]:
        assert words[3] in BENCHMARKS
        ended = subprocess.run(
            [sys.executable, *words[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return
    if words[0] == "torchrun":
        launched = parse_torchrun(words[1:])
        assert (launched.nproc_per_node, launched.rdzv_backend) == ("8", "c10d")
        script, arguments = launched.training_script, launched.training_script_args
    elif words[0] == "deepspeed":
        deepspeed = parse_deepspeed(words[1:])
        script, arguments = deepspeed.user_script, deepspeed.user_args
    else:
        script, *arguments = words[1:]
    assert (ROOT / script).is_file()
    options = _parse(arguments)
    load_config(options.config, options.set)


def test_the_hostfile_is_one() -> None:
    text = next(text for kind, text in BLOCKS if kind == "text")
    assert _parse_hostfile(text.splitlines()) == {"node1": 8, "node2": 8}


def test_bash_reads_every_block(tmp_path: Path) -> None:
    for kind, text in BLOCKS:
        if kind == "bash":
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert set(re.findall(r"^#SBATCH --([a-z-]+)", SCRIPT, flags=re.MULTILINE)) == SBATCH


def write_stand_ins(folder: Path) -> None:
    """Write commands that only say that they were called; training ends with 1 when it is told to, as torchrun does."""
    texts = {
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
        "scontrol": f'echo "scontrol $*" >> {folder}/calls\necho node1',
        "pkill": f'echo "pkill $*" >> {folder}/calls\ntouch {folder}/told',
        "torchrun": f'echo "torchrun $*" >> {folder}/calls\n'
        f"for _ in $(seq 100); do [ -e {folder}/told ] && exit 1; [ -e {folder}/done ] && exit 0; sleep 0.1; done",
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)


@pytest.mark.parametrize("is_asked", [True, False])
def test_the_slurm_script_goes_back_to_the_queue_when_it_was_asked_to_leave(tmp_path: Path, is_asked: bool) -> None:
    write_stand_ins(tmp_path)
    (tmp_path / "job.sh").write_text(SCRIPT)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    job = subprocess.Popen(
        ["bash", str(tmp_path / "job.sh")], env=os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    calls = tmp_path / "calls"
    while not (calls.exists() and "torchrun" in calls.read_text()):
        assert job.poll() is None
        time.sleep(0.02)
    if is_asked:
        job.send_signal(signal.SIGUSR1)
    else:
        (tmp_path / "done").touch()
    assert job.wait(timeout=20) == (1 if is_asked else 0)
    assert ("scontrol requeue 7" in calls.read_text()) is is_asked
    assert ("pkill -USR1 -f" in calls.read_text()) is is_asked
    assert "--rdzv-endpoint node1:29500" in calls.read_text()


def test_the_pattern_finds_ranks_and_no_launcher() -> None:
    """Launchers die of SIGUSR1."""
    pattern = re.search(r"pkill -USR1 -f '([^']*)'", SCRIPT)
    assert pattern is not None
    assert re.search(pattern[1], "/opt/venv/bin/python -u model/train.py --config full.yaml")
    assert re.search(pattern[1], "/opt/venv/bin/python3.11 -u model/train.py --config full.yaml")
    for other in ("/opt/venv/bin/python /opt/venv/bin/torchrun --nnodes 2 model/train.py", pattern[0]):
        assert not re.search(pattern[1], other)


@pytest.mark.slow
def test_two_launchers_on_one_machine_train_together() -> None:
    (port,) = find_ports(1)
    sizes = ["model.dim=64", "model.num_heads=1", "model.lm_layers=1", "model.dit_layers=1", "data.max_crop_s=8",
             "trainer.zero_stage=2"]  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test", "--max-restarts", "1",
        "-m", "model.bench", "trainer", "--config", "miniature.yaml", "--device", "cpu", "--steps", "1", "--songs", "9",
        *(word for size in sizes for word in ("--set", size)),
    ]  # fmt: skip
    base = {name: value for name, value in os.environ.items() if name not in OF_RANKS} | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(command, cwd=ROOT, env=base, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert sum('"world_size": 2' in out for out, _ in outputs) == 1, "rank 0 alone speaks"
