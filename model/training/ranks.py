"""This process among the processes that train one model together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce, broadcast

from model.network.config import ConfigError
from model.training.hardware import DeviceError, choose_device

# What starters of many processes say about their number; none of them says what PyTorch needs to join these.
FOREIGN_SIZES = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "Open MPI", "PMI_SIZE": "MPI"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among all processes of the run."""

    rank: int
    world_size: int
    device: torch.device
    host_group: ProcessGroup | None = None  # of the CPUs, where ranks compute on GPUs

    @property
    def is_main(self) -> bool:
        """Rank 0, which logs and writes."""
        return self.rank == 0

    def add_up(self, values: Sequence[float] | Tensor) -> Tensor:
        """Return the sum over all ranks: of plain numbers in float64 on the CPU, of a tensor on the device.

        Plain numbers do not pass through the device: what it is busy with need not be waited for.
        """
        if isinstance(values, Tensor):
            total = values.to(self.device)
            if self.world_size > 1:
                all_reduce(total, ReduceOp.SUM)
            return total
        total = torch.tensor(values, dtype=torch.float64)
        if self.world_size > 1:
            all_reduce(total, ReduceOp.SUM, group=self.host_group)
        return total

    def collect(self, text: str) -> list[str]:
        """Return every rank's text, by rank; all ranks must take part."""
        if self.world_size == 1:
            return [text]
        data = text.encode()
        lengths = [0] * self.world_size
        lengths[self.rank] = len(data)
        counts = [int(count) for count in self.add_up(lengths).tolist()]
        parts = torch.zeros(self.world_size, max(counts), dtype=torch.int32)
        parts[self.rank, : len(data)] = torch.tensor(list(data), dtype=torch.int32)
        rows = self.add_up(parts).cpu()
        return [bytes(row[:count].tolist()).decode() for row, count in zip(rows, counts, strict=True)]

    def tell(self, number: int) -> int:
        """Return rank 0's number on every rank."""
        message = torch.tensor(number, device=self.device)
        if self.world_size > 1:
            broadcast(message, src=0)
        return int(message)


def count_local_ranks() -> int | None:
    """Return how many ranks run on this machine, or None where no launcher says it; torchrun and deepspeed do."""
    size = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    return int(size) if size else None


def choose_rank_device(requested: str = "auto") -> torch.device:
    """Return the device of this rank: the GPU of its local number, or the CPU.

    DS_ACCELERATOR, DeepSpeed's own switch, counts like `requested`, as DeepSpeed would follow it anyway.

    Raises:
        DeviceError: see `model.training.hardware.choose_device`; or there are more ranks on this machine than GPUs, or
            DS_ACCELERATOR asks for something else.
        ConfigError: other processes were started beside this one, and it has not been told of them.
    """
    _refuse_foreign_launcher()
    accelerator = os.environ.get("DS_ACCELERATOR", "auto")
    if accelerator not in ("auto", "cuda", "cpu"):
        raise DeviceError(f"DS_ACCELERATOR is {accelerator!r}: this trainer runs on cuda or cpu; unset it")
    if "auto" not in (accelerator, requested) and accelerator != requested:
        raise DeviceError(f"device {requested}, but DS_ACCELERATOR is {accelerator!r}; unset one of the two")
    if choose_device(accelerator if requested == "auto" else requested) == "cpu":
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    num_ranks, num_gpus = max(local_rank + 1, count_local_ranks() or 1), torch.cuda.device_count()
    if num_ranks > num_gpus:
        raise DeviceError(
            f"{num_ranks} ranks on this machine, where {num_gpus} GPUs are visible: start one rank per GPU (deepspeed "
            f"--num_gpus {num_gpus}, torchrun --nproc_per_node {num_gpus}), or all on the CPU with --device cpu"
        )
    return torch.device("cuda", local_rank)


def _refuse_foreign_launcher() -> None:
    """Raise ConfigError where each of several processes would train alone, all into one folder."""
    if "WORLD_SIZE" in os.environ:
        return
    for name, launcher in FOREIGN_SIZES.items():
        size = os.environ.get(name, "1")
        if size.isdigit() and int(size) > 1:
            raise ConfigError(
                f"this is one of {size} processes that {launcher} started ({name}), but none knows of the others: "
                "WORLD_SIZE is not set; start one deepspeed or torchrun per machine instead"
            )
