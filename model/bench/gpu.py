"""Measure everything that needs GPUs, with what arithmetic expects beside it: `python -m model.bench gpu --out FOLDER`.

Takes one or more GPUs, under ten minutes, no weights and no data but made-up ones: agreement with the CPU, the kernels
that were found, the trainer at three settings, writing songs, and with several GPUs ZeRO 1 to 3 over NCCL. On a CPU
the same at miniature size. Writes FOLDER/gpu.json and FOLDER/gpu.md; the last line on stdout is the JSON. Exit code 0:
all agrees and all has run, however fast; 1: not; 2: wrong use.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.bench.generate import MANY, make_task
from model.bench.generate import measure as time_writing
from model.bench.random_songs import make_songs
from model.bench.trainer import measure as measure_steps
from model.bench.trainer import write_songs
from model.network.attention import PackedCausal
from model.network.config import ConditionsConfig, ConfigError, ModelConfig
from model.network.noise import draw
from model.network.song_model import SongModel
from model.network.varlen import describe_attention
from model.parity import relative_error
from model.settings.settings import RunConfig, load_config
from model.training.hardware import choose_device
from model.training.ranks import Ranks
from model.training.roofline import (
    EXPECTED,
    LINKS,
    DataSheet,
    find_data_sheet,
    least_generation_seconds,
    least_step_seconds,
    wire_bytes,
    wire_seconds,
)
from model.training.size import memory_per_gpu
from model.training.trainer import join_ranks, leave_ranks
from shards.schema import FRAME_RATE_HZ

SONGS_PER_GPU = 8  # of a step: 128 over 16 GPUs
NUM_STEPS = {"cuda": 5, "cpu": 1}
NUM_SONGS = {"cuda": 24, "cpu": 9}
GENERATED_FRAMES = {"cuda": 64, "cpu": 16}
LIMIT_S = 440.0  # what would begin later is left out, and named
RANKS_LIMIT_S = 150.0  # of one ZeRO stage; with the former, under ten minutes
PLANNED_GPUS = 16  # of the run that figures for several nodes are reckoned for
PACKAGES = ("torch", "deepspeed", "flash-attn", "flash-attn-3", "flash-attn-4", "triton", "liger-kernel", "torchao")
# Largest errors: float32 in another order of sums; bfloat16 has 8 bits.
TOLERANCES = {"loss, float32": 1e-5, "gradient, float32": 1e-3, "loss, bfloat16": 2e-2, "attention, bfloat16": 2e-2}
CHECKED = ModelConfig(
    dim=128, num_heads=2, lm_layers=2, dit_layers=2, codebook_size=500, latent_channels=8, time_features=16,
    conditions=ConditionsConfig(prompt_frames=20),
)  # fmt: skip
MINIATURE = (
    "model.dim=64", "model.num_heads=1", "model.lm_layers=1", "model.dit_layers=1", "data.max_crop_s=8",
    "trainer.zero_stage=2", "trainer.batch_size=2",
)  # fmt: skip
TINY = ModelConfig(dim=64, num_heads=1, lm_layers=1, dit_layers=1, codebook_size=250, latent_channels=8)
# Name of a setting -> what it overrides. Compiling takes minutes on a CPU.
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "cuda": {
        "cheap, 2 songs, not compiled": (
            "trainer.checkpoint_activations=cheap",
            "trainer.micro_batch_size=2",
            "trainer.compile_layers=false",
        ),
        "cheap, 2 songs, compiled": (
            "trainer.checkpoint_activations=cheap",
            "trainer.micro_batch_size=2",
            "trainer.compile_layers=true",
        ),
        "whole layers, 4 songs": (
            "trainer.checkpoint_activations=true",
            "trainer.micro_batch_size=4",
            "trainer.micro_batch_tokens=0",
        ),
    },
    "cpu": {
        "cheap, 1 song": ("trainer.checkpoint_activations=cheap", "trainer.micro_batch_size=1"),
        "selective, 2 songs": ("trainer.checkpoint_activations=selective", "trainer.micro_batch_size=2"),
        "whole layers, 2 songs": ("trainer.checkpoint_activations=true", "trainer.micro_batch_size=2"),
    },
}
# ZeRO 1 sums bf16 gradients in bf16: with float32 sums DeepSpeed would take another optimizer.
STAGES: dict[str, dict[int, tuple[str, ...]]] = {
    "cuda": {1: ("deepspeed.data_types.grad_accum_dtype=bf16",), 2: (), 3: ()},
    "cpu": {1: (), 2: (), 3: ()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table."""

    part: str
    name: str
    unit: str
    measured: float | None
    expected: float | None
    """By arithmetic: the least time, the most speed; None: nothing is known of this device."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured on what."""

    device: str
    """cuda or cpu."""
    sheet: DataSheet | None
    """Of the GPU; None: not known."""
    config: str
    overrides: tuple[str, ...]
    num_ranks: int
    folder: Path
    """Of the made-up dataset."""

    def load(self, *overrides: str) -> RunConfig:
        """Return the run with these settings."""
        root = f"data.root={json.dumps(str(self.folder))}"
        return load_config(self.config, [*self.overrides, root, *overrides])


