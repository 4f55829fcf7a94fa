"""The plain trainer computes the same loss and gradients as ours, and the command compares the two."""

import json

import pytest
import torch

from model.bench.__main__ import main
from model.bench.plain_trainer import PlainModel
from model.bench.train import make_config, make_micro_batch
from model.network.noise import draw
from model.network.song_model import SongModel


def test_the_plain_model_computes_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("model.bench.train.NUM_FRAMES", (48, 112, 80))
    monkeypatch.setattr("model.bench.train.NUM_LYRICS", (5, 20, 9))
    config = make_config("small")
    torch.manual_seed(0)
    ours = SongModel(config.model)
    torch.manual_seed(0)
    plain = PlainModel(SongModel(config.model))
    songs = make_micro_batch(config.model, range(3))
    draws = draw(songs.seeds, (songs.batch.num_frames_B // 16).tolist(), config.model)
    loss, plain_loss = ours(songs.batch, draws).loss(), plain(songs.batch, draws, 0.1)
    assert float(plain_loss) == pytest.approx(float(loss), rel=1e-6)
    loss.backward()
    plain_loss.backward()
    for name in ("semantic_table.weight", "encode_block.0.weight", "dit.layers.0.ffn.down.weight"):
        expected = ours.get_parameter(name).grad
        torch.testing.assert_close(plain.source.get_parameter(name).grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_command_prints_ratios(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # other tests may share the cores
    code = main(["train", "--size", "small", "--repeats", "1"])
    figures = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert figures["largest_loss_difference"] < 1e-5
    assert figures["speed_ratio"] > 0
    assert 0 < figures["memory_ratio"] < 1
    assert code == (0 if figures["ok"] else 1)


def test_wrong_use(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--repeats", "0"])
    assert caught.value.code == 2
    assert "--repeats is 0, expected at least 1" in capsys.readouterr().err
