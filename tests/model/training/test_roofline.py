"""Tests of model/training/roofline.py: what it says a step costs, against counted numbers and arithmetic by hand."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.bench.random_songs import make_songs
from model.data.batches import MicroBatch, RankBatch
from model.network.song_model import SongModel
from model.sampling.sampling_config import SamplingConfig
from model.settings.settings import RunConfig, load_config
from model.train import main
from model.training.engine import forget_ranks, import_deepspeed
from model.training.hardware import PEAK_TFLOPS
from model.training.ranks import Ranks
from model.training.roofline import (
    LINKS,
    MEMORY_BANDWIDTH,
    advise,
    describe_run,
    find_data_sheet,
    least_generation_seconds,
    least_step_seconds,
    wire_bytes,
    wire_seconds,
)
from model.training.size import memory_per_gpu
from model.training.traffic import MOVED_PER_LOGIT, MOVED_VECTORS, SWIGLU_VECTORS, moved_bytes
from model.training.trainer import Trainer

from ..wire_process import CountBytes

WORLD_SIZE = 4
SMALL = ("model.dim=64", "model.num_heads=1", "model.lm_layers=2", "model.dit_layers=1", "trainer.batch_size=8",
         "trainer.micro_batch_size=1")  # fmt: skip
A100 = find_data_sheet("NVIDIA A100-SXM4-80GB")


@pytest.fixture
def lonely_ranks(rank_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """Be rank 0 of four that are not there: collectives return at once."""
    world = {"RANK": "0", "WORLD_SIZE": str(WORLD_SIZE), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": "1"}  # fmt: skip
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    distributed.init_process_group("fake", rank=0, world_size=WORLD_SIZE, store=FakeStore())
    import_deepspeed(has_gpu=False).init_distributed(dist_backend="gloo", verbose=False)
    yield Ranks(rank=0, world_size=WORLD_SIZE, device=torch.device("cpu"))
    forget_ranks()


def count_step(run: RunConfig, ranks: Ranks) -> Counter[str]:
    """Return the bytes of a step's collectives; the first step, in which DeepSpeed looks around, is not counted."""
    trainer = Trainer(SongModel(run.model), run, ranks)
    songs = [
        MicroBatch(batch=make_songs(run.model, [64], [20], [n]), seeds=(n,), slots=(n,), is_repeat=False)
        for n in range(2)
    ]
    batch = RankBatch(micro_batches=tuple(songs), num_skipped=Counter())
    for step in range(2):
        with CountBytes() as counted:
            trainer.train_step(batch, step)
    trainer.close()
    return counted.counts


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (2, "bf16"), (3, "bf16")])
def test_bytes_on_the_wire_are_those_of_deepspeeds_collectives(lonely_ranks: Ranks, stage: int, precision: str) -> None:
    run = load_config("miniature.yaml", [*SMALL, f"trainer.zero_stage={stage}", f"trainer.precision={precision}"])
    counts = count_step(run, lonely_ranks)
    others = (WORLD_SIZE - 1) / WORLD_SIZE  # of a ring; an all-reduce is two of them
    expected = wire_bytes(run, WORLD_SIZE)
    gradients = others * (2 * counts["allreduce_"] + counts["reduce_"] + counts["_reduce_scatter_base_"])
    assert gradients == pytest.approx(expected["gradients"], rel=1e-3)
    # ZeRO 3 keeps tensors of less than 100,000 numbers whole: a seventh of a model of this size, 0.1 % of full.yaml's.
    weights = others * counts["_allgather_base_"]
    assert weights == pytest.approx(expected["weights"], rel=0.1 if stage == 3 else 1e-3)


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "bf16"), (3, "bf16"), (1, "muon")])
def test_state_takes_the_memory_that_deepspeed_holds(lonely_ranks: Ranks, stage: int, precision: str) -> None:
    run = load_config(
        "miniature.yaml",
        [*SMALL, f"trainer.zero_stage={stage}", "trainer.ema_decay=0.9",
         "optimizer.kind=muon" if precision == "muon" else f"trainer.precision={precision}"],
    )  # fmt: skip
    trainer = Trainer(SongModel(run.model), run, lonely_ranks)
    adam = trainer._engine.adam
    held = sum(x.numel() * x.element_size() for state in adam.state.values() for x in state.values() if x.dim())
    if stage:  # float32 weights of its own
        held += sum(x.numel() * x.element_size() for x in adam.state)
    trainer.close()
    assert held == pytest.approx(memory_per_gpu(run, WORLD_SIZE)["optimizer"], rel=0.001)


