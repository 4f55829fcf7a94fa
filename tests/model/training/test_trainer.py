"""The trainer: exact on any ranks, resumable to the bit, and clear about what is wrong. Real processes over gloo."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.data.batches import DENIED, Batches, RankBatch
from model.network.noise import draw
from model.network.song_model import SongModel
from model.settings.settings import RunConfig
from model.training.ranks import Ranks
from model.training.step_sums import NonFiniteLossError
from model.training.trainer import Trainer
from model.training.training_run import PeerError, TrainingRun
from model.weights.base_weights import load_model
from model.weights.checkpoint import CheckpointError, find_newest, list_checkpoints, read_state
from shards.index import read_index
from shards.reader import ShardReader
from shards.schema import ShardError

from ..processes import run_ranks
from ..runs import read_metrics, run_to
from ..tiny_dataset import build_song, tiny_config, write_tiny_dataset

BETA_1 = 0.9  # after one step AdamW's first moment is a tenth of the clipped gradient


def make_trainer(dataset: Path, ranks: Ranks, **changes: Any) -> tuple[Trainer, Batches]:
    config = tiny_config(dataset, dataset / "unused", **changes)
    torch.manual_seed(0)
    trainer = Trainer(SongModel(config.model), config, ranks)
    return trainer, Batches(read_index(dataset), ShardReader(dataset), config, "train")


def gradient(moments: dict[str, torch.Tensor], prefix: str = "") -> torch.Tensor:
    """Return the clipped gradient as one vector."""
    return torch.cat([moments[name].flatten() for name in sorted(moments) if name.startswith(prefix)]) / (1 - BETA_1)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    assert error < tolerance, f"relative error {error:.1e}"


@pytest.fixture(scope="module")
def plain_step(dataset: Path) -> tuple[float, torch.Tensor]:
    """Loss and gradient of step 0 as PyTorch gives them, song by song, without a trainer."""
    config = tiny_config(dataset, dataset / "unused", trainer__micro_batch_size=1)
    torch.manual_seed(0)
    model = SongModel(config.model)
    micro_batches = (
        Batches(read_index(dataset), ShardReader(dataset), config, "train").train_batch(0, 0, 1).micro_batches
    )
    num_frames = sum(int(micro.batch.num_frames_B.sum()) for micro in micro_batches)
    loss = 0.0
    for micro in micro_batches:
        draws = draw(micro.seeds, (micro.batch.num_frames_B // 16).tolist(), config.model)
        output = model(micro.batch, draws)
        part = output.ce_sum / (num_frames + 5) + 0.1 * output.flow_sum / (num_frames // 16)
        part.backward()
        loss += float(part)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss, gradient({name: parameter.grad * (1 - BETA_1) for name, parameter in model.named_parameters()})


@pytest.mark.parametrize("micro_batch_size", [1, 2, 5])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_step_is_that_of_plain_pytorch(dataset, ranks, plain_step, stage: int, micro_batch_size: int):
    trainer, batches = make_trainer(
        dataset, ranks, trainer__zero_stage=stage, trainer__micro_batch_size=micro_batch_size
    )
    result = trainer.train_step(batches.train_batch(0, 0, 1), 0)
    assert result.losses.loss == pytest.approx(plain_step[0], rel=1e-6)
    assert (result.losses.num_songs, result.lr) == (5, 1.5e-3)
    assert_close(gradient(dict(trainer.gather_state())["optimizer_exp_avg"]), plain_step[1], 1e-6)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_in_different_numbers_of_micro_batches_are_those_of_whole_batches(
    dataset: Path, ranks: Ranks, stage: int
):
    """A budget of tokens makes three micro-batches in one step and two in another; the losses do not tell."""
    losses, counts = [], []
    for size, tokens in ((5, 0), (0, 475)):
        limits = {"trainer__micro_batch_size": size, "trainer__micro_batch_tokens": tokens}
        trainer, batches = make_trainer(dataset, ranks, trainer__zero_stage=stage, **limits)
        steps = [batches.train_batch(step, 0, 1) for step in range(3, 6)]
        counts.append([len(step.micro_batches) for step in steps])
        losses.append([trainer.train_step(batch, step).losses.loss for step, batch in enumerate(steps)])
        trainer.close()
    assert counts == [[1, 1, 1], [3, 2, 3]]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_only_matrices_decay(dataset: Path, ranks: Ranks):
    trainer, batches = make_trainer(
        dataset, ranks, optimizer__weight_decay=100.0, optimizer__lr=1e-3, schedule__warmup_steps=0
    )
    before = {name: parameter.norm().item() for name, parameter in trainer.model.named_parameters()}
    trainer.train_step(batches.train_batch(0, 0, 1), 0)
    shrunk = {name for name, parameter in trainer.model.named_parameters() if parameter.norm() < 0.95 * before[name]}
    assert {"lm.layers.0.ffn.down.weight", "semantic_head.classify.weight", "dit.project_in.weight"} <= shrunk
    assert not {name for name in shrunk if "norm" in name or "bias" in name or "table" in name or "frequencies" in name}


def test_loss_falls_when_one_song_is_learned_by_heart(tmp_path: Path, ranks: Ranks):
    root = write_tiny_dataset(tmp_path, [build_song(1, 2)])
    trainer, batches = make_trainer(
        root, ranks, trainer__batch_size=2, schedule__kind="constant", optimizer__lr=1e-2, schedule__num_steps=60,
        optimizer__weight_decay=0.0,
    )  # fmt: skip
    losses = [trainer.train_step(batches.train_batch(step, 0, 1), step).losses for step in range(60)]
    assert losses[0].ce > 3.0, "ln 33 = 3.5 at the start"
    assert losses[-1].ce < 0.4
    assert losses[-1].accuracy > 0.9
    assert losses[0].accuracy < 0.3


def test_validation_changes_nothing_and_hides_no_condition(dataset: Path, ranks: Ranks):
    trainer, batches = make_trainer(dataset, ranks)
    val = Batches(read_index(dataset), ShardReader(dataset), tiny_config(dataset, dataset), "val").validation_batch(
        0, 1
    )
    before = trainer.evaluate(val)
    assert trainer.evaluate(val) == before
    one, _ = make_trainer(dataset, ranks)
    batch = batches.train_batch(0, 0, 1)
    assert trainer.train_step(batch, 0) == one.train_step(batch, 0)
    assert trainer.evaluate(val) != before


@pytest.mark.parametrize("stage", [0, 1])
def test_a_loss_that_is_not_finite_names_the_song_and_updates_nothing(dataset: Path, ranks: Ranks, stage: int):
    trainer, batches = make_trainer(dataset, ranks, trainer__zero_stage=stage)
    batch = batches.train_batch(0, 0, 1)
    bad = batch.micro_batches[1]
    bad.batch.latents_BTC[0, 3, 1] = 1e30  # finite, so the data is accepted; its square is not
    before = {name: tensor.clone() for name, tensor in dict(trainer.gather_state())["model"].items()}
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train_step(batch, 7)
    assert str(caught.value) == f"step 7: the loss is not finite; no update was made; songs: {bad.batch.keys[0]}"
    after = dict(trainer.gather_state())["model"]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("stage", [0, 1])
def test_the_moving_average_is_that_of_the_weights(dataset: Path, ranks: Ranks, stage: int):
    trainer, batches = make_trainer(dataset, ranks, trainer__zero_stage=stage, trainer__ema_decay=0.15)
    name = "lm.layers.0.ffn.down.weight"
    average = dict(trainer.gather_state())["model"][name]
    for step, decay in enumerate((0.1, 0.15, 0.15)):  # (1 + step) / (10 + step), at most 0.15
        trainer.train_step(batches.train_batch(step, 0, 1), step)
        state = dict(trainer.gather_state())
        average = decay * average + (1 - decay) * state["model"][name]
        torch.testing.assert_close(state["ema"][name], average)
    assert not torch.equal(state["ema"][name], state["model"][name])
    assert state["ema"].keys() == state["model"].keys(), "a whole model, buffers included"
    held_out = Batches(read_index(dataset), ShardReader(dataset), trainer.config, "val").validation_batch(0, 1)
    averaged, itself = trainer.evaluate(held_out, averaged=True), trainer.evaluate(held_out)
    for weights, losses in ((state["ema"], averaged), (state["model"], itself)):
        trainer.model.load_state_dict(weights)
        assert trainer.evaluate(held_out) == losses
    assert averaged != itself


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(dataset: Path, ranks: Ranks, tmp_path: Path, stage: int):
    changes = {"trainer__zero_stage": stage, "trainer__val_every": 3, "trainer__ema_decay": 0.9}
    whole, stopped = (tiny_config(dataset, tmp_path / name, **changes) for name in ("whole", "stopped"))
    run_to(whole, ranks, 8)
    run_to(stopped, ranks, 2)
    run_to(stopped, ranks, 5)
    (tmp_path / "stopped" / "step_000005" / "complete.json").unlink()  # as if killed while writing it
    run_to(stopped, ranks, 8)
    runs = (tmp_path / "stopped", tmp_path / "whole")
    losses = [read_metrics(run, "loss", "ce", "flow", "grad_norm", "lr") for run in runs]
    assert losses[0] == losses[1]
    found, expected = (read_metrics(run, "val_loss") for run in runs)
    assert set(expected) <= set(found), "only validation passes at a stop are extra"
    for name in ("model", "ema", "optimizer_exp_avg", "optimizer_exp_avg_sq"):
        files = [load_file(tmp_path / run / "step_000008" / f"{name}.safetensors") for run in ("whole", "stopped")]
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_another_batch_size_goes_on_with_the_next_song(dataset: Path, ranks: Ranks, tmp_path: Path):
    heard: list[str] = []

    def run(batch_size: int, stop: int) -> None:
        config = tiny_config(dataset, tmp_path / "run", trainer__batch_size=batch_size)
        training = TrainingRun(config, lambda: ranks, max_steps=stop)
        train_step = training._trainer.train_step

        def listen(batch, *arguments, **options):
            slots = [song for micro in batch.micro_batches for song in zip(micro.slots, micro.batch.keys, strict=True)]
            heard.extend(key for _, key in sorted(slots))
            return train_step(batch, *arguments, **options)

        training._trainer.train_step = listen
        training.run()

    for batch_size, stop in ((5, 2), (3, 4), (4, 5)):
        run(batch_size, stop)
    assert len(heard) == 5 + 5 + 3 + 3 + 4
    assert all(len(set(heard[first : first + 7])) == 7 for first in (0, 7)), "epochs of all seven songs"
    assert read_state(tmp_path / "run" / "step_000005")[0].songs_seen == 20


def poison(monkeypatch: pytest.MonkeyPatch, key: str, factor: float) -> None:
    """Make the latents of a song so large, in training, that its loss is large or infinite."""
    prepare = Trainer._prepare

    def prepare_poison(self: Trainer, micro, *, with_dropout: bool):
        songs, draws = prepare(self, micro, with_dropout=with_dropout)
        for row, name in enumerate(songs.keys):
            if name == key and with_dropout:
                songs.latents_BTC[row] *= factor
        return songs, draws

    monkeypatch.setattr(Trainer, "_prepare", prepare_poison)


def pick_key(dataset: Path) -> str:
    """Return the key of a song of the second step."""
    batches = Batches(read_index(dataset), ShardReader(dataset), tiny_config(dataset, dataset), "train")
    return batches.train_batch(1, 0, 1).micro_batches[-1].batch.keys[0]


@pytest.mark.parametrize("stage", [0, 2])
def test_songs_without_a_finite_loss_are_left_out_of_the_rest_of_the_run(
    dataset: Path, ranks: Ranks, tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch, caplog
):
    key = pick_key(dataset)
    poison(monkeypatch, key, 1e30)
    changes = {"trainer__on_nonfinite": "skip", "trainer__zero_stage": stage, "trainer__ema_decay": 0.5}
    whole, stopped = (tiny_config(dataset, tmp_path / name, **changes) for name in ("whole", "stopped"))
    run_to(whole, ranks, 8)
    for stop in (1, 2, 3, 8):
        run_to(stopped, ranks, stop)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if "skipped_update" in line]
    assert len(skipped) == 1
    assert skipped[0]["songs"] == [key]
    assert skipped[0]["skipped_update"] == "the loss is not finite"
    assert f"the loss is not finite; no update was made; songs: {key}; these songs are left out" in caplog.text
    passed_over = [line["skipped"] for line in lines if "skipped" in line]
    assert {DENIED: 1} in passed_over, "it is met again, and passed over"
    state, _ = read_state(tmp_path / "whole" / "step_000008")
    assert (state.global_step, state.songs_seen, state.skipped_updates) == (8, 40, 1)
    assert state.denied_songs == (key,)
    for name in ("loss", "grad_norm"):
        runs = [read_metrics(tmp_path / run, name) for run in ("whole", "stopped")]
        assert runs[0] == runs[1]
        assert len(runs[0]) == 7
    for name in ("model", "ema", "optimizer_exp_avg", "optimizer_exp_avg_sq"):
        files = [load_file(tmp_path / run / "step_000008" / f"{name}.safetensors") for run in ("whole", "stopped")]
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_without_permission_or_budget_a_loss_that_is_not_finite_stops(
    dataset: Path, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = pick_key(dataset)
    poison(monkeypatch, key, 1e30)
    with pytest.raises(NonFiniteLossError, match=f"the loss is not finite; no update was made; songs: {key}"):
        run_to(tiny_config(dataset, tmp_path / "stop"), ranks, 8)
    config = tiny_config(dataset, tmp_path / "skip", trainer__on_nonfinite="skip", trainer__max_skipped_updates=0)
    with pytest.raises(NonFiniteLossError, match=r"the 1\. such step of the run, expected at most 0 \(trainer\.max_sk"):
        run_to(config, ranks, 8)


def test_a_spike_is_skipped_where_that_is_asked_for(
    dataset: Path, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = pick_key(dataset)
    poison(monkeypatch, key, 100.0)
    monkeypatch.setattr("model.training.training_run.MIN_LOSSES", 1)
    run_to(tiny_config(dataset, tmp_path / "off", trainer__on_nonfinite="skip"), ranks, 3)
    assert len(read_metrics(tmp_path / "off", "loss")) == 3
    config = tiny_config(dataset, tmp_path / "on", trainer__on_nonfinite="skip", trainer__max_loss_spike=5.0)
    run_to(config, ranks, 3)
    lines = [json.loads(line) for line in (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if "skipped_update" in line]
    assert [line["songs"] for line in skipped] == [[key]]
    assert "above trainer.max_loss_spike's" in skipped[0]["skipped_update"]


def test_a_run_that_is_asked_to_leave_saves_and_goes_on_later(dataset: Path, ranks: Ranks, tmp_path: Path):
    whole, left = (tiny_config(dataset, tmp_path / name, checkpoint__every=100) for name in ("whole", "left"))
    run_to(whole, ranks, 8)
    questions = iter([False, False, False, True])
    summary = TrainingRun(left, lambda: ranks, is_asked_to_leave=lambda: next(questions)).run()
    assert (summary.steps, summary.is_finished) == (3, False)
    assert find_newest(tmp_path / "left") == tmp_path / "left" / "step_000003"
    at_once = TrainingRun(left, lambda: ranks, is_asked_to_leave=lambda: True).run()
    assert (at_once.steps, at_once.is_finished) == (3, False)
    fresh = TrainingRun(tiny_config(dataset, tmp_path / "new"), lambda: ranks, is_asked_to_leave=lambda: True).run()
    assert (fresh.steps, fresh.last_loss) == (0, None)
    assert find_newest(tmp_path / "new") is None, "nothing has been learned yet"
    assert TrainingRun(left, lambda: ranks).run().is_finished
    assert read_metrics(tmp_path / "left", "loss") == read_metrics(tmp_path / "whole", "loss")


def test_checkpoints_by_time(dataset: Path, ranks: Ranks, tmp_path: Path):
    config = tiny_config(
        dataset, tmp_path / "run", checkpoint__every=100, checkpoint__every_minutes=1e-9, checkpoint__keep=9
    )
    run_to(config, ranks, 3)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_000003", "step_000002", "step_000001"]


def test_a_damaged_checkpoint_falls_back_and_damage_of_all_is_no_new_start(
    dataset: Path, ranks: Ranks, tmp_path: Path, caplog
):
    config = tiny_config(dataset, tmp_path / "run", checkpoint__every=2)
    run_to(config, ranks, 4)
    weights = tmp_path / "run" / "step_000004" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    weights.write_bytes(data)
    run = TrainingRun(config, lambda: ranks, max_steps=4)
    assert "skipped: checkpoint" in caplog.text
    assert "model.safetensors is damaged" in caplog.text
    assert run._state.global_step == 2
    run._trainer.close()
    (tmp_path / "run" / "step_000002" / "complete.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"none of its checkpoints is whole \(step_000002, step_000004\), expected one to go on"
    ):
        TrainingRun(config, lambda: ranks)


def test_reasons_of_skipped_songs_are_counted(ranks: Ranks, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    songs = [build_song(0, 4), build_song(1, 4), build_song(2, 6, lyrics_source="raw")]
    root = write_tiny_dataset(tmp_path / "data", songs)
    run_to(tiny_config(root, tmp_path / "run"), ranks, 2)
    skipped = read_metrics(tmp_path / "run", "num_skipped", "skipped")
    reason = "no line times and longer than data.max_crop_s"
    assert skipped
    assert all(reasons == {reason: count} for _, count, reasons in skipped)
    assert f"skipped {skipped[0][1]} songs ({skipped[0][1]} times {reason})" in caplog.text


def test_reasons_of_all_ranks_are_added_up(dataset: Path, ranks: Ranks, tmp_path: Path):
    """What rank 0 writes is what the others could not use, too, and one that is asked to leave is enough."""
    run = TrainingRun(tiny_config(dataset, tmp_path / "run"), lambda: ranks)
    other = json.dumps({"damaged: train/000001.tar": 2, DENIED: 1})
    run.ranks = SimpleNamespace(
        rank=0, is_main=True, add_up=lambda facts: torch.tensor(facts) + torch.tensor([0, 3, 1, 0]),
        collect=lambda text: [text, other],
    )  # fmt: skip
    batch = RankBatch(micro_batches=(), num_skipped=Counter({DENIED: 4}))
    fetched = run._fetch(SimpleNamespace(next=lambda: batch), 0)
    assert fetched.skipped == Counter({DENIED: 5, "damaged: train/000001.tar": 2})
    assert fetched.is_leaving
    run._trainer.close()


def test_cheap_recomputation_that_is_not_is_told(dataset: Path, ranks: Ranks, tmp_path: Path, caplog):
    for stage in (2, 3):
        config = tiny_config(
            dataset, tmp_path / str(stage), trainer__zero_stage=stage, trainer__checkpoint_activations="cheap"
        )
        run_to(config, ranks, 1)
        assert ("under ZeRO 3 trainer.checkpoint_activations: cheap" in caplog.text) == (stage == 3)


def test_a_finished_run_says_so_again(dataset: Path, ranks: Ranks, tmp_path: Path):
    config = tiny_config(dataset, tmp_path / "run", trainer__val_every=8)
    first = TrainingRun(config, lambda: ranks).run()
    again = TrainingRun(config, lambda: ranks).run()
    assert replace(again, seconds=first.seconds) == first
    assert first.steps == 8
    assert first.last_loss < first.first_loss
    assert first.last_val_loss < first.first_val_loss
    model, _ = load_model(Path(first.checkpoint))
    assert model.latent_std_C.tolist() == [2.0] * 4, "of dataset.json"


def test_what_a_run_leaves_beside_checkpoints(dataset: Path, ranks: Ranks, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    config = tiny_config(dataset, tmp_path / "run", trainer__val_every=2, trainer__ema_decay=0.9)
    report = replace(config.report, samples_every=2, max_sample_s=1.0, sample_euler_steps=2, peak_tflops=1.0)
    run = TrainingRun(replace(config, report=report), lambda: ranks, max_steps=4, profile=True)
    run.run()
    samples = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").glob("samples/*/*"))
    assert len(samples) == 4, "two songs at two steps"
    first, later = (load_file(tmp_path / "run" / samples[number]) for number in (0, 2))
    assert samples[0].split("/")[2] == samples[2].split("/")[2]
    assert torch.equal(first["lyric_ids"], later["lyric_ids"])
    assert first["latents"].shape == (len(first["semantic_tokens"]), 4)
    assert json.loads((tmp_path / "run" / "profile" / "rank_0.json").read_text())["traceEvents"]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    steps = read_metrics(tmp_path / "run", "mfu", "tflops_per_s", "memory_gib", "data_wait_s", "eta_s")
    assert [step for step, *_ in steps] == [1, 2, 3, 4]
    assert all(mfu == pytest.approx(tflops) and mfu > 0 and memory > 0 for _, mfu, tflops, memory, *_ in steps)
    (_, language, place), *_ = read_metrics(tmp_path / "run", "val_language_en", "val_place_0")
    assert language["num_songs"] == place["num_songs"] == 2
    (_, averaged), *_ = read_metrics(tmp_path / "run", "val_ema")
    assert averaged["num_songs"] == 2
    assert "moving average of the weights: loss " in caplog.text
    for words in ("zero_stage: 0", "MFU ", "data wait ", "memory ", "left 0:", "by language: en ", "by place"):
        assert words in caplog.text
    model, _ = load_model(tmp_path / "run")
    averaged = load_file(tmp_path / "run" / "step_000004" / "ema.safetensors")
    assert all(torch.equal(weight, averaged[name]) for name, weight in model.state_dict().items())


def test_other_models_and_used_folders_are_refused(dataset: Path, ranks: Ranks, tmp_path: Path):
    config = tiny_config(dataset, tmp_path / "run")
    run_to(config, ranks, 1)
    with pytest.raises(CheckpointError, match=r"model\.lm_layers is 1 there and 2 in this run"):
        run_to(replace(config, model=replace(config.model, lm_layers=2)), ranks, 2)
    with pytest.raises(CheckpointError, match="step_000001 exists; without --resume"):
        TrainingRun(config, lambda: ranks, resume=False)


def test_a_shard_that_cannot_be_read_ends_all_ranks(tmp_path: Path, ranks: Ranks):
    root = write_tiny_dataset(tmp_path / "data", [build_song(1)])
    run = TrainingRun(tiny_config(root, tmp_path / "run"), lambda: ranks)
    (root / "train" / "000000.tar").unlink()
    with pytest.raises(ShardError, match=r"000000\.tar: missing"):
        run.run()

    class OneOfTwo(Ranks):
        def add_up(self, values):
            return torch.tensor([1.0, 0.0, 0.0, 0.0])  # the other rank has failed, this one has not

    write_tiny_dataset(tmp_path / "data", [build_song(1)])
    other = OneOfTwo(rank=0, world_size=1, device=torch.device("cpu"))
    run = TrainingRun(tiny_config(root, tmp_path / "run"), lambda: ranks)
    run.ranks = other
    with pytest.raises(PeerError, match="1 other ranks"):
        run.run()


@pytest.fixture(scope="module")
def many_ranks(dataset: Path, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the processes of trainer_process.py have filled."""
    out = tmp_path_factory.mktemp("many_ranks")
    run_to(tiny_config(dataset, out / "from_one_rank", trainer__ema_decay=0.5), ranks, 2)
    run_ranks("trainer_process.py", dataset, out, 4, 4)
    return out


