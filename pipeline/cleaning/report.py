"""clean/report.html: what came in, what was kept and why, song by song, in one file without scripts from elsewhere."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipeline.cleaning.records import write_text

MAX_SONGS = 400  # in full; the tables hold all of them
# Controls of writing direction, with which a name would turn around what stands after it.
_DIRECTIONS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(
    path: Path,
    rows: Sequence[dict[str, Any]],
    quarantined: Sequence[dict[str, Any]],
    failed: Sequence[dict[str, Any]],
    stats: dict[str, Any],
) -> None:
    """Write the report of one cleaning run; `rows` are those of songs.parquet, and so on for the other tables."""
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _DIRECTIONS.sub("\ufffd", value) if isinstance(value, str) else value,
    )
    environment.filters["clock"] = lambda time_s: f"{int(time_s) // 60}:{time_s % 60:04.1f}"
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    reasons = sorted(stats["rejected"].items(), key=lambda item: -item[1])
    write_text(
        path,
        template.render(
            rows=rows[:MAX_SONGS],
            num_left_out=max(len(rows) - MAX_SONGS, 0),
            quarantined=quarantined[:MAX_SONGS],
            failed=failed[:MAX_SONGS],
            stats=stats,
            reasons=reasons,
        ),
    )