def test_reducing_to_one_rank_halves_the_gradients() -> None:
    run = load_config("full.yaml")
    whole = replace(run, deepspeed={"zero_optimization": {"use_multi_rank_bucket_allreduce": True}})
    assert wire_bytes(run, 16)["gradients"] == wire_bytes(whole, 16)["gradients"] / 2
    assert wire_bytes(run, 16)["gradients"] == pytest.approx(3 * 15 / 16 * 4 * 1_872_371_393), "three micro-batches"
    assert sum(wire_bytes(run, 1).values()) == 0


def test_weights_that_are_soon_used_again_are_gathered_once() -> None:
    full = load_config("full.yaml", ["trainer.zero_stage=3", "trainer.batch_size=32"])  # one micro-batch of 16 ranks
    numbers = 1_872_371_393
    twice = numbers - 500_000_000
    assert wire_bytes(full, 16)["weights"] == pytest.approx(15 / 16 * 2 * (numbers + twice))


def test_the_slowest_link_counts() -> None:
    assert A100 is not None
    assert wire_seconds(6e9, 8, A100, LINKS["8 x 200 Gb/s"]) == pytest.approx(6e9 / 300e9)
    assert wire_seconds(6e9, 16, A100, LINKS["8 x 200 Gb/s"]) == pytest.approx(6e9 / 200e9)
    assert wire_seconds(6e9, 16, A100, LINKS["1 x 100 Gb/s"]) == pytest.approx(6e9 / 12.5e9)
    assert wire_seconds(6e9, 1, A100, LINKS["1 x 100 Gb/s"]) == 0
    card = find_data_sheet("NVIDIA A100-PCIE-40GB")
    assert card is not None
    assert wire_seconds(6e9, 8, card, 1.0) is None, "bridges connect pairs alone"


