"""Steps of writing that are recorded once as CUDA graphs and then launched, each as one.

A token's step is some thousand kernels, which a CPU needs longer to launch one by one than a GPU to run.
"""

import logging
from collections.abc import Callable, Hashable

import torch

Step = Callable[[], None]
"""Reads and writes tensors that stay where they are; what it knows besides them is the same each time."""

Record = Callable[[Step], Step]
"""Takes down what a step launches, without running it, and returns what launches all of it at once."""

ONE_BY_ONE = "steps of writing: one kernel at a time"

logger = logging.getLogger(__name__)


class RecordError(Exception):
    """A step that cannot be recorded; the message says why."""


class StepRunner:
    """Runs steps: plainly, or each kind plainly once, then recorded, then launched."""

    def __init__(self, record: Record | None = None) -> None:
        """Take what records; None: nothing can, or shall."""
        self._record = record
        self._launches: dict[Hashable, Step | None] = {}
        self.num_recorded = 0
        self.num_launched = 0

    @property
    def is_recording(self) -> bool:
        """Tell whether steps should keep their shapes."""
        return self._record is not None

    def run(self, kind: Hashable, step: Step) -> None:
        """Run a step.

        Args:
            kind: of the step; all of one kind do the same to the same tensors.
            step: runs plainly the first time, when libraries load, tune and plan, which cannot be recorded.
        """
        if self._record is None or kind not in self._launches:
            self._launches[kind] = None
            step()
            return
        launch = self._launches[kind]
        if launch is None:
            try:
                launch = self._record(step)
            except RecordError as error:
                logger.warning("%s, as step %s cannot be recorded: %s", ONE_BY_ONE, kind, error)
                self._record = None
                self._launches.clear()
                step()
                return
            self._launches[kind] = launch
            self.num_recorded += 1
        launch()
        self.num_launched += 1

    def forget(self) -> None:
        """Forget all recordings: tensors have moved."""
        self._launches.clear()


class CudaRecorder:
    """Records CUDA graphs that share their memory for what is in between; results lie in tensors made before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        """Record a step.

        Raises:
            RecordError: it waits for the GPU, copies from pageable memory or does what else no graph can hold.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may copy and allocate meanwhile, as those of the trainer do. The second line brings the
            # stream back after a failure, which torch.cuda.graph does not.
            with (
                torch.cuda.device(self._device),
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                step()
        except RuntimeError as error:
            raise RecordError(" ".join(str(error).split())[:300]) from error
        return graph.replay


def choose_runner(device: torch.device, *, with_graphs: bool = True) -> StepRunner:
    """Return a runner that records where `device` can."""
    return StepRunner(CudaRecorder(device) if with_graphs and device.type == "cuda" else None)


def describe_steps(device: torch.device | str, *, with_graphs: bool = True) -> str:
    """Return one line for the log: how steps are launched, and why not otherwise."""
    if torch.device(device).type != "cuda":
        return f"{ONE_BY_ONE}; CUDA graphs are for GPUs"
    return "steps of writing: CUDA graphs" if with_graphs else f"{ONE_BY_ONE}, as told"