@pytest.mark.slow
def test_four_ranks_make_the_same_step(many_ranks: Path, plain_step):
    for stage in (0, 2):  # of five songs: one rank has two
        found = load_file(many_ranks / f"four_fp32_{stage}.safetensors")
        assert float(found["losses"][0]) == pytest.approx(plain_step[0], rel=1e-6)
        assert_close(gradient(found, "optimizer_exp_avg/"), plain_step[1], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_stays_near_and_keeps_exact_weights(many_ranks: Path, plain_step, stage: int):
    found = load_file(many_ranks / f"two_bf16_{stage}.safetensors")
    assert float(found["losses"][0]) == pytest.approx(plain_step[0], rel=5e-3)
    assert_close(gradient(found, "optimizer_exp_avg/"), plain_step[1], 0.05)
    weights = found["model/lm.layers.0.ffn.down.weight"]
    assert not torch.equal(weights, weights.bfloat16().float()), "the master weights are float32"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["", "_bf16"])
def test_two_ranks_resume_to_the_bit(many_ranks: Path, precision: str):
    runs = [many_ranks / f"{name}{precision}" for name in ("whole", "stopped")]
    found, expected = (read_metrics(run, "loss", "grad_norm") for run in runs)
    assert found == expected
    for name in ("model", "ema", "optimizer_exp_avg", "optimizer_exp_avg_sq"):
        files = [load_file(run / "step_000004" / f"{name}.safetensors") for run in runs]
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks_and_stage(many_ranks: Path, dataset: Path, ranks: Ranks):
    def config(name: str) -> RunConfig:
        return tiny_config(dataset, many_ranks / name, trainer__ema_decay=0.5)

    run_to(config("one_rank"), ranks, 6)
    run_to(config("for_one_rank"), ranks, 4)
    expected = read_metrics(many_ranks / "one_rank", "loss", "grad_norm")
    assert len(expected) == 6
    steps = {"from_one_rank": 4, "for_one_rank": 4, "whole": 4, "there_and_back": 6}  # two, one, two ranks
    for name, last in steps.items():
        for found, reference in zip(read_metrics(many_ranks / name, "loss", "grad_norm"), expected[:last], strict=True):
            assert found == pytest.approx(reference, rel=1e-5), name
    for name in ("model", "ema"):
        files = [
            load_file(many_ranks / run / "step_000006" / f"{name}.safetensors")
            for run in ("one_rank", "there_and_back")
        ]
        for key, tensor in files[0].items():
            assert_close(files[1][key], tensor, 1e-5)