def check_agreement(device: str) -> list[Figure]:
    """Return the errors of a small model on `device` against the same on the CPU, song by song, in float32."""
    torch.manual_seed(0)
    model, lengths = SongModel(replace(CHECKED, init_std=0.05)), (96, 160, 128)
    expected, gradient = _run_songs(model, [[length] for length in lengths], "cpu")
    model.to(device)
    found, found_gradient = _run_songs(model, [lengths], device)
    in_half, _ = _run_songs(model.bfloat16(), [lengths], device)
    errors = {
        "loss, float32": relative_error(found, expected),
        "gradient, float32": relative_error(found_gradient, gradient),
        "loss, bfloat16": relative_error(in_half, expected),
        "attention, bfloat16": _compare_attention(device),
    }
    return [
        Figure(
            part="agreement", name=name, unit="relative error", measured=error, expected=TOLERANCES[name],
            note="ok" if error <= TOLERANCES[name] else "FAIL",
        )
        for name, error in errors.items()
    ]  # fmt: skip


def _run_songs(model: SongModel, batches: Sequence[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    """Return the loss of every token and block, song after song, and the gradient of the first layer's attention."""
    losses, begun = [], 0
    for lengths in batches:
        numbers = range(begun, begun + len(lengths))
        begun += len(lengths)
        batch = make_songs(model.config, lengths, [30] * len(lengths), numbers).to(device)
        num_blocks = [length // model.config.block_frames for length in lengths]
        out = model(batch, draw(numbers, num_blocks, model.config, device, with_dropout=False))
        (out.ce_sum + out.flow_sum).backward()
        for row, (length, count) in enumerate(zip(lengths, num_blocks, strict=True)):
            losses += [out.ce_BT[row, : length + 1], out.error_BN[row, :count]]
    weight = model.lm.get_parameter("layers.0.attention.qkv.weight")
    assert weight.grad is not None
    gradient = weight.grad.float().cpu()
    for parameter in model.parameters():
        parameter.grad = None
    return torch.cat([part.detach().float().cpu() for part in losses]), gradient


def _compare_attention(device: str) -> float:
    """Return the error of the attention that the LM uses on `device`, in bf16, against plain products in float32."""
    torch.manual_seed(1)
    lengths = [70, 1, 333]
    query, key, value = (torch.randn(sum(lengths), 2, 64, dtype=torch.bfloat16) for _ in range(3))
    found = PackedCausal(lengths)(0, *(x.to(device) for x in (query, key, value)))
    rows = []
    for sequence in zip(*(x.float().split(lengths) for x in (query, key, value)), strict=True):
        first, second, third = (x.transpose(0, 1) for x in sequence)
        rows.append(scaled_dot_product_attention(first, second, third, is_causal=True).transpose(0, 1))
    return relative_error(found.float().cpu(), torch.cat(rows))


def measure_training(plan: Plan, ranks: Ranks, name: str, overrides: Sequence[str]) -> list[Figure]:
    """Return the trainer's figures at one setting on one GPU; one without a measured value where it does not fit."""
    config = plan.load(*overrides, *_share(plan, 1))
    memory = memory_per_gpu(config, 1)["total"] / 2**30
    try:
        figures = measure_steps(config, ranks, NUM_STEPS[plan.device], None)
    except torch.OutOfMemoryError:
        figures = None
    gc.collect()  # of the next setting's memory
    torch.compiler.reset()
    if plan.device == "cuda":
        torch.cuda.empty_cache()
    part = f"training: {name}"
    if figures is None:
        note = "out of memory"
        return [Figure(part=part, name="peak memory", unit="GiB", measured=None, expected=memory, note=note)]
    return [*compare_steps(plan, config, part, figures), _compare_memory(part, figures, memory)]


def _compare_memory(part: str, figures: dict[str, Any], expected_gib: float) -> Figure:
    measured = figures["peak_memory_gib"]
    return Figure(
        part=part, name="peak memory", unit="GiB", measured=measured, expected=expected_gib,
        note="expected with all songs at their longest" if figures["device"] != "cpu" else "of the whole process",
    )  # fmt: skip


def compare_steps(plan: Plan, config: RunConfig, part: str, figures: dict[str, Any]) -> list[Figure]:
    """Return time, MFU and data wait of measured steps beside what arithmetic gives for the same work."""
    flops = 1e12 * sum(figures["tflop"][-NUM_STEPS[plan.device] :]) / NUM_STEPS[plan.device]
    world_size = figures["world_size"]
    least_s = mfu = aim = tokens = None
    if plan.sheet is not None:
        least_s = least_step_seconds(config, world_size, plan.sheet, max(LINKS.values()), flops)["total"]
        mfu = 100 * flops / (world_size * plan.sheet.flops * least_s)
        tokens = sum(figures["num_tokens"][-NUM_STEPS[plan.device] :]) / NUM_STEPS[plan.device] / least_s
        aim = next((100 * share for name, (share, _) in EXPECTED.items() if name in plan.sheet.name), None)
    figure = partial(Figure, part=part)
    return [
        figure(name="step", unit="s", measured=figures["step_s_median"], expected=least_s),
        figure(
            name="MFU", unit="%", measured=None if figures["mfu"] is None else 100 * figures["mfu"], expected=mfu,
            note=f"the aim is {aim:.0f} %" if aim else "the device's peak is not known" if mfu is None else "",
        ),
        figure(name="tokens", unit="per s", measured=figures["tokens_per_s"], expected=tokens),
        figure(name="data wait", unit="%", measured=100 * figures["data_wait_share"], expected=0.0),
    ]  # fmt: skip


def measure_generation(plan: Plan) -> list[Figure]:
    """Return how fast one song and several at once are written."""
    on_gpu = plan.device == "cuda"
    config, num_frames = plan.load().model if on_gpu else TINY, GENERATED_FRAMES[plan.device]
    task = make_task(config, num_frames, plan.device, torch.bfloat16 if on_gpu else torch.float32)
    replace(task, sampling=replace(task.sampling, max_frames=1)).write(1)
    ways: dict[str, tuple[Callable[[], None], int]] = {
        f"{count} at once" if count > 1 else "one song": (partial(task.write, count), count) for count in (1, MANY)
    }
    times = time_writing(ways, num_frames / FRAME_RATE_HZ, 1, time.perf_counter)
    figures = []
    for name, (_, count) in ways.items():
        seconds, least_s = times[name][0], None
        if plan.sheet is not None:
            least_s = least_generation_seconds(config, task.sampling, plan.sheet, count, num_frames)
        figure = partial(Figure, part=f"writing: {name}")
        figures += [
            figure(name="real-time factor", unit="s per s of audio", measured=seconds, expected=least_s),
            figure(
                name="tokens", unit="per s", measured=FRAME_RATE_HZ / seconds,
                expected=None if least_s is None else FRAME_RATE_HZ / least_s,
            ),
        ]  # fmt: skip
    return figures


def measure_ranks(plan: Plan, stage: int) -> list[Figure]:
    """Return the trainer's figures on all GPUs with one ZeRO stage, started as users start it.

    Raises:
        RuntimeError: it has not ended well; the message holds the end of what it said.
    """
    name, setting = next(iter(SETTINGS[plan.device].items()))
    given = (
        *plan.overrides,
        *setting,
        *_share(plan, plan.num_ranks),
        f"trainer.zero_stage={stage}",
        *STAGES[plan.device][stage],
    )
    config = plan.load(*given[len(plan.overrides) :])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(plan.num_ranks),
        "-m", "model.bench", "trainer", "--config", plan.config, "--device", plan.device,
        "--steps", str(NUM_STEPS[plan.device]), "--songs", str(max(NUM_SONGS[plan.device], config.trainer.batch_size)),
    ]  # fmt: skip
    command += [word for text in given for word in ("--set", text)]
    mine = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in mine}
    environment.setdefault("OMP_NUM_THREADS", "1")
    try:
        ended = subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True,
            timeout=RANKS_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{plan.num_ranks} ranks with ZeRO {stage} took more than {RANKS_LIMIT_S:.0f} s") from error
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode or not lines:
        said = " ".join(ended.stderr[-600:].split())
        raise RuntimeError(f"{plan.num_ranks} ranks with ZeRO {stage} ended with exit code {ended.returncode}: {said}")
    figures = json.loads(lines[-1])
    part = f"{plan.num_ranks} ranks, ZeRO {stage}: {name}"
    link = plan.sheet.nvlink if plan.sheet else None
    sent = sum(wire_bytes(config, plan.num_ranks).values())
    wire_s = wire_seconds(sent, plan.num_ranks, plan.sheet, max(LINKS.values())) if plan.sheet else None
    measured_link = figures["link_gb_per_s"]
    return [
        *compare_steps(plan, config, part, figures),
        _compare_memory(part, figures, memory_per_gpu(config, plan.num_ranks)["total"] / 2**30),
        Figure(part=part, name="link", unit="GB/s", measured=measured_link, expected=link and link / 1e9),
        Figure(
            part=part, name="sent in a step", unit="s", measured=sent / 1e9 / measured_link, expected=wire_s,
            note=f"{sent / 1e9:.3g} GB by arithmetic, over the measured link",
        ),
    ]  # fmt: skip


def plan_nodes(plan: Plan) -> list[Figure]:
    """Return what a step of the whole run costs on 16 GPUs by the speed of their network: arithmetic alone."""
    sheet = plan.sheet or find_data_sheet("A100")
    assert sheet is not None
    config = plan.load()
    sent = sum(wire_bytes(config, PLANNED_GPUS).values())
    figures = []
    for name, link in LINKS.items():
        figure = partial(
            Figure, part=f"{PLANNED_GPUS} {sheet.name}, {name} a node", unit="s", measured=None, note="arithmetic alone"
        )
        least = least_step_seconds(config, PLANNED_GPUS, sheet, link)
        figures += [
            figure(name="sending", expected=wire_seconds(sent, PLANNED_GPUS, sheet, link)),
            figure(name="of it not hidden", expected=least["communication"]),
            figure(name="step", expected=least["total"]),
        ]
    return figures


def _share(plan: Plan, num_ranks: int) -> tuple[str, ...]:
    """Return the batch size that is one GPU's share of 128 songs on 16."""
    return (f"trainer.batch_size={(SONGS_PER_GPU if plan.device == 'cuda' else 2) * num_ranks}",)


def find_packages() -> dict[str, str]:
    """Return the versions of what a step is made of; "" where it is not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def run_parts(plan: Plan, ranks: Ranks) -> tuple[list[Figure], list[str]]:
    """Return all figures, and one line for each part that has failed or was left out."""
    parts: list[tuple[str, Callable[[], list[Figure]]]] = [("agreement", partial(check_agreement, plan.device))]
    parts += [
        (f"training: {name}", partial(measure_training, plan, ranks, name, overrides))
        for name, overrides in SETTINGS[plan.device].items()
    ]
    parts.append(("writing", partial(measure_generation, plan)))
    if plan.num_ranks > 1:
        parts += [(f"ZeRO {stage}", partial(measure_ranks, plan, stage)) for stage in STAGES[plan.device]]
    parts.append(("several nodes", partial(plan_nodes, plan)))
    begun, figures, problems = time.perf_counter(), list[Figure](), []
    for name, measure in parts:
        passed = time.perf_counter() - begun
        if passed > LIMIT_S:
            problems.append(f"{name}: left out, as {passed:.0f} s have passed")
            continue
        sys.stderr.write(f"{name} ({passed:.0f} s)\n")
        try:
            figures += measure()
        except (ConfigError, RuntimeError, OSError) as error:  # the other parts can be measured all the same
            problems.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:800]}")
    problems += [f"{figure.part}, {figure.name}: {figure.measured:.2g}" for figure in figures if figure.note == "FAIL"]
    return figures, problems


def make_table(summary: dict[str, Any], figures: Sequence[Figure]) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"{summary['device']}, {summary['num_gpus']} GPUs, torch {summary['packages']['torch']}; "
        f"{summary['attention']}",
        "",
        "Figures by arithmetic are not measured: the least time at the datasheet's peaks (model/training/roofline.py); "
        "of agreement, the largest error that passes.",
        "",
        "| part | figure | measured | by arithmetic | unit | |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        cells = ("-" if figure.measured is None else f"{figure.measured:.4g}",
                 "" if figure.expected is None else f"{figure.expected:.4g}")  # fmt: skip
        lines.append(f"| {figure.part} | {figure.name} | {' | '.join(cells)} | {figure.unit} | {figure.note} |")
    lines += ["", *(f"- {problem}" for problem in summary["problems"])]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.bench gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_bench"), metavar="FOLDER", help="(default: gpu_bench)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="as of train.py")
    parser.add_argument("--ranks", type=int, help="processes of the last part (default: one per GPU; on a CPU: none)")
    options = parser.parse_args(arguments)
    if options.ranks is not None and options.ranks < 1:
        parser.error(f"--ranks is {options.ranks}, expected at least 1")
    try:
        device = choose_device(options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        ranks = join_ranks(device)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    on_gpu = device == "cuda"
    num_gpus = torch.cuda.device_count() if on_gpu else 0
    device_name = torch.cuda.get_device_name() if on_gpu else f"CPU {platform.machine()}"
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            device=device, sheet=find_data_sheet(device_name), config="full.yaml" if on_gpu else "miniature.yaml",
            overrides=() if on_gpu else MINIATURE, num_ranks=options.ranks or max(1, num_gpus), folder=Path(folder),
        )  # fmt: skip
        write_songs(plan.load(), plan.folder, NUM_SONGS[device])
        figures, problems = run_parts(plan, ranks)
    leave_ranks()
    summary: dict[str, Any] = {
        "ok": not problems,
        "device": device_name,
        "num_gpus": num_gpus,
        "config": plan.config if on_gpu else f"{plan.config}, made smaller",
        "packages": find_packages(),
        "attention": describe_attention(device, torch.bfloat16 if on_gpu else torch.float32),
        "problems": problems,
        "seconds": round(time.perf_counter() - begun, 1),
        "figures": [asdict(figure) for figure in figures],
    }
    table = make_table(summary, figures)
    (options.out / "gpu.md").write_text(table)
    (options.out / "gpu.json").write_text(json.dumps(summary, indent=1) + "\n")
    sys.stdout.write(table + json.dumps(summary) + "\n")
    return 0 if summary["ok"] else 1
