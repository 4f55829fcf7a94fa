"""One training loop for all miniatures: AdamW, warm-up and cosine, clipped gradients, averaged weights."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int
    peak_lr: float
    warmup_steps: int = 50
    final_lr_share: float = 0.02  # of the peak, reached by cosine
    average_decay: float = 0.99  # of the moving average that is saved
    log_every_steps: int = 25

    def lr(self, step: int) -> float:
        """Return the learning rate of a step counted from 0."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        floor = self.final_lr_share
        return self.peak_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class TrainingError(RuntimeError):
    """Training that went wrong, such as a loss that is not finite."""


def fit(
    model: nn.Module,
    compute_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
) -> dict[str, Tensor]:
    """Train `model` in place and return the moving average of its weights.

    Args:
        model: the model that `compute_loss` runs.
        compute_loss: step -> loss and named figures for the log; draws its own batch.
        schedule: lengths and rates.

    Raises:
        TrainingError: the loss is not finite.
    """
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.peak_lr, betas=(0.9, 0.98), weight_decay=1e-3)
    smooth: dict[str, float] = {}
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(step)
        model.train()
        loss, figures = compute_loss(step)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"{type(model).__name__}: loss is {loss.item()} at step {step}, expected a finite number"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _average(average, model, min(schedule.average_decay, (1 + step) / (10 + step)))
        for name, value in {"loss": loss.item(), **figures}.items():
            smooth[name] = 0.9 * smooth.get(name, value) + 0.1 * value
        if step % schedule.log_every_steps == 0 or step + 1 == schedule.steps:
            told = "  ".join(f"{name} {value:.4f}" for name, value in smooth.items())
            logger.info("%s step %d of %d  %s", type(model).__name__, step, schedule.steps, told)
    return average


@torch.no_grad()
def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, new in model.state_dict().items():
        kept = average[name]
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def save_model(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors (float16) so that a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: (t.half() if t.is_floating_point() else t).contiguous().clone() for name, t in state.items()}
    part = folder / "model.safetensors.part"
    part.write_bytes(serialize(halves))  # save_file would make it readable for its owner only
    part.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
