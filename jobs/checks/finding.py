"""What a check found, and how a person reads it: one line each."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "FAIL"]  # warn: works, but slowly or not for everything; FAIL: some job will stop

_NAME_WIDTH = 12
_MIN_TEXT_WIDTH = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check."""

    name: str  # of what was checked, as "GPU"
    status: Status
    found: str
    needed: str = ""  # "" where what was found says it
    remedy: str = ""  # what to do; "" where nothing has to be done
    node: str = ""  # of a cluster; "" for the machine that the command runs on

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self)

    @property
    def facts(self) -> str:
        """What was found, where, and what is needed."""
        where = f"{self.node}: " if self.node else ""
        return f"{where}{self.found}{f'; needed: {self.needed}' if self.needed else ''}"

    @property
    def text(self) -> str:
        """Everything but the status and the name, in one line."""
        return f"{self.facts}{f' -> {self.remedy}' if self.remedy else ''}"


def format_findings(findings: Sequence[Finding], width: int | None) -> str:
    """Return a line per finding, with a line's end after the last.

    Args:
        findings: in the order in which they are shown.
        width: columns of the terminal, to which long lines are folded, with what to do on a line of its own; None:
            every finding is one line, for files and pipes.
    """
    return "".join(f"{_format(finding, width)}\n" for finding in findings)


def _format(finding: Finding, width: int | None) -> str:
    start = f"{finding.status:<5} {finding.name:<{_NAME_WIDTH}} "
    if width is None:
        return f"{start}{finding.text}"
    room = max(width - len(start), _MIN_TEXT_WIDTH)
    lines = [finding.text]
    if len(finding.text) > room and finding.remedy:
        lines = [finding.facts, f"-> {finding.remedy}"]
    folded = [part for line in lines for part in _fold(line, room)]
    return f"\n{' ' * len(start)}".join([f"{start}{folded[0]}", *folded[1:]])


def _fold(line: str, room: int) -> list[str]:
    return textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is, None where it is none."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None


def count_by_status(findings: Sequence[Finding]) -> dict[Status, int]:
    """Return how many findings there are of each status."""
    statuses: tuple[Status, ...] = ("ok", "warn", "FAIL")
    return {status: sum(finding.status == status for finding in findings) for status in statuses}


def format_bytes(num_bytes: float) -> str:
    """Return a size in decimal units, as disks and hubs state them: "84 MB", "3.1 GB"."""
    for unit, name in ((1e12, "TB"), (1e9, "GB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"
