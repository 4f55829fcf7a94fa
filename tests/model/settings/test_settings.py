"""Configurations: what is shipped loads, what is wrong is refused by file and key."""

from pathlib import Path

import pytest
import yaml

from model.network.config import ConfigError
from model.settings.settings import CONFIG_FOLDER, ScheduleConfig, config_from_dict, deepspeed_settings, load_config
from tests.shards.damage import damage, measure

SHIPPED = sorted(path.name for path in CONFIG_FOLDER.glob("*.yaml"))


@pytest.fixture
def tree() -> dict:
    return load_config("full.yaml").to_dict()


def refusal(tree: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(tree, "full.yaml")
    return str(caught.value)


def test_the_shipped_configurations_are_the_published_models():
    configs = {name: load_config(name) for name in SHIPPED}
    assert set(configs) == {"full.yaml", "long.yaml", "miniature.yaml", "paper.yaml", "tiny.yaml"}
    layers = {name: (config.model.lm_layers, config.model.dit_layers) for name, config in configs.items()}
    assert layers["full.yaml"] == layers["long.yaml"] == (36, 12)
    assert layers["paper.yaml"] == (24, 12)
    assert layers["tiny.yaml"] == (24, 8)
    full, long = configs["full.yaml"], configs["long.yaml"]
    assert (full.model.dim, full.data.max_crop_s, full.trainer.batch_size, full.trainer.precision) == (
        1536,
        150,
        128,
        "bf16",
    )
    assert (full.optimizer.lr, full.schedule.warmup_steps, full.schedule.num_steps) == (1e-4, 2000, 150_000)
    assert (long.model.lm_rope_base, long.model.dit_rope_base, long.data.seconds_per_tag) == (40_000, 20_000, 5)
    assert (long.model.conditions.max_lyric_tokens, long.data.max_crop_s) == (1000, 240)
    assert configs["tiny.yaml"].data.max_crop_s == 60


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_values_and_back_is_the_same_configuration(name: str):
    config = load_config(name)
    assert config_from_dict(config.to_dict(), name) == config


def test_every_key_is_explained():
    """In full.yaml, where its source is told, or in the README's table of keys that may be left out."""
    explained = (CONFIG_FOLDER / "full.yaml").read_text() + (CONFIG_FOLDER.parent / "README.md").read_text()

    def names(tree: dict) -> set[str]:
        return set(tree) | {name for value in tree.values() if isinstance(value, dict) for name in names(value)}

    assert not [name for name in names(load_config("full.yaml").to_dict()) if name not in explained]


def test_a_path_comes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: dict):
    tree["optimizer"]["lr"] = 0.5
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    assert load_config("full.yaml").optimizer.lr == 0.5


def test_an_unknown_key_is_named_with_the_nearest(tree: dict):
    tree["optimizer"]["knd"] = tree["optimizer"].pop("kind")
    assert refusal(tree) == "full.yaml.optimizer: unknown key 'knd'; did you mean 'kind'?"


@pytest.mark.parametrize(
    ("written", "meant"), [("1e-4", "1.0e-4"), ("1e4", "1.0e+4"), ("2.5e-4", "2.5e-4"), ("-.0", None), ("fast", None)]
)
def test_a_number_that_yaml_reads_as_text_is_explained(tree: dict, written: str, meant: str | None):
    tree["optimizer"]["lr"] = written
    hint = f"; in YAML write {meant}" if meant else ""
    assert refusal(tree) == f"full.yaml.optimizer.lr: '{written}' is str, expected float{hint}"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("trainer", "zero_stage", 4, "full.yaml.trainer.zero_stage: 4, expected one of 0, 1, 2, 3"),
        ("trainer", "zero_stage", True, "full.yaml.trainer.zero_stage: True, expected one of 0, 1, 2, 3"),
        ("trainer", "batch_size", 1.0, "full.yaml.trainer.batch_size: 1.0 is float, expected int"),
        ("trainer", "batch_size", 0, "full.yaml: trainer.batch_size is 0, expected more than 0"),
        ("trainer", "precision", "fp16", "full.yaml.trainer.precision: 'fp16', expected one of 'fp32', 'bf16'"),
        ("optimizer", "betas", [0.9], "full.yaml.optimizer.betas: 1 values, expected 2"),
        ("optimizer", "betas", [0.9, "x"], "full.yaml.optimizer.betas[1]: 'x' is str, expected float"),
        ("optimizer", "lr", float("nan"), "full.yaml.optimizer.lr: nan, expected a finite number"),
        ("optimizer", "lr", 10**400, "is int, expected float"),
        ("data", "min_crop_s", 0.5, "full.yaml: data.min_crop_s is 0.5, expected at least a block of 0.64 s"),
        ("schedule", "warmup_steps", 10**6, "full.yaml: schedule.warmup_steps is 1000000, expected 0 to num_steps"),
        ("model", "dropout", {"conditions": 2.0}, "model.dropout.conditions is 2.0"),
        ("model", "dropout", 3, "full.yaml.model.dropout: 3, expected a section with keys"),
    ],
)
def test_a_wrong_value_is_named_by_file_and_key(tree: dict, section: str, key: str, value: object, message: str):
    tree[section][key] = value
    assert message in refusal(tree)


