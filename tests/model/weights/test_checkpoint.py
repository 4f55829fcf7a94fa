"""Checkpoints: whole or not there, never of another model, never unpickled."""

import errno
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.network.lora import add_adapters, merge_adapters
from model.network.song_model import SongModel
from model.settings.settings import RunConfig, config_from_dict
from model.weights import checkpoint
from model.weights.base_weights import load_model
from model.weights.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    TrainState,
    find_newest,
    list_checkpoints,
    load_weights,
    read_state,
    refuse_other_model,
    verify,
)

from ..tiny_dataset import tiny_config


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return tiny_config(tmp_path / "data", tmp_path / "run")


@pytest.fixture
def run(tmp_path: Path, config: RunConfig) -> Path:
    """A run with checkpoints of steps 4 and 8, which differ."""
    for step in (4, 8):
        save(tmp_path / "run", config, step)
    return tmp_path / "run"


def make_model(config: RunConfig, seed: int) -> SongModel:
    torch.manual_seed(seed)
    model = SongModel(config.model)
    model.set_latent_statistics(torch.full((4,), 0.5), torch.full((4,), 2.0 + seed))
    return model


def make_state(step: int) -> TrainState:
    return TrainState(
        global_step=step,
        seed=1,
        dataset_fingerprint="tiny",
        first_loss=9.5,
        first_val_loss=None,
        last_val_loss=None,
        losses=(9.5, 1 / 3),
        songs_seen=5 * step,
        skipped_updates=1,
        denied_songs=("a-song", "another"),
    )


def save(folder: Path, config: RunConfig, step: int, **changes: object) -> Path:
    with CheckpointWriter(folder, replace(make_state(step), **changes), config) as writer:
        writer.add("model", make_model(config, step).state_dict())
        writer.add("optimizer_exp_avg", {"bos_D": torch.ones(64)})
    return writer.path


def with_model(config: RunConfig, **changes: object) -> RunConfig:
    tree = config.to_dict()
    tree["model"] |= changes
    return config_from_dict(tree, "other")


def test_what_was_written_is_read(run: Path, config: RunConfig):
    newest = find_newest(run)
    assert newest == run / "step_000008"
    assert read_state(newest) == (make_state(8), config)
    model = make_model(config, seed=0)
    load_weights(newest / "model.safetensors", model)
    expected = make_model(config, 8).state_dict()
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }
    tensors = dict(checkpoint.read_tensors(newest / "optimizer_exp_avg.safetensors"))
    assert tensors["bos_D"].tolist() == [1.0] * 64


@pytest.mark.parametrize("place", [".", "step_000008", "step_000008/model.safetensors"])
def test_a_model_loads_from_a_run_a_checkpoint_or_a_file(run: Path, config: RunConfig, place: str):
    model, found = load_model(run / place)
    assert found == config
    assert not model.training
    assert model.latent_std_C.tolist() == [10.0] * 4
    assert torch.equal(model.bos_D, make_model(config, 8).bos_D)


def test_weights_load_in_bfloat16_but_statistics_stay_exact(
    run: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    allocated: list[torch.dtype] = []
    to_empty = SongModel.to_empty

    def watch(model: SongModel, **options: object) -> SongModel:
        emptied = to_empty(model, **options)
        allocated.extend(parameter.dtype for parameter in emptied.parameters())
        return emptied

    monkeypatch.setattr(SongModel, "to_empty", watch)
    model, _ = load_model(run, "cpu", torch.bfloat16)
    assert set(allocated) == {torch.bfloat16}, "float32 weights would take twice the memory of a GPU"
    exact = make_model(config, 8)
    for name, parameter in exact.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.bfloat16()), name
    for name in ("latent_mean_C", "latent_std_C"):
        assert model.get_buffer(name).dtype == torch.float32
        assert torch.equal(model.get_buffer(name), exact.get_buffer(name))


def test_adapters_are_merged_before_weights_are_rounded(tmp_path: Path, config: RunConfig):
    """A correction of a thousandth of a weight is below bfloat16's resolution; many of them are not."""
    tree = config.to_dict()
    tree["finetune"] |= {"lora_rank": 2, "lora_alpha": 2.0}
    adapted = config_from_dict(tree, "adapted")
    torch.manual_seed(0)
    model = SongModel(config.model)
    add_adapters(model, 2, 2.0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_up_OR"):
            torch.nn.init.normal_(parameter, std=1e-3)
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, {"config": json.dumps(adapted.to_dict())})
    merge_adapters(model)
    found, _ = load_model(path, "cpu", torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter.bfloat16()), name


