"""One rank of several, for test_trainer.py: what single steps and whole runs give on every ZeRO stage.

Usage: trainer_process.py DATASET OUT RANK PORT PORT PORT PORT. Starting takes longest, so the same processes are four
ranks first, then two, then one, then two again, each time as if they had just been started. Writes
OUT/<name>.safetensors and runs in OUT/<name>/, which the test compares with the same on one rank.
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file
from tiny_dataset import tiny_config

from model.data.batches import Batches
from model.network.song_model import SongModel
from model.training.trainer import Trainer, join_ranks, leave_ranks
from model.training.training_run import TrainingRun
from shards.index import read_index
from shards.reader import ShardReader

SINGLE_STEPS = {
    "four": [("fp32", 0), ("fp32", 2)],
    "two": [("bf16", 2), ("bf16", 3)],  # all stages: zero_process.py
}
TURNS = (("four", 4), ("two", 2), ("one", 1), ("back", 2))  # and how many ranks take part


def play(dataset: Path, out: Path, part: str) -> None:
    import torch

    ranks = join_ranks()
    for precision, stage in SINGLE_STEPS.get(part, []):
        config = tiny_config(dataset, out, trainer__zero_stage=stage, trainer__precision=precision)
        batches = Batches(read_index(dataset), ShardReader(dataset), config, "train")
        torch.manual_seed(0)
        trainer = Trainer(SongModel(config.model), config, ranks)
        result = trainer.train_step(batches.train_batch(0, ranks.rank, ranks.world_size), 0)
        tensors = {f"{name}/{key}": value for name, group in trainer.gather_state() for key, value in group.items()}
        trainer.close()
        if ranks.is_main:
            losses = torch.tensor([result.losses.loss, result.grad_norm], dtype=torch.float64)
            save_file({"losses": losses, **tensors}, out / f"{part}_{precision}_{stage}.safetensors")

    def run(name: str, stage: int, *stops: int, precision: str = "fp32") -> None:
        for stop in stops:
            config = tiny_config(
                dataset, out / name, trainer__zero_stage=stage, trainer__precision=precision, trainer__ema_decay=0.5
            )
            TrainingRun(config, lambda: ranks, max_steps=stop).run()

    if part == "two":
        run("whole", 1, 4)
        run("stopped", 1, 2, 4)
        run("whole_bf16", 2, 4, precision="bf16")
        run("stopped_bf16", 2, 2, 4, precision="bf16")
        run("from_one_rank", 3, 4)  # the test has left a checkpoint of one rank there
        run("for_one_rank", 2, 2)  # the test goes on from it
        run("there_and_back", 1, 2)
    if part == "one":
        run("there_and_back", 0, 4)
    if part == "back":
        run("there_and_back", 1, 6)
    leave_ranks()


def main(dataset: Path, out: Path, rank: int, ports: list[str]) -> None:
    for (part, world_size), port in zip(TURNS, ports, strict=True):
        if rank < world_size:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()})
            play(dataset, out, part)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
