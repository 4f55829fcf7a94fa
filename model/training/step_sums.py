"""What a step adds up over its micro-batches and over all ranks: counts before it, sums of losses after it."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from model.data.batches import MicroBatch
from model.network.noise import Draws
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.network.transfer import send
from model.training.ranks import Ranks
from model.training.tally import NUM_ROWS, tabulate, tabulate_places


class BadStepError(ArithmeticError):
    """A step that must not change the weights, and has not; all ranks raise it alike and can go on with the next."""

    def __init__(self, where: str, reason: str, songs: Sequence[str] = ()) -> None:
        """Name the step, what is wrong with it, and the keys of the songs that it comes from, where they are known."""
        named = f"; songs: {', '.join(songs)}" if songs else ""
        super().__init__(f"{where}: {reason}; no update was made{named}")
        self.reason = reason
        self.songs = tuple(songs)


class NonFiniteLossError(BadStepError):
    """A loss or gradient that is infinite or not a number."""


class LossSpikeError(BadStepError):
    """A loss far above those of the steps before."""


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
    counts = ranks.add_up([num_frames + num_songs, num_frames // block_frames]).float()
    num_targets, num_blocks = send(counts, ranks.device)
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
    sums: list[float] = ranks.add_up(torch.cat([local, send(torch.tensor(others).double(), local.device)])).tolist()
    if not all(map(math.isfinite, sums)):
        raise NonFiniteLossError(where, "the loss is not finite", name_songs(ranks, micro_batches, tables, _is_bad))
    return sums


def name_songs(
    ranks: Ranks,
    micro_batches: Sequence[MicroBatch],
    tables: Sequence[Tensor],
    choose: Callable[[Tensor], Tensor],
) -> list[str]:
    """Return the sorted keys of all songs, on any rank, that `choose` marks; all ranks take part.

    Args:
        ranks: all take part.
        micro_batches: this rank's.
        tables: their sums per song, as `tabulate` gives them.
        choose: a table [NUM_ROWS, B] to a mask [B].
    """
    keys = {
        key
        for table, micro in zip(tables, micro_batches, strict=True)
        if not micro.is_repeat
        for key, is_chosen in zip(micro.batch.keys, choose(table).tolist(), strict=True)
        if is_chosen
    }
    return sorted({key for text in ranks.collect(" ".join(sorted(keys))) for key in text.split()})


def _is_bad(table: Tensor) -> Tensor:
    return ~table.isfinite().all(dim=0)
