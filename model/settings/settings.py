"""The configuration of a training run: typed sections, found by name, and DeepSpeed's settings made from them.

Batch size and learning rate stand here once; DeepSpeed's JSON is generated, never written by hand.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.network.config import ConfigError, ModelConfig, require
from model.network.recompute import Recompute
from model.network.song_length import count_tokens
from model.settings.deepspeed_config import merge_passed
from model.settings.strict_yaml import build, override, read_yaml
from shards.schema import FRAME_RATE_HZ

BUCKET_NUMBERS = 100_000_000  # of gradients that are reduced at a time: 5 % of full.yaml's
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageShare:
    """How much of what a run hears is of one language."""

    language: str
    share: float  # relative to the other shares

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        require(self.share > 0, f"data.languages: {self.language} has the share {self.share}, expected more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which spans of which songs a step learns from."""

    root: str  # dataset folder, as extract_tokens left it; relative to the working directory
    min_crop_s: float
    max_crop_s: float
    seconds_per_tag: float  # one tag of a non-vocal section stands for this long
    sample_latents: bool  # draw latents from the VAE posterior anew at every step; false: its mean
    prefetch_steps: int  # batches read ahead while a step computes
    val_songs: int  # held-out songs of one validation pass, at most
    languages: tuple[LanguageShare, ...] = ()  # mixture of the train split; none: all songs, each once an epoch
    on_bad_shard: Literal["stop", "skip"] = "stop"  # skip: a damaged sample is counted and replaced by another song
    # webdataset: shards of a folder that has no index, streamed; a run that goes on is not exact
    reader: Literal["index", "webdataset"] = "index"
    val_seed: int = 0  # which held-out songs are drawn for validation, and how they are cut; the same for every run

    def __post_init__(self) -> None:
        """Refuse a span that holds no frame."""
        require(
            0 < self.min_crop_s <= self.max_crop_s,
            f"data.min_crop_s is {self.min_crop_s} and data.max_crop_s {self.max_crop_s}, expected 0 < min <= max",
        )
        require(self.seconds_per_tag > 0, f"data.seconds_per_tag is {self.seconds_per_tag}, expected more than 0")
        require(self.prefetch_steps >= 0, f"data.prefetch_steps is {self.prefetch_steps}, expected 0 or more")
        require(self.val_songs >= 0, f"data.val_songs is {self.val_songs}, expected 0 or more")
        require(
            self.reader == "index" or not self.languages,
            "data.languages is a mixture and data.reader webdataset, which knows no language before it reads a song; "
            "write an index (python -m shards repair), or leave data.languages out",
        )
        require(0 <= self.val_seed < 2**63, f"data.val_seed is {self.val_seed}, expected 0 to 2**63 - 1")
        named = [part.language for part in self.languages]
        require(len(set(named)) == len(named), f"data.languages is {named}, expected each language once")

    @property
    def max_crop_frames(self) -> int:
        """Frames of the longest crop."""
        return math.floor(self.max_crop_s * FRAME_RATE_HZ)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, or Muon for matrices of layers, with clipping by global norm; weight decay applies to matrices only."""

    kind: Literal["adamw", "muon"]  # muon: for attention and feed-forward, AdamW for the rest, at the same rate
    lr: float  # the schedule's peak
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float  # 0 turns clipping off
    momentum: float = 0.95  # Muon's

    def __post_init__(self) -> None:
        """Refuse what AdamW cannot use."""
        require(self.lr > 0, f"optimizer.lr is {self.lr}, expected more than 0")
        require(
            all(0 <= beta < 1 for beta in self.betas), f"optimizer.betas is {self.betas}, expected values in [0, 1)"
        )
        require(self.eps > 0, f"optimizer.eps is {self.eps}, expected more than 0")
        require(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}, expected 0 or more")
        require(self.clip_norm >= 0, f"optimizer.clip_norm is {self.clip_norm}, expected 0 or more")
        require(0 <= self.momentum < 1, f"optimizer.momentum is {self.momentum}, expected a value in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Linear warm-up, then a cosine (or nothing) down to `final_ratio` of the peak."""

    kind: Literal["cosine", "constant"]
    num_steps: int
    warmup_steps: int
    final_ratio: float

    def __post_init__(self) -> None:
        """Refuse a schedule that never ends or ends before it began."""
        require(self.num_steps > 0, f"schedule.num_steps is {self.num_steps}, expected more than 0")
        require(
            0 <= self.warmup_steps <= self.num_steps,
            f"schedule.warmup_steps is {self.warmup_steps}, expected 0 to num_steps = {self.num_steps}",
        )
        require(0 <= self.final_ratio <= 1, f"schedule.final_ratio is {self.final_ratio}, expected 0 to 1")

    def factor(self, global_step: int) -> float:
        """Return what the peak learning rate is multiplied by in step `global_step`, counted from 0."""
        if global_step < self.warmup_steps:
            return (global_step + 1) / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        done = (global_step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return self.final_ratio + (1.0 - self.final_ratio) * cosine


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """How a step is computed and how often it reports."""

    batch_size: int  # songs per update, over all ranks
    micro_batch_size: int = 0  # songs of one forward pass of a rank, at most: memory, never the result; 0: any number
    # Tokens of one, at most: positions of the LM with the longest prompt and lyrics; 0: any number. The fewest
    # micro-batches are made that one of the two limits, or both, allows.
    micro_batch_tokens: int = 0
    precision: Literal["fp32", "bf16"]  # bf16 keeps fp32 master weights
    zero_stage: Literal[0, 1, 2, 3]
    checkpoint_activations: Recompute  # what the backward pass recomputes; true: a third more compute, least memory
    flow_weight: float  # loss = token cross-entropy + flow_weight * flow MSE
    seed: int
    log_every: int  # steps between readable lines
    val_every: int  # steps between validation passes; 0: never
    ema_decay: float = 0.0  # of a moving average of the weights, kept beside them; 0: none
    # torch.compile; not with ZeRO 3 or LoRA's dropout; needs a C++ compiler on CPUs, Triton on GPUs. auto: on GPUs,
    # wherever it can be.
    compile_layers: Literal["auto", False, True] = False
    float8: bool = False  # products of the layers in float8, by torchao; not with ZeRO 3 or LoRA
    on_nonfinite: Literal["stop", "skip"] = "stop"  # skip: make no update, and never use the songs again that caused it
    max_loss_spike: float = 0.0  # times the median of the last losses that count as not finite too; 0: none does
    max_skipped_updates: int = 20  # of a whole run; one more ends it
    rank_timeout_s: float = 120.0  # a rank that does not move on for so long ends the run; 0: never

    def __post_init__(self) -> None:
        """Refuse counts that are none and a precision that DeepSpeed has no master weights for."""
        for name in ("batch_size", "log_every"):
            require(getattr(self, name) > 0, f"trainer.{name} is {getattr(self, name)}, expected more than 0")
        for name in ("micro_batch_size", "micro_batch_tokens"):
            require(getattr(self, name) >= 0, f"trainer.{name} is {getattr(self, name)}, expected 0 or more")
        require(
            self.micro_batch_size + self.micro_batch_tokens > 0,
            "trainer.micro_batch_size and trainer.micro_batch_tokens are both 0, expected a limit of songs, of tokens, "
            "or both",
        )
        require(self.val_every >= 0, f"trainer.val_every is {self.val_every}, expected 0 or more")
        require(0 <= self.ema_decay < 1, f"trainer.ema_decay is {self.ema_decay}, expected 0 to below 1")
        require(self.flow_weight >= 0, f"trainer.flow_weight is {self.flow_weight}, expected 0 or more")
        require(0 <= self.seed < 2**63, f"trainer.seed is {self.seed}, expected 0 to 2**63 - 1")
        require(
            self.max_loss_spike == 0 or self.max_loss_spike > 1,
            f"trainer.max_loss_spike is {self.max_loss_spike}, expected 0 or more than 1",
        )
        for name in ("max_skipped_updates", "rank_timeout_s"):
            require(getattr(self, name) >= 0, f"trainer.{name} is {getattr(self, name)}, expected 0 or more")
        require(
            self.precision == "fp32" or self.zero_stage > 0,
            "trainer.zero_stage is 0, which keeps no fp32 master weights; with precision bf16 use 2 or 3",
        )
        require(
            self.zero_stage < 3 or self.compile_layers is not True,
            "trainer.compile_layers is true and trainer.zero_stage 3, whose hooks around every module make the "
            "compiler give up after a few layers; use zero_stage 1 or 2, or compile_layers: auto",
        )
        require(
            self.zero_stage < 3 or not self.float8,
            "trainer.float8 is true and trainer.zero_stage 3, whose linear layer takes its place; use zero_stage 2",
        )

    def describe_micro_batches(self) -> str:
        """Return their limits in words."""
        limits = {"songs": self.micro_batch_size, "tokens": self.micro_batch_tokens}
        return " and ".join(f"up to {limit:,} {unit}" for unit, limit in limits.items() if limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """Where the run keeps its state, how often, and which checkpoints stay."""

    folder: str
    every: int  # steps
    keep: int  # of the newest
    every_minutes: float = 0.0  # one more where so much time has passed since the last; 0: by steps alone
    keep_best: int = 0  # besides, those of the lowest validation loss (of the moving average, where there is one)
    keep_every: int = 0  # besides, those of steps that are a multiple of this; 0: none
    shared: bool = True  # all ranks see one run folder, which is checked; false: each node has its own

    def __post_init__(self) -> None:
        """Refuse to keep nothing."""
        require(self.every > 0, f"checkpoint.every is {self.every}, expected more than 0")
        require(self.keep > 0, f"checkpoint.keep is {self.keep}, expected more than 0")
        for name in ("every_minutes", "keep_best", "keep_every"):
            require(getattr(self, name) >= 0, f"checkpoint.{name} is {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Weights to start from, and what of them to train; as it stands, random weights and everything."""

    weights: str = ""  # a run's folder, a checkpoint's, or a file of weights
    names: Literal["own", "reference"] = "own"  # reference: a file under the key names of released checkpoints
    new_codebook: bool = False  # the tokens are of another codebook: their embedding and classifier start anew
    lora_rank: int = 0  # above 0: train low-rank corrections of attention and feed-forward only (model/network/lora.py)
    lora_alpha: float = 16.0  # a correction is scaled by lora_alpha / lora_rank
    lora_targets: tuple[str, ...] = ("*",)  # patterns of the matrices that get one, such as lm.layers.*.attention.*
    lora_dropout: float = 0.0  # chance of a correction's input to be dropped in training
    freeze: tuple[str, ...] = ()  # patterns of parameter names that do not train, such as lm.layers.*

    def __post_init__(self) -> None:
        """Refuse adapters without size and a codebook that is new to random weights."""
        require(self.lora_rank >= 0, f"finetune.lora_rank is {self.lora_rank}, expected 0 or more")
        require(self.lora_alpha > 0, f"finetune.lora_alpha is {self.lora_alpha}, expected more than 0")
        require(0 <= self.lora_dropout < 1, f"finetune.lora_dropout is {self.lora_dropout}, expected 0 to below 1")
        require(bool(self.lora_targets), "finetune.lora_targets is empty, expected patterns such as lm.layers.*")
        require(
            bool(self.weights) or not self.new_codebook,
            "finetune.new_codebook is true, but finetune.weights names no weights: random ones have no codebook",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Who is told how the run goes, besides the log and metrics.jsonl."""

    tensorboard: bool = True  # event files in <run folder>/tensorboard
    wandb_project: str = ""  # Weights & Biases, where it is installed; "": not
    peak_tflops: float = 0.0  # of one device, what MFU is measured against; 0: looked up by the device's name
    samples_every: int = 0  # steps between songs generated on held-out lyrics and prompts; 0: never
    num_samples: int = 2
    max_sample_s: float = 20.0
    sample_euler_steps: int = 10  # near the best quality already, arXiv:2506.07634, 6.3

    def __post_init__(self) -> None:
        """Refuse samples without length."""
        for name in ("peak_tflops", "samples_every"):
            require(getattr(self, name) >= 0, f"report.{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("num_samples", "max_sample_s", "sample_euler_steps"):
            require(getattr(self, name) > 0, f"report.{name} is {getattr(self, name)}, expected more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides what a run computes."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    checkpoint: CheckpointConfig
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    deepspeed: dict[str, Any] = field(
        default_factory=dict
    )  # keys of DeepSpeed's own, see model/settings/deepspeed_config.py

    def __post_init__(self) -> None:
        """Refuse crops that hold no whole block, and those that fit into no micro-batch."""
        block_s = self.model.block_frames / FRAME_RATE_HZ
        require(
            self.data.min_crop_s >= block_s,
            f"data.min_crop_s is {self.data.min_crop_s}, expected at least a block of {block_s} s",
        )
        budget, longest = self.trainer.micro_batch_tokens, count_tokens(self.model, self.data.max_crop_frames)
        require(
            budget == 0 or budget >= longest,
            f"trainer.micro_batch_tokens is {budget}, expected 0 or at least {longest}: one song of data.max_crop_s = "
            f"{self.data.max_crop_s:g} with the longest prompt and lyrics",
        )
        if self.optimizer.kind == "muon":
            require(
                self.trainer.zero_stage < 3,
                "optimizer.kind is muon and trainer.zero_stage 3, which leaves whole matrices to no rank; expected "
                "zero_stage 0 to 2, or kind adamw",
            )
            require(
                self.finetune.lora_rank == 0,
                "optimizer.kind is muon and finetune.lora_rank above 0, but Muon trains the matrices that LoRA "
                "freezes; expected lora_rank 0, or kind adamw",
            )
        require(
            not self.trainer.float8 or self.finetune.lora_rank == 0,
            "trainer.float8 is true and finetune.lora_rank above 0, whose layers have products of their own; set one "
            "of them to false or 0",
        )
        require(
            not self.finetune.lora_dropout or self.trainer.compile_layers is not True,
            "finetune.lora_dropout is above 0 and trainer.compile_layers true, but what is dropped changes with every "
            "batch, which compiled layers do not see; set one of them to 0 or false",
        )

    def compiles_layers(self, device_type: str) -> bool:
        """Tell whether layers are compiled on such a device, "cuda" or "cpu"."""
        if self.trainer.compile_layers != "auto":
            return self.trainer.compile_layers
        return device_type == "cuda" and self.trainer.zero_stage < 3 and not self.finetune.lora_dropout

    def count_longest_songs(self, excess: float = 0.0) -> float:
        """Return how many of the longest crops a micro-batch holds, a fraction where tokens are limited.

        Args:
            excess: by which crops may be longer than planned, relative to that.
        """
        size, budget = self.trainer.micro_batch_size or math.inf, self.trainer.micro_batch_tokens or math.inf
        return min(size, (1 + excess) * budget / count_tokens(self.model, self.data.max_crop_frames))

    def count_micro_batches(self, world_size: int) -> tuple[int, int]:
        """Return how many micro-batches each rank computes in a step: at least with even lengths, and at most.

        Even: as many crops of each length from data.min_crop_s to data.max_crop_s. Most: all crops are the longest.
        """
        trainer, songs_per_rank = self.trainer, math.ceil(self.trainer.batch_size / world_size)
        most = math.ceil(songs_per_rank / math.floor(self.count_longest_songs()))
        if not trainer.micro_batch_tokens:
            return most, most
        mean_frames = math.floor((self.data.min_crop_s + self.data.max_crop_s) / 2 * FRAME_RATE_HZ)
        tokens = trainer.batch_size * count_tokens(self.model, mean_frames)
        by_size = math.ceil(songs_per_rank / (trainer.micro_batch_size or trainer.batch_size))
        return max(by_size, math.ceil(tokens / (world_size * trainer.micro_batch_tokens))), most

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: what YAML and JSON hold."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration; `overrides` are `section.key=value`.

    The name is tried as a path, then in `model/configs/`.

    Raises:
        ConfigError: no such file, no YAML, or anything in it that a RunConfig does not have; the message starts
            with the file and the key.
    """
    path = _find(Path(name_or_path))
    tree = read_yaml(path)
    for setting in overrides:
        override(tree, setting)
    config = config_from_dict(tree, path.name)
    try:
        deepspeed_settings(config, world_size=1)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from error
    return config


def config_from_dict(tree: object, source: str) -> RunConfig:
    """Return the RunConfig that plain values describe; `source` names them in errors."""
    passed = {}
    if isinstance(tree, dict) and "deepspeed" in tree:  # its keys are DeepSpeed's: they are checked when they are used
        passed = tree["deepspeed"]
        tree = {key: value for key, value in tree.items() if key != "deepspeed"}
        require(isinstance(passed, dict), f"{source}.deepspeed: {passed!r:.100}, expected a section with keys")
    config: RunConfig = build(RunConfig, tree, source)
    return dataclasses.replace(config, deepspeed=passed)


def deepspeed_settings(config: RunConfig, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for `world_size` ranks: ours, with the section `deepspeed` laid over it.

    Gradients are summed and reduced in fp32 at any precision, so that the result does not depend on how the
    global batch is cut. They are reduced while the backward pass goes on (`overlap_comm`), in buckets that take two
    times 0.4 GB in fp32; with ZeRO 1 and 2 each is reduced to the rank that needs it, half the bytes of adding it up on
    all ranks, which is DeepSpeed's default (test_wire.py). `torch_adam` takes PyTorch's AdamW: nothing is
    compiled at start. Its fused kernel needs no temporary copies, which for 1.9 B parameters would be many gigabytes.

    Raises:
        ConfigError: a key of the section `deepspeed` is unknown or contradicts another section, or DeepSpeed would
            run another optimizer than these settings say.
    """
    optimizer = config.optimizer
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": math.floor(config.count_longest_songs()),
        "gradient_accumulation_steps": config.count_micro_batches(world_size)[1],
        "gradient_clipping": optimizer.clip_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.lr,
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,
                "fused": True,
            },
        },
        "zero_optimization": {
            "stage": config.trainer.zero_stage,
            "overlap_comm": config.trainer.zero_stage > 0,
            "reduce_bucket_size": BUCKET_NUMBERS,
        },
        "zero_force_ds_cpu_optimizer": False,  # its own AdamW for the CPU would have to be compiled
        "bf16": {"enabled": config.trainer.precision == "bf16"},
        "communication_data_type": "fp32",
    }
    if optimizer.kind == "muon":  # made by model/training/engine.py
        del settings["optimizer"]
        settings["zero_allow_untested_optimizer"] = True
    if config.trainer.zero_stage > 0:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if config.trainer.zero_stage in (1, 2):
        settings["zero_optimization"]["use_multi_rank_bucket_allreduce"] = False
    merged = merge_passed(settings, config.deepspeed)
    is_offloaded = (merged["zero_optimization"].get("offload_optimizer") or {}).get("device", "none") == "cpu"
    require(
        optimizer.kind == "adamw" or not is_offloaded,
        "optimizer.kind is muon, whose products need a GPU, and deepspeed.zero_optimization.offload_optimizer moves "
        "them to the CPU; expected kind adamw, or no offload_optimizer",
    )
    return merged


def _find(path: Path) -> Path:
    for candidate in (path, CONFIG_FOLDER / path):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(known.name for known in CONFIG_FOLDER.glob("*.yaml")))
    raise ConfigError(f"config {path}: no such file, here or in model/configs/ (shipped: {shipped})")
