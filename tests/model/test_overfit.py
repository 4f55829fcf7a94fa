"""Tests of `python -m model.overfit`, on songs and a model so small that it is a matter of seconds."""

import json
from pathlib import Path

import pytest
import yaml

from model.overfit import main

from .tiny_dataset import build_song, tiny_config, write_tiny_dataset


def test_two_songs_are_learned_and_what_came_of_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    songs = [build_song(0), build_song(1)]
    for line in songs[1].metadata["lines"]:  # what tells the songs apart, besides their prompts
        line["phoneme_ids"] = [110, 22, 111]
    root = write_tiny_dataset(tmp_path / "data", songs)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_config(root, tmp_path / "run").to_dict()))
    arguments = [str(root), "--config", str(tmp_path / "tiny.yaml"), "--seconds", "3", "--steps", "150"]
    code = main(arguments)
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["songs"]) == len(set(summary["songs"])) == 2
    assert summary["ce"] < 0.1
    assert summary["flow"] < summary["flow_before"]  # one layer; the miniature configuration gets below a third
    assert summary["tokens_equal"] > 0.3  # chance is 1/32; latents that one layer renders badly mislead the LM
    assert code == (0 if summary["ok"] else 1)


def test_what_cannot_be_learned_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "index.parquet is missing" in capsys.readouterr().err
