"""What a run says about itself: one readable line every few steps, and one JSON line per step for programs."""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.settings.settings import RunConfig
from model.training.boards import Boards
from model.training.hardware import peak_flops, peak_memory_bytes
from model.training.ranks import Ranks
from model.training.size import backward_factors, count_parameters, count_trained, describe_model, flops_per_step
from model.training.step_sums import BadStepError
from model.training.tally import BatchLosses, StepResult, ValidationLosses

METRICS_NAME = "metrics.jsonl"
MAX_REASONS = 5  # why songs are passed over, in a line; metrics.jsonl has all

logger = logging.getLogger(__name__)


class Progress:
    """Keeps `metrics.jsonl` of a run folder, the boards, and logs; for rank 0."""

    def __init__(self, folder: Path, config: RunConfig, ranks: Ranks, *, first_step: int, last_step: int) -> None:
        """Forget what an earlier process wrote about steps after `first_step`: they are computed again."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS_NAME
        self._last_step = last_step
        self._log_every = config.trainer.log_every
        self._window: list[dict[str, float]] = []
        self._skipped: Counter[str] = Counter()  # since the last line
        self._first_step = first_step
        self._started = time.monotonic()
        self._device = ranks.device
        peak = 1e12 * config.report.peak_tflops or peak_flops(ranks.device)
        self._peak_flops = None if peak is None else peak * ranks.world_size
        _forget_after(self._path, first_step)
        self._boards = Boards(folder, config, first_step)

    def add_step(
        self, step: int, result: StepResult, *, step_s: float, data_wait_s: float, skipped: Mapping[str, int]
    ) -> None:
        """Record step number `step`, counted from 1.

        Args:
            step: its number.
            result: of it.
            step_s: seconds that it took.
            data_wait_s: seconds of them that it waited for data.
            skipped: why songs were passed over, on all ranks, and how many.
        """
        record = {
            **asdict(result.losses),
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "step_s": step_s,
            "data_wait_s": data_wait_s,
            "num_skipped": sum(skipped.values()),
            "songs_per_s": result.losses.num_songs / step_s,
            "tokens_per_s": result.losses.num_tokens / step_s,
            "tflops_per_s": result.flops / step_s / 1e12,
            "memory_gib": peak_memory_bytes(self._device) / 2**30,
            "eta_s": self._estimate_rest(step),
        }
        if self._peak_flops is not None:
            record["mfu"] = result.flops / step_s / self._peak_flops
        self._append({"global_step": step, **record} | ({"skipped": dict(skipped)} if skipped else {}))
        self._skipped.update(skipped)
        self._boards.add(step, {f"train/{name}": value for name, value in record.items()})
        self._window.append(record)
        if step % self._log_every == 0 or step == self._last_step:
            self._log(step)
            self._window = []
            self._skipped.clear()

    def add_skipped_update(self, step: int, error: BadStepError) -> None:
        """Record that step number `step` made no update, and why."""
        self._append({"global_step": step, "skipped_update": error.reason, "songs": list(error.songs)})

    def add_validation(self, step: int, losses: ValidationLosses, averaged: ValidationLosses | None = None) -> None:
        """Record a validation pass after `step` steps, and one of the moving average, where there is one."""
        groups = {f"val_language_{name}": part for name, part in losses.by_language.items()}
        groups |= {f"val_place_{number}": part for number, part in enumerate(losses.by_place)}
        total = {f"val_{name}": value for name, value in asdict(losses.total).items()}
        if averaged is not None:
            groups["val_ema"] = averaged.total
        self._append({"global_step": step, **total, **{name: asdict(part) for name, part in groups.items()}})
        curves = {"val": losses.total, **{name.replace("_", "/"): part for name, part in groups.items()}}
        self._boards.add(
            step, {f"{group}/{name}": value for group, part in curves.items() for name, value in asdict(part).items()}
        )
        logger.info(
            "step %d/%d  validation on %d songs: loss %.4f (tokens %.4f, flow %.4f)  accuracy %.2f %%",
            step, self._last_step, losses.total.num_songs, losses.total.loss, losses.total.ce, losses.total.flow,
            100 * losses.total.accuracy,
        )  # fmt: skip
        if averaged is not None:
            logger.info(
                "  moving average of the weights: loss %.4f (tokens %.4f, flow %.4f)",
                averaged.total.loss, averaged.total.ce, averaged.total.flow,
            )  # fmt: skip
        logger.info("  by language: %s", _spell_losses(losses.by_language))
        logger.info("  by place, eighths of the longest crop: %s", _spell_losses(dict(enumerate(losses.by_place, 1))))

    def close(self) -> None:
        """Close the boards."""
        self._boards.close()

    def _estimate_rest(self, step: int) -> float:
        elapsed_s = time.monotonic() - self._started
        return elapsed_s / (step - self._first_step) * (self._last_step - step)

    def _log(self, step: int) -> None:
        """Log means over the steps since the last line; counts are added up."""
        total = {key: sum(record[key] for record in self._window) for key in self._window[0]}
        mean = {key: value / len(self._window) for key, value in total.items()}
        last = self._window[-1]
        speed = f"MFU {100 * mean['mfu']:.1f} %" if "mfu" in mean else f"{mean['tflops_per_s']:.3g} TFLOP/s"
        reasons = ", ".join(f"{count} times {reason}" for reason, count in self._skipped.most_common(MAX_REASONS))
        skipped = f"  skipped {total['num_skipped']:.0f} songs ({reasons})" if total["num_skipped"] else ""
        logger.info(
            "step %d/%d  loss %.4f (tokens %.4f, flow %.4f)  accuracy %.2f %%  lr %.2e  norm %.3f  "
            "%.2f songs/s  %.0f tokens/s  %s  data wait %.1f %%  memory %.2f GiB  left %s%s",
            step, self._last_step, mean["loss"], mean["ce"], mean["flow"], 100 * mean["accuracy"], last["lr"],
            last["grad_norm"], total["num_songs"] / total["step_s"], total["num_tokens"] / total["step_s"],
            speed, 100 * total["data_wait_s"] / total["step_s"], last["memory_gib"], _spell_duration(last["eta_s"]),
            skipped,
        )  # fmt: skip

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def describe_sizes(config: RunConfig) -> str:
    """Return parameters by part, and FLOPs of a step by part with every song at its longest, as lines of text.

    What is frozen costs no gradient of its weights, and adapters cost products of their own.
    """
    num_songs, num_frames = config.trainer.batch_size, config.data.max_crop_frames
    lines = ["parameters"]
    lines += [f"  {part:16} {count:15,}" for part, count in count_parameters(config.model).items()]
    lines += [f"TFLOP a step of {num_songs} songs of {config.data.max_crop_s:g} s, without recomputing layers"]
    total, trained = count_trained(config)
    if trained < total:
        lines.insert(1, f"  {'trained':16} {trained:15,}  of {total:,}")
    flops = flops_per_step(config.model, [num_frames] * num_songs, backward=backward_factors(describe_model(config)))
    lines += [f"  {part:16} {count / 1e12:15,.3f}" for part, count in flops.items()]
    return "\n".join(lines) + "\n"


def _forget_after(path: Path, last_step: int) -> None:
    """Keep the whole lines of steps up to `last_step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            step = json.loads(line)["global_step"]
        except (ValueError, KeyError, TypeError):  # a line that a killed process left unfinished
            continue
        if step <= last_step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _spell_losses(parts: Mapping[Any, BatchLosses]) -> str:
    return "  ".join(f"{name} {part.loss:.4f} ({part.num_songs} songs)" for name, part in parts.items())


def _spell_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
