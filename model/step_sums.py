"""What a step adds up over its micro-batches and over all ranks: counts before it, sums of losses after it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.batches import MicroBatch
from model.noise import Draws
from model.ranks import Ranks
from model.song_batch import SongBatch
from model.song_model import SongModel
from model.tally import NUM_ROWS, tabulate, tabulate_places
from shards.schema import MAX_KEY_BYTES


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient that is infinite or not a number; nothing is saved after it."""


class ScaledLoss(nn.Module):
    """The model with its loss, as plain tensors: DeepSpeed's hooks see no tensor inside other objects."""

    def __init__(self, song_model: SongModel, flow_weight: float, blocks_per_place: int) -> None:
        super().__init__()
        self.song_model = song_model
        self.flow_weight = flow_weight
        self.blocks_per_place = blocks_per_place

    def forward(
        self, batch: SongBatch, draws: Draws, num_targets: Tensor, num_blocks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return this micro-batch's part of the global loss, and the tables of sums per song and per place."""
        output = self.song_model(batch, draws)
        loss = output.loss(num_targets=num_targets, num_blocks=num_blocks, flow_weight=self.flow_weight)
        return loss, tabulate(output), tabulate_places(output, self.blocks_per_place)


def count_targets(ranks: Ranks, micro_batches: Sequence[MicroBatch], block_frames: int) -> tuple[Tensor, Tensor]:
    """Return targets and blocks of the global batch; a song has one target per frame and EOS."""
    frames = [micro.batch.num_frames_B for micro in micro_batches if not micro.is_repeat]
    num_frames = sum(int(counts.sum()) for counts in frames)
    num_songs = sum(len(counts) for counts in frames)
    num_targets, num_blocks = ranks.add_up([num_frames + num_songs, num_frames // block_frames]).float()
    return num_targets, num_blocks


def sum_tables(
    ranks: Ranks, micro_batches: Sequence[MicroBatch], tables: Sequence[Tensor], where: str, *others: float
) -> list[float]:
    """Return the rows of the tables, and `others`, summed over all ranks.

    Args:
        ranks: all take part.
        micro_batches: this rank's.
        tables: their sums per song, as `tabulate` gives them.
        where: names the step in an error.
        others: more numbers of this rank.

    Raises:
        NonFiniteLossError: a song's losses are not finite, on whatever rank.
    """
    counted = [table for table, micro in zip(tables, micro_batches, strict=True) if not micro.is_repeat]
    local = torch.cat(counted, dim=1).sum(dim=1) if counted else torch.zeros(NUM_ROWS, device=ranks.device).double()
    sums: list[float] = ranks.add_up(torch.cat([local, local.new_tensor(others)])).tolist()
    if not all(map(math.isfinite, sums)):
        names = ", ".join(_name_bad_songs(ranks, micro_batches, tables))
        raise NonFiniteLossError(f"{where}: the loss is not finite; no update was made; songs: {names}")
    return sums


def _name_bad_songs(ranks: Ranks, micro_batches: Sequence[MicroBatch], tables: Sequence[Tensor]) -> list[str]:
    """Return the keys of all songs, on any rank, whose losses are not finite."""
    highest = [0.0] * ranks.world_size
    highest[ranks.rank] = max((slot for micro in micro_batches for slot in micro.slots), default=0)
    names = torch.zeros(1 + int(ranks.add_up(highest).max()), MAX_KEY_BYTES, dtype=torch.int32)
    for table, micro in zip(tables, micro_batches, strict=True):
        if micro.is_repeat:
            continue
        for slot, key, is_good in zip(micro.slots, micro.batch.keys, table.isfinite().all(dim=0), strict=True):
            if not is_good:
                names[slot, : len(key)] = torch.tensor(list(key.encode("ascii")), dtype=torch.int32)
    rows = ranks.add_up(names).cpu().tolist()
    return sorted({bytes(row).rstrip(b"\0").decode("ascii") for row in rows if any(row)})