def test_the_best_and_round_steps_stay_too(tmp_path: Path, config: RunConfig):
    rules = replace(config.checkpoint, keep=1, keep_best=2, keep_every=10)
    config = replace(config, checkpoint=rules)
    losses = {4: 3.0, 8: 1.0, 10: 9.0, 12: 2.0, 14: 2.5, 16: None, 18: 7.0}
    for step, loss in losses.items():
        save(tmp_path / "run", config, step, last_val_step=None if loss is None else step, val_score=loss)
    kept = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert kept == ["step_000018", "step_000012", "step_000010", "step_000008"]
    save(tmp_path / "run", config, 20, last_val_step=18, val_score=0.0)  # of other weights
    kept = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert kept == ["step_000020", "step_000012", "step_000010", "step_000008"]


def test_a_checkpoint_of_before_knows_how_many_songs_it_has_seen(run: Path, config: RunConfig):
    path = run / "step_000008" / "state.json"
    record = json.loads(path.read_text())
    for name in ("songs_seen", "skipped_updates", "denied_songs", "last_val_step", "val_score"):
        del record["state"][name]
    path.write_text(json.dumps(record))
    state, _ = read_state(run / "step_000008")
    assert state.songs_seen == 8 * config.trainer.batch_size
    assert (state.skipped_updates, state.denied_songs) == (0, ())


def test_only_the_newest_stay(run: Path, config: RunConfig):
    save(run, config, 12)
    assert [path.name for path in list_checkpoints(run)] == ["step_000012", "step_000008"]
    assert not (run / "step_000004").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer_exp_avg.safetensors", "state.json"])
def test_a_cut_checkpoint_is_skipped(run: Path, name: str, caplog: pytest.LogCaptureFixture):
    data = (run / "step_000008" / name).read_bytes()
    (run / "step_000008" / name).write_bytes(data[:-1])
    assert find_newest(run) == run / "step_000004"
    assert f"{name} has {len(data) - 1} bytes, expected {len(data)}" in caplog.text


def test_a_checkpoint_without_its_marker_is_skipped(run: Path, caplog: pytest.LogCaptureFixture):
    (run / "step_000008" / "complete.json").unlink()
    assert find_newest(run) == run / "step_000004"
    assert "step_000008: complete.json is missing: it was never finished" in caplog.text


def test_a_flipped_bit_is_found(run: Path, caplog: pytest.LogCaptureFixture):
    path = run / "step_000008" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert find_newest(run) == run / "step_000004"
    assert "model.safetensors is damaged" in caplog.text
    with pytest.raises(CheckpointError, match="SHA-256"):
        verify(run / "step_000008")


@pytest.mark.parametrize(
    "marker",
    [
        "{}",
        "[]",
        "{",
        '{"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}',
        '{"files": {"model.safetensors": 3}}',
    ],
)
def test_a_hostile_marker_is_refused(run: Path, marker: str):
    (run / "step_000008" / "complete.json").write_text(marker)
    assert find_newest(run) == run / "step_000004"


