"""This process among the processes that train one model together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ReduceOp, all_reduce, broadcast


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0, which logs and writes."""
        return self.rank == 0

    def add_up(self, values: Sequence[float] | Tensor) -> Tensor:
        """Return the sum over all ranks, in float64 unless `values` is a tensor of another type."""
        total = torch.as_tensor(values, dtype=None if isinstance(values, Tensor) else torch.float64).to(self.device)
        if self.world_size > 1:
            all_reduce(total, ReduceOp.SUM)
        return total

    def tell(self, number: int) -> int:
        """Return rank 0's number on every rank."""
        message = torch.tensor(number, device=self.device)
        if self.world_size > 1:
            broadcast(message, src=0)
        return int(message)