def test_every_device_whose_peak_is_known_has_a_bandwidth() -> None:
    assert set(PEAK_TFLOPS) <= set(MEMORY_BANDWIDTH)
    assert find_data_sheet("NVIDIA GeForce GTX 1080") is None
    h100, nvl = (find_data_sheet(name) for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL"))
    assert h100 is not None
    assert nvl is not None
    assert (h100.flops, h100.memory_bandwidth, h100.nvlink) == (989e12, 3.35e12, 450e9)
    assert (nvl.memory_bandwidth, nvl.nvlink) == (3.9e12, None)


def test_a_step_takes_at_least_its_products_at_the_peak() -> None:
    assert A100 is not None
    run = load_config("full.yaml")
    least = least_step_seconds(run, 16, A100, LINKS["8 x 200 Gb/s"])
    assert least["products"] + least["attention"] == pytest.approx(10.034e15 / 16 / 312e12, rel=1e-3)
    assert least["total"] == pytest.approx(sum(seconds for part, seconds in least.items() if part != "total"))
    # Layer-positions of a song of 150 s times vectors of 1536 bf16 numbers, and 3,745 positions of padded logits.
    lm, dit = MOVED_VECTORS[True]["cheap"]
    moved = (36 * 4829 * lm + 12 * 50 * 234 * dit) * 1536 * 2 + 3745 * 16_448 * MOVED_PER_LOGIT[True]
    assert moved_bytes(run.model, 3744, "cheap") == pytest.approx(moved, rel=1e-4)
    assert least["moved_bytes"] == pytest.approx(8 * moved / 2.039e12, rel=1e-4)
    plain = load_config("full.yaml", ["trainer.compile_layers=false"])
    slower = least_step_seconds(plain, 16, A100, LINKS["8 x 200 Gb/s"])["moved_bytes"]
    assert slower > 3.5 * least["moved_bytes"]
    ffn = {scale: moved_bytes(replace(run.model, ffn_scale=scale), 3744, "cheap") for scale in (2, 4)}
    assert (ffn[4] - ffn[2]) / (314_244 * 1536 * 2) == pytest.approx(2 * SWIGLU_VECTORS[True]["cheap"])
    half = least_step_seconds(run, 16, A100, LINKS["8 x 200 Gb/s"], flops=10.008e15 / 2)
    assert half["products"] == pytest.approx(least["products"] / 2, rel=1e-3)
    slow = least_step_seconds(run, 16, A100, LINKS["1 x 100 Gb/s"])
    assert slow["communication"] > 0.3 > least["communication"], "not all of it hides behind the backward pass"


def test_writing_reads_the_weights_once_a_step() -> None:
    assert A100 is not None
    model, sampling = load_config("full.yaml").model, SamplingConfig()
    one = least_generation_seconds(model, sampling, A100, 1, 64)
    lm, dit = 1_359_066_624 + 27_543_041, 453_021_696
    weights = 2 * (4 * 17 * lm + 4 * 36 * dit) / 2.039e12 / 2.56
    assert weights < one < 1.02 * weights, "keys and values of 2.56 s are few"
    many = least_generation_seconds(model, sampling, A100, 8, 64)  # the DiT computes 16 rows of 50 positions
    seconds = 4 * 17 * 2 * lm / 2.039e12 + 4 * 36 * 2 * 16 * 50 * dit / 312e12
    assert many == pytest.approx(seconds / (8 * 2.56), rel=0.02)


@pytest.mark.parametrize(
    ("overrides", "world_size", "advice"),
    [
        ([], 16, "fits into 80 GB, of which 82 %"),
        (["trainer.micro_batch_size=2"], 16, "fits into 80 GB, of which 5"),
        ([], 1, "GiB too much; set trainer.micro_batch_tokens: 9658"),  # two of the longest
        (["trainer.micro_batch_size=16", "trainer.micro_batch_tokens=0"], 16,
         "GiB too much; set trainer.micro_batch_size: 2"),
        (["trainer.checkpoint_activations=false"], 16, "GiB too much; set trainer.checkpoint_activations: cheap"),
        (["trainer.micro_batch_size=1", "trainer.micro_batch_tokens=0", "data.max_crop_s=900",
          "model.conditions.max_lyric_tokens=4000"], 16, "GiB too much; set trainer.checkpoint_activations: "),
        (["model.dim=6144", "model.num_heads=96"], 1, "more GPUs, or adapters alone (finetune.lora_rank)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_what_to_change(overrides: list[str], world_size: int, advice: str) -> None:
    lines = advise(load_config("full.yaml", overrides), world_size)
    assert len(lines) == 1
    assert advice in lines[0]


def test_a_dry_run_says_what_is_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config", "full.yaml", "--dry-run", "--world-size", "32"])
    printed = capsys.readouterr().out
    assert printed.endswith(describe_run(load_config("full.yaml"), 32))
    headings = [line for line in printed.splitlines() if line.startswith("arithmetic, not measured: ")]
    assert len(headings) == 4, "memory, wire, A100, H100"
    assert "at least 1 with crops of even lengths, 2 of the longest" in printed
    assert "micro-batches of up to 14,800 tokens" in headings[0]
    assert "GiB on each of 32 GPUs, ZeRO 2, bf16, checkpoint_activations cheap" in headings[0]
    assert "nodes of 8 with 8 x 200 Gb/s" in headings[2]
    assert "at 50 % MFU" in printed
    wrong_uses = {
        "--world-size is 0": ["--world-size", "0", "--dry-run"],
        "--world-size is for --dry-run alone": ["--world-size", "8"],
        "finetune.freeze: 'nothing' matches no parameter": ["--dry-run", "--set", "finetune.freeze=[nothing]"],
    }
    for message, words in wrong_uses.items():
        with pytest.raises(SystemExit) as ended:
            main(["--config", "full.yaml", *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
