"""A look into a few steps with PyTorch's profiler."""

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from model.training.ranks import Ranks

NUM_WARM_STEPS = 2  # not recorded: the first steps allocate and choose kernels
NUM_STEPS = 2
NUM_ROWS = 40  # of a table

logger = logging.getLogger(__name__)


class StepProfiler:
    """Records two steps of this rank: `profile/rank_0.json` for chrome://tracing or Perfetto, and tables beside it."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        """Begin."""
        self._target = folder / "profile" / f"rank_{ranks.rank}.json"
        self._target.parent.mkdir(parents=True, exist_ok=True)
        has_gpu = ranks.device.type == "cuda"
        self._sort_keys = ["self_cpu_time_total", *(["self_cuda_time_total"] if has_gpu else [])]
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_gpu else [])]
        plan = schedule(wait=NUM_WARM_STEPS - 1, warmup=1, active=NUM_STEPS, repeat=1)
        self._profiler = profile(activities=activities, schedule=plan, on_trace_ready=self._write, acc_events=True)
        self._profiler.start()

    def add_step(self) -> None:
        """Tell that a step has ended."""
        self._profiler.step()

    def close(self) -> None:
        """End; a run that was too short for the plan leaves no trace."""
        self._profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(self._target))
        averages = profiler.key_averages()
        tables = [averages.table(sort_by=key, row_limit=NUM_ROWS, max_name_column_width=60) for key in self._sort_keys]
        self._target.with_suffix(".txt").write_text("\n".join(tables))
        logger.info("profile of %d steps: %s", NUM_STEPS, self._target)
