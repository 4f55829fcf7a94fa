"""One rank of several, for test_muon.py: two steps with Muon under ZeRO 0 to 2, and a run that goes from three to two.

Usage: muon_process.py DATASET OUT RANK PORT PORT. The same processes are three ranks first, then two. Writes
OUT/ranks_<n>.safetensors: for each stage the weights and momenta; and the run OUT/run.
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from model.data.batches import Batches
from model.network.song_model import SongModel
from model.training.ranks import Ranks
from model.training.trainer import Trainer, join_ranks, leave_ranks
from shards.index import read_index
from shards.reader import ShardReader
from tests.model.runs import run_to
from tests.model.tiny_dataset import tiny_config

STAGES = (0, 1, 2)


def play_stage(dataset: Path, ranks: Ranks, stage: int) -> dict[str, object]:
    """Make two steps and return weights and momenta."""
    import torch

    config = tiny_config(dataset, dataset / "unused", optimizer__kind="muon", trainer__zero_stage=stage)
    torch.manual_seed(0)
    trainer = Trainer(SongModel(config.model), config, ranks)
    batches = Batches(read_index(dataset), ShardReader(dataset), config, "train")
    for step in range(2):
        trainer.train_step(batches.train_batch(step, ranks.rank, ranks.world_size), step)
    state = dict(trainer.gather_state())
    trainer.close()
    return {f"{kind}/{name}": value for kind, tensors in state.items() for name, value in tensors.items()}


def main(dataset: Path, out: Path, rank: int, ports: list[str]) -> None:
    for world_size, port in zip((3, 2), ports, strict=True):
        if rank >= world_size:
            return
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        ranks = join_ranks()
        found = {
            f"{stage}/{name}": tensor for stage in STAGES for name, tensor in play_stage(dataset, ranks, stage).items()
        }
        if ranks.is_main:
            save_file(found, out / f"ranks_{world_size}.safetensors")
        config = tiny_config(dataset, out / "run", optimizer__kind="muon", trainer__zero_stage=1)
        run_to(config, ranks, 2 if world_size == 3 else 4)
        leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