def test_a_missing_key_is_named(tree: dict):
    del tree["schedule"]["kind"]
    assert refusal(tree) == "full.yaml.schedule: key 'kind' is missing"


def test_bf16_without_master_weights_is_refused(tree: dict):
    tree["trainer"]["zero_stage"] = 0
    assert "trainer.zero_stage is 0" in refusal(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {dim: 1, dim: 2}", "key 'dim' stands here twice"),
        ("model: [", "not YAML"),
        ("", "expected a section with keys"),
        ("model: !!python/object/apply:os.getcwd []", "tags such as 'tag:yaml.org,2002:python/object/apply:o"),
        ("model: !!int '1:59:59'", "tags such as 'tag:yaml.org,2002:int' are not read here"),
        ("model: !x 1", "tags such as '!x' are not read here"),
        ("model: &a 1", "anchors (&) and aliases (*) are not read here"),
        ("a: &a [*a]", "anchors (&) and aliases (*) are not read here"),
        ("model: {<<: {dim: 1}}", "merge keys (<<) are not read here; write the keys out"),
        ("? {a: 1}\n: 2", "not YAML"),
        ("model: 0x" + "f" * 5000, "a number of 5002 letters, expected at most 40"),
        ("0x" + "f" * 5000 + ": 1", "not YAML"),
        ("model: 0x_", "not YAML"),
        ("[" * 5000, "more than 16 levels"),
        ("- a\n" * 5000, "more than 2000 keys and values"),
        ("# " * 20_000, "expected a config of at most 32768 bytes"),
        ("model: 1\n---\nmodel: 2", "expected a single document"),
        ("model: \x00", "not YAML"),
    ],
)
def test_hostile_yaml_ends_in_one_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="bad.yaml") as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [("1:30:00", "'1:30:00'"), ("190:20:30.15", "'190:20:30.15'"), ("2026-11-30", "'2026-11-30'"), ("=", "'='")],
)
def test_times_and_dates_are_texts(tmp_path: Path, text: str, found: str):
    """YAML 1.1 takes 1:30:00 for 5400, a number to the base of sixty."""
    (tmp_path / "a.yaml").write_text((CONFIG_FOLDER / "full.yaml").read_text().replace("lr: 1.0e-4", f"lr: {text}"))
    with pytest.raises(ConfigError, match=f"a.yaml.optimizer.lr: {found} is str, expected float"):
        load_config(tmp_path / "a.yaml")


_READ = """
from model.settings.settings import load_config
def read(path):
    load_config(path)
"""


def test_bombs_take_neither_memory_nor_time(tmp_path: Path):
    """Each took from eight seconds to more than a minute."""
    merges = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 40))
    aliases = "a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 40))
    sixties = "a: 1" + ":59" * 300_000
    short = "a: 1" + ":59" * 10_000
    tagged = 'a: !!int "1' + ":59" * 10_000 + '"'
    keys = "".join(f"k{k}: 1\n" for k in range(90_000))
    few = "".join(f"k{k}: 1\n" for k in range(3_000))
    texts = {"merges": merges, "aliases": aliases, "sixties": sixties, "short": short, "tagged": tagged, "keys": keys}
    texts |= {"few": few, "braces": "{a: " * 8_000, "brackets": "[" * 32_000}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    results = measure(_READ, *(tmp_path / f"{name}.yaml" for name in texts))
    for name, result in zip(texts, results, strict=True):
        assert result["error"].startswith(f"ConfigError: {name}.yaml"), name
        assert result["seconds"] < 2, name  # one, on a machine that does nothing else
        assert result["mb"] < 50, name


