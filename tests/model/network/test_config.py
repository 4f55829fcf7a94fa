"""Tests of model/network/config.py."""

import pytest

from model.network.config import ConditionsConfig, ConfigError, DropoutConfig, ModelConfig


def test_defaults_are_the_released_shape() -> None:
    config = ModelConfig()
    assert (config.dim, config.head_dim, config.dit_rotary_dim) == (1536, 64, 32)
    assert (config.eos_id, config.table_rows) == (16384, 16386)
    assert (config.conditions.vocabulary_size, config.conditions.tag_ids) == (330, (1, 2, 3, 4, 5, 6, 7))
    assert (config.conditions.comma_id, config.conditions.period_id) == (9, 11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 100, "num_heads": 3}, "model.dim 100 is not a multiple of model.num_heads 3"),
        ({"dim": 64, "num_heads": 4}, "heads of 16 channels"),
        ({"lm_layers": 0}, "model.lm_layers is 0, expected at least 1"),
        ({"time_features": 9}, "model.time_features is 9"),
        ({"dit_rope_base": float("nan")}, "model.dit_rope_base is nan"),
        ({"init_std": -1.0}, "model.init_std is -1.0"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_sentences": 1}, "model.conditions.max_sentences is 1"),
        ({"tag_ids": (1, 330)}, "id 330 of a tag, comma or period is outside 1..329"),
        ({"comma_id": 11}, "share an id"),
        ({"prompt_frames": -1}, "model.conditions.prompt_frames is -1"),
    ],
)
def test_impossible_conditions_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConditionsConfig(**change)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_is_a_probability(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"model\.dropout\.semantic is .*, expected a probability"):
        DropoutConfig(semantic=rate)
