"""One rank of several, for test_wire.py: the bytes of a step's collectives, and what the step computes.

Usage: wire_process.py DATASET OUT RANK PORT. Writes OUT/<setting>_<rank>.safetensors.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

WORLD_SIZE = 2


class CountBytes(TorchDispatchMode):
    """Adds up the largest tensor of every collective."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            tensors = [leaf for leaf in _pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
            self.counts[function.__name__.split(".")[0]] += max(x.numel() * x.element_size() for x in tensors)
        return function(*args, **(kwargs or {}))


def main(dataset: Path, out: Path, rank: int, port: str) -> None:
    from model.data.batches import Batches
    from model.network.song_model import SongModel
    from model.training.trainer import Trainer, join_ranks, leave_ranks
    from shards.index import read_index
    from shards.reader import ShardReader
    from tests.model.tiny_dataset import tiny_config

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD_SIZE, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    ranks = join_ranks()
    for setting in ("reduce", "allreduce"):
        passed = {"zero_optimization": {"use_multi_rank_bucket_allreduce": True}} if setting == "allreduce" else {}
        config = tiny_config(
            dataset, out, deepspeed=passed, trainer__zero_stage=2, trainer__precision="bf16", trainer__batch_size=4
        )
        batches = Batches(read_index(dataset), ShardReader(dataset), config, "train")
        torch.manual_seed(0)
        trainer = Trainer(SongModel(config.model), config, ranks)
        losses = []
        for step in range(3):
            batch = batches.train_batch(step, ranks.rank, ranks.world_size)
            with CountBytes() as counted:  # of the last step; in the first DeepSpeed looks around
                losses.append(trainer.train_step(batch, step).losses.loss)
        tensors = {f"{name}/{key}": value for name, group in trainer.gather_state() for key, value in group.items()}
        trainer.close()
        counts = {f"bytes/{name}": torch.tensor(count) for name, count in counted.counts.items()}
        found = {"losses": torch.tensor(losses, dtype=torch.float64), **counts, **tensors}
        save_file(found, out / f"{setting}_{rank}.safetensors")
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