def test_a_kill_while_writing_leaves_the_older_and_is_cleaned_up(run: Path, config: RunConfig):
    partial = run / ".step_000012.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert find_newest(run) == run / "step_000008"
    save(run, config, 12)
    assert find_newest(run) == run / "step_000012"
    assert sorted(path.name for path in run.iterdir()) == ["step_000008", "step_000012"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(run: Path, config: RunConfig):
    (run / "step_000008" / "complete.json").unlink()
    save(run, config, 8)
    assert find_newest(run) == run / "step_000008"


def test_a_full_disk_leaves_older_checkpoints(run: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"step_000012 cannot be written: No space left on device; older"):
        save(run, config, 12)
    assert sorted(path.name for path in run.iterdir()) == ["step_000004", "step_000008"]


def test_an_error_while_gathering_leaves_nothing(run: Path, config: RunConfig):
    with pytest.raises(KeyError), CheckpointWriter(run, make_state(12), config):
        raise KeyError
    assert sorted(path.name for path in run.iterdir()) == ["step_000004", "step_000008"]


def test_another_model_is_refused_by_its_first_setting(run: Path, config: RunConfig):
    path = run / "step_000008"
    with pytest.raises(
        CheckpointError, match=r"step_000008 is of another model: model\.dim is 64 there and 128 in this"
    ):
        refuse_other_model(path, config, with_model(config, dim=128, dit_layers=2))
    with pytest.raises(CheckpointError, match=r"model\.lm_rope_base is 20000\.0 there and 40000\.0"):
        refuse_other_model(path, config, with_model(config, lm_rope_base=40000.0))
    refuse_other_model(path, config, with_model(config, dropout={"prompt": 0.3}))


def test_other_tensors_are_refused_by_name_and_shape(run: Path, config: RunConfig):
    path = run / "step_000008" / "model.safetensors"
    with pytest.raises(
        CheckpointError, match=r"tensor semantic_table\.weight has shape \(34, 64\) there, expected \(66, 64\)"
    ):
        load_weights(path, SongModel(with_model(config, codebook_size=64).model))
    with pytest.raises(CheckpointError, match=r"tensor lm\.layers\.1\..*: the file lacks it"):
        load_weights(path, SongModel(with_model(config, lm_layers=2).model))
    weights = load_file(path)
    save_file({**weights, "surplus": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="tensor surplus: this model has none"):
        load_weights(path, SongModel(config.model))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(64, dtype=torch.int8), "tensor bos_D is of type I8, expected one of F64, F32, BF16, F16"),
        (torch.full((64,), float("nan")), "tensor bos_D holds 64 values that are not finite"),
        (torch.tensor([float("inf"), *[0.0] * 63]), "tensor bos_D holds 1 values that are not finite"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(
    run: Path, config: RunConfig, value: torch.Tensor, message: str
):
    path = run / "step_000008" / "model.safetensors"
    model = make_model(config, 0)
    before = model.semantic_table.weight.clone()
    save_file(load_file(path) | {"bos_D": value}, path, {"config": json.dumps(config.to_dict())})
    for load in (lambda: load_model(path), lambda: load_weights(path, model)):
        with pytest.raises(CheckpointError, match=message):
            load()
    assert torch.equal(model.semantic_table.weight, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 64 * 2**20, "num_heads": 2**20}, "tensor bos_D has shape"),
        ({"codebook_size": 2**40}, "semantic_table.weight has shape"),
        ({"ffn_scale": 2**60}, "sizes that cannot be built"),
        ({"lm_layers": 2**30}, "claims 1073741825 layers, it holds 35 tensors"),
        ({"conditions": {"vocabulary_size": 2**45}}, "symbols.weight has shape"),
    ],
)
def test_a_claim_of_any_size_costs_no_memory(
    run: Path, config: RunConfig, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    path = run / "step_000008" / "model.safetensors"
    tree = config.to_dict()
    changes = {"conditions": {**tree["model"]["conditions"], **changes.pop("conditions", {})}, **changes}
    tree["model"] |= changes
    save_file(load_file(path), path, {"config": json.dumps(tree)})
    monkeypatch.setattr(SongModel, "to_empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_pickles_are_refused(tmp_path: Path, config: RunConfig):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"bos_D": [1.0]}))
    for load in (lambda: load_model(path), lambda: load_weights(path, SongModel(config.model))):
        with pytest.raises(CheckpointError, match="model.safetensors"):
            load()


def test_weights_without_a_configuration_are_refused(tmp_path: Path, config: RunConfig):
    save_file(SongModel(config.model).state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="its metadata holds no configuration"):
        load_model(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    "state", [{}, {"state": {"global_step": "4"}}, {"state": []}, {"state": {"losses": [float("nan")]}}]
)
def test_a_hostile_state_is_refused(run: Path, state: dict):
    (run / "step_000008" / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"state\.json"):
        read_state(run / "step_000008")


def test_a_folder_without_checkpoints_says_what_is_expected(tmp_path: Path):
    assert find_newest(tmp_path / "nowhere") is None
    with pytest.raises(CheckpointError, match=r"no checkpoint here; expected a run's folder"):
        load_model(tmp_path)
