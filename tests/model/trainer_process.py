"""One rank of several, for test_trainer.py: what single steps and whole runs give on every ZeRO stage.

Usage: trainer_process.py DATASET OUT PART, with the environment of a launcher. Writes OUT/<name>.safetensors and runs
in OUT/<name>/, which the test compares with the same on one rank. Parts: all; four (single steps on four ranks); back
(goes on with a run that has been on two ranks and then on one).
"""

import sys
from pathlib import Path

from safetensors.torch import save_file
from tiny_dataset import tiny_config

from model.batches import Batches
from model.song_model import SongModel
from model.trainer import Trainer, join_ranks, leave_ranks
from model.training_run import TrainingRun
from shards.index import read_index
from shards.reader import ShardReader

SINGLE_STEPS = {
    "all": [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)],
    "four": [("fp32", 0), ("fp32", 2)],
    "back": [],
}


def main(dataset: Path, out: Path, part: str) -> None:
    import torch

    ranks = join_ranks()
    for precision, stage in SINGLE_STEPS[part]:
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

    if part == "all":
        run("whole", 1, 4)
        run("stopped", 1, 2, 4)
        run("whole_bf16", 1, 4, precision="bf16")
        run("stopped_bf16", 1, 2, 4, precision="bf16")
        run("from_one_rank", 3, 4)  # the test has left a checkpoint of one rank there
        run("for_one_rank", 2, 2)  # the test goes on from it
        run("there_and_back", 1, 2)  # likewise
    if part == "back":
        run("there_and_back", 1, 6)
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
