"""demo/report.html: what the demo did, how long it took, what the model learned and what it sounds like."""

import json
from pathlib import Path
from typing import Any

import jinja2

from pipeline.cleaning.records import write_text

_TEMPLATE = Path(__file__).with_name("demo_report.html.jinja")
WIDTH, HEIGHT = 640, 220  # of the loss curve, in SVG units


def write_demo_report(out: Path, totals: dict[str, Any]) -> None:
    """Write the report of a demo run in `out`; `totals` is what jobs/demo.py prints."""
    metrics = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [(entry["global_step"], entry["loss"]) for entry in metrics if "loss" in entry]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    write_text(
        out / "report.html",
        template.render(totals=totals, losses=losses, curve=_curve(losses), width=WIDTH, height=HEIGHT),
    )


def _curve(losses: list[tuple[int, float]]) -> str:
    """Return the points of an SVG polyline over the whole drawing."""
    low, high = min(y for _, y in losses), max(y for _, y in losses)
    first, last = losses[0][0], losses[-1][0]
    return " ".join(
        f"{WIDTH * (x - first) / max(last - first, 1):.1f},{HEIGHT * (high - y) / max(high - low, 1e-9):.1f}"
        for x, y in losses
    )