def test_damaged_configurations_end_in_one_line(tmp_path: Path):
    path, data, num_refused = tmp_path / "damaged.yaml", (CONFIG_FOLDER / "full.yaml").read_bytes(), 0
    for changed in damage(data, 300):
        path.write_bytes(changed)
        try:
            load_config(path)
        except ConfigError as error:
            message, num_refused = str(error), num_refused + 1
            assert message.startswith("damaged.yaml")
            assert "\n" not in message
    assert num_refused > 50  # much of the file is comments


def test_overrides_are_read_as_strictly():
    for value, message in (
        ("&a 1", "anchors"),
        ("!!int 1", "tags"),
        ("[" * 50, "levels"),
        ("0x" + "f" * 999, "letters"),
    ):
        with pytest.raises(ConfigError, match=f"--set .* the value is not YAML: .*{message}"):
            load_config("full.yaml", [f"trainer.seed={value}"])


def test_a_missing_file_lists_what_is_shipped():
    with pytest.raises(ConfigError, match=r"config fll\.yaml: no such file.*full\.yaml"):
        load_config("fll.yaml")


def test_overrides_reach_every_section():
    config = load_config("full.yaml", ["optimizer.lr=1e-3", "model.dropout.mode=independent", "trainer.seed=7"])
    assert (config.optimizer.lr, config.model.dropout.mode, config.trainer.seed) == (1e-3, "independent", 7)


@pytest.mark.parametrize(
    "setting", ["lr=1", "optimizer.lr", "optimizer.lr.x=1", "optimizer.rate=1", "optimizer.lr=[", "=1"]
)
def test_a_wrong_override_is_refused(setting: str):
    with pytest.raises(ConfigError, match="optimizer|--set"):
        load_config("full.yaml", [setting])


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 64), (16, 4), (3, 22), (128, 1), (200, 1)])
def test_deepspeed_gets_enough_micro_batches_for_every_song(world_size: int, micro_batches: int):
    config = load_config("full.yaml", ["trainer.micro_batch_size=2"])
    settings = deepspeed_settings(config, world_size)
    assert settings["gradient_accumulation_steps"] == micro_batches
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["bf16"] == {"enabled": True}
    assert settings["zero_optimization"]["stage"] == config.trainer.zero_stage
    assert settings["optimizer"]["params"]["torch_adam"] is True


def test_micro_batches_are_limited_by_songs_or_by_tokens_or_by_both(tree: dict):
    def count(world_size: int, size: int, tokens: int) -> tuple[int, int]:
        limits = [f"trainer.micro_batch_size={size}", f"trainer.micro_batch_tokens={tokens}"]
        config = load_config("full.yaml", limits)
        settings = deepspeed_settings(config, world_size)
        assert settings["gradient_accumulation_steps"] == config.count_micro_batches(world_size)[1]
        return config.count_micro_batches(world_size)

    assert count(16, 0, 14_800) == (2, 3), "of crops of even lengths, and of the longest"
    assert count(1, 0, 14_800) == (32, 43)
    assert count(16, 2, 0) == (4, 4)
    assert count(16, 2, 14_800) == (4, 4)
    tree["trainer"]["micro_batch_tokens"] = 4000
    assert "trainer.micro_batch_tokens is 4000, expected 0 or at least 4829: one song of" in refusal(tree)
    tree["trainer"]["micro_batch_tokens"] = 0
    assert "trainer.micro_batch_size and trainer.micro_batch_tokens are both 0" in refusal(tree)


def test_compiled_layers_under_zero_3_are_refused(tree: dict):
    tree["trainer"] |= {"zero_stage": 3, "compile_layers": True}
    assert "full.yaml: trainer.compile_layers is true and trainer.zero_stage 3" in refusal(tree)


def test_the_schedule_warms_up_and_falls_to_its_floor():
    schedule = ScheduleConfig(kind="cosine", num_steps=110, warmup_steps=10, final_ratio=0.1)
    assert [schedule.factor(step) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert schedule.factor(60) == pytest.approx(0.55)
    assert schedule.factor(110) == schedule.factor(999) == pytest.approx(0.1)
    constant = ScheduleConfig(kind="constant", num_steps=110, warmup_steps=0, final_ratio=0.1)
    assert constant.factor(0) == constant.factor(109) == 1.0
