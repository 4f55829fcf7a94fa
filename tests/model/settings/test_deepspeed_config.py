"""The section `deepspeed`: passed on as it stands, unless it says what another section decides."""

from pathlib import Path

import deepspeed
import pytest
import torch
import yaml

from model.network.config import ConfigError
from model.network.song_model import SongModel
from model.settings.deepspeed_config import ELSEWHERE, SAME_AS, TOP_LEVEL
from model.settings.settings import config_from_dict, deepspeed_settings, load_config
from model.training.engine import OPTIMIZERS
from model.training.ranks import Ranks
from model.training.trainer import Trainer

from ..tiny_dataset import tiny_config


def refusal(passed: dict, **changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        deepspeed_settings(tiny_config(Path("data"), Path("run"), deepspeed=passed, **changes), 1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_any_other_key_passes_and_stays_in_the_configuration():
    passed = {
        "zero_optimization": {"reduce_bucket_size": 5_000_000, "offload_optimizer": {"device": "cpu"}},
        "communication_data_type": "bf16",
        "comms_logger": {"enabled": True},
    }
    config = tiny_config(Path("data"), Path("run"), deepspeed=passed, trainer__zero_stage=2)
    settings = deepspeed_settings(config, 2)
    zero = settings["zero_optimization"]
    ours = {"stage": 2, "overlap_comm": True, "use_multi_rank_bucket_allreduce": False}
    assert zero == passed["zero_optimization"] | ours
    assert settings["communication_data_type"] == "bf16"
    assert settings["comms_logger"] == {"enabled": True}
    assert config_from_dict(config.to_dict(), "again") == config


@pytest.mark.parametrize(
    ("passed", "message"),
    [
        ({"zero_optimisation": {}}, "deepspeed: unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        (
            {"zero_optimization": {"stage": 3}},
            "deepspeed.zero_optimization.stage is 3, expected 2, which trainer.zero_stage says; set that instead",
        ),
        ({"gradient_clipping": 0.5}, "deepspeed.gradient_clipping is 0.5, expected 1.0, which optimizer.clip_norm"),
        ({"bf16": {"enabled": True}}, "deepspeed.bf16.enabled is True, expected False, which trainer.precision says"),
        ({"fp16": {"enabled": True}}, "deepspeed.fp16 is set, but that is decided by trainer.precision; take it out"),
        ({"optimizer": {"type": "Lion"}}, "deepspeed.optimizer is set, but that is decided by section optimizer"),
        ({"scheduler": {}}, "deepspeed.scheduler is set, but that is decided by section schedule"),
        ({"train_batch_size": 7}, "deepspeed.train_batch_size is set, but that is decided by trainer.batch_size"),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            "offload_param moves tensors to the CPU, which trainer.zero_stage 2 ignores; expected a stage of 3",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "deepspeed.zero_optimization.offload_optimizer.device is 'nvme', expected cpu or none",
        ),
    ],
)
def test_a_second_opinion_is_refused_with_the_key_what_was_found_and_what_to_do(passed: dict, message: str):
    assert message in refusal(passed, trainer__zero_stage=2)


def test_the_same_value_is_no_contradiction():
    passed = {"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0, "train_micro_batch_size_per_gpu": 2}
    deepspeed_settings(tiny_config(Path("data"), Path("run"), deepspeed=passed, trainer__zero_stage=2), 1)


def test_bf16_under_zero_1_must_say_how_it_sums(tmp_path: Path):
    said = refusal({}, trainer__zero_stage=1, trainer__precision="bf16")
    assert "DeepSpeed takes its BF16_Optimizer" in said
    assert "expected zero_stage 2 or 3, or deepspeed: {data_types: {grad_accum_dtype: bf16}}" in said
    config = tiny_config(Path("data"), Path("run"), trainer__zero_stage=1, trainer__precision="bf16")
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    with pytest.raises(ConfigError, match=r"old\.yaml: trainer\.zero_stage is 1 and trainer\.precision bf16"):
        load_config(path)
    assert config_from_dict(config.to_dict(), "a checkpoint that was trained so") == config, "can still be read"


def test_every_name_is_one_that_deepspeed_knows():
    sources = [path.read_text() for path in Path(deepspeed.__file__).parent.rglob("*.py")]
    unknown = [name for name in TOP_LEVEL if not any(f'"{name}"' in text or f"'{name}'" in text for text in sources)]
    assert not unknown
    assert {key.split(".")[0] for key in (*ELSEWHERE, *SAME_AS)} <= set(TOP_LEVEL)


def make_trainer(dataset: Path, ranks: Ranks, passed: dict, **changes: object) -> Trainer:
    config = tiny_config(dataset, dataset / "unused", deepspeed=passed, **changes)
    torch.manual_seed(0)
    return Trainer(SongModel(config.model), config, ranks)


@pytest.mark.parametrize(
    ("stage", "precision", "passed"),
    [
        (0, "fp32", {}),
        (1, "fp32", {}),
        (1, "bf16", {"data_types": {"grad_accum_dtype": "bf16"}}),
        (2, "bf16", {}),
        (2, "bf16", {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}),
        (3, "bf16", {}),
    ],
)
def test_the_optimizer_that_runs_is_the_one_that_shards(
    dataset: Path, ranks: Ranks, stage: int, precision: str, passed: dict
):
    linear = torch.nn.functional.linear
    trainer = make_trainer(dataset, ranks, passed, trainer__zero_stage=stage, trainer__precision=precision)
    assert trainer.optimizer_name == OPTIMIZERS[stage]
    trainer.close()
    assert torch.nn.functional.linear is linear, "ZeRO 3's, which rounds otherwise, is left for the next run"


def test_another_optimizer_is_refused(dataset: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch):
    """DeepSpeed still takes the one that does not shard; when it no longer does, the check above it can go."""
    monkeypatch.setattr("model.settings.deepspeed_config._check_zero", lambda settings: None)
    with pytest.raises(ConfigError, match=r"zero_stage 1: DeepSpeed runs deepspeed\.runtime\.bf16_optimizer\.BF16_"):
        make_trainer(dataset, ranks, {}, trainer__zero_stage=1, trainer__precision="bf16")


@pytest.mark.parametrize(
    ("passed", "message"),
    [
        ({"zero_optimization": {"overlap_com": True}}, "DeepSpeedZeroConfig does not take overlap_com: "),
        ({"zero_optimization": {"reduce_bucket_size": "huge"}}, "does not take reduce_bucket_size: "),
        ({"communication_data_type": "fp7"}, "DeepSpeed refuses it: Invalid communication_data_type"),
    ],
)
def test_what_deepspeed_refuses_ends_with_its_reason_in_one_line(
    dataset: Path, ranks: Ranks, passed: dict, message: str
):
    with pytest.raises(ConfigError, match="section deepspeed: ") as caught:
        make_trainer(dataset, ranks, passed, trainer__zero_stage=2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
