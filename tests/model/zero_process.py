"""One rank of several, for test_zero.py: one step and validation under every ZeRO stage, with several chunks of logits.

Usage: zero_process.py DATASET OUT RANK PORT PORT. The same processes are three ranks first, then two. Writes
OUT/ranks_<n>.safetensors: for each case losses, and AdamW's first moment as one vector.
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from model.data.batches import Batches
from model.network.song_model import SongModel
from model.training.ranks import Ranks
from model.training.step_sums import LossSpikeError
from model.training.trainer import Trainer, join_ranks, leave_ranks
from shards.index import read_index
from shards.reader import ShardReader
from tests.model.tiny_dataset import tiny_config

CHUNK = 16  # targets; a micro-batch has some 50 to 250, so ranks have different numbers of chunks
STAGES = [*(("fp32", stage) for stage in range(4)), *(("bf16", stage) for stage in (1, 2, 3))]
RECOMPUTE = (False, "cheap", "selective", True)
CASES = {  # by number of ranks: on three every stage once, on two with every way of recomputing
    3: [(*stage, RECOMPUTE[number % 4]) for number, stage in enumerate(STAGES)],
    2: [(*stage, recompute) for stage in STAGES for recompute in RECOMPUTE],
}
BF16_SUMS = {"data_types": {"grad_accum_dtype": "bf16"}}  # what ZeRO 1 with bf16 must be told


def name_case(precision: str, stage: int, recompute: object) -> str:
    return f"{precision}_{stage}_{recompute}"


def play_case(dataset: Path, ranks: Ranks, precision: str, stage: int, recompute: object) -> dict[str, object]:
    """Leave one update out, make it then, and validate before and after, the second time on average weights too."""
    import torch

    config = tiny_config(
        dataset, dataset / "unused", trainer__zero_stage=stage, trainer__precision=precision, trainer__ema_decay=0.5,
        trainer__micro_batch_tokens=475 if ranks.world_size == 2 else 0,  # songs are counted on one and three
        trainer__checkpoint_activations=recompute, deepspeed=BF16_SUMS if (precision, stage) == ("bf16", 1) else {},
    )  # fmt: skip
    index, reader = read_index(dataset), ShardReader(dataset)
    batch = Batches(index, reader, config, "train").train_batch(0, ranks.rank, ranks.world_size)
    held_out = Batches(index, reader, config, "val").validation_batch(ranks.rank, ranks.world_size)
    torch.manual_seed(0)
    model = SongModel(config.model, checkpoint_activations=recompute)
    model.semantic_head.chunk_positions = CHUNK
    trainer = Trainer(model, config, ranks)
    before = trainer.evaluate(held_out).total.loss
    try:
        trainer.train_step(batch, 0, max_loss=1.0)
    except LossSpikeError:
        assert trainer.evaluate(held_out).total.loss == before
    else:
        raise AssertionError("a loss above 1 has updated the weights")
    result = trainer.train_step(batch, 0)
    after, averaged = (trainer.evaluate(held_out, averaged=which).total.loss for which in (False, True))
    assert trainer.evaluate(held_out).total.loss == after, "the weights themselves are back"
    moments = dict(trainer.gather_state())["optimizer_exp_avg"]
    trainer.close()
    losses = [before, result.losses.loss, result.grad_norm, after, averaged]
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        **({"exp_avg": torch.cat([moments[name].flatten() for name in sorted(moments)])} if moments else {}),
    }


def main(dataset: Path, out: Path, rank: int, ports: list[str]) -> None:
    for (world_size, cases), port in zip(CASES.items(), ports, strict=True):
        if rank >= world_size:
            return
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        ranks = join_ranks()
        found = {
            f"{name_case(*case)}/{name}": tensor
            for case in cases
            for name, tensor in play_case(dataset, ranks, *case).items()
        }
        if ranks.is_main:
            save_file(found, out / f"ranks_{world_size}.safetensors")
        leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
