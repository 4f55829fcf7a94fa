"""Runs of the trainer inside a test, and what they leave."""

import json
from pathlib import Path

from model.settings.settings import RunConfig
from model.training.ranks import Ranks
from model.training.training_run import TrainingRun


def run_to(config: RunConfig, ranks: Ranks, step: int) -> TrainingRun:
    run = TrainingRun(config, lambda: ranks, max_steps=step)
    run.run()
    return run


def read_metrics(folder: Path, *keys: str) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[key] for key in ("global_step", *keys)) for line in lines if all(key in line for key in keys)]
