"""The checks that every job makes before it starts: no network, no model, well under a second."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jobs.checks.finding import Finding
from jobs.checks.folders import check_output, check_room
from jobs.checks.gpus import check_usable
from jobs.checks.machine import check_address_space, check_shared_memory
from jobs.cluster import JobError

logger = logging.getLogger(__name__)


def check_quickly(out: Path, *, uses_gpu: bool = True) -> list[Finding]:
    """Check that the output can be written and that the machine can compute.

    Args:
        out: the job's output folder; it need not exist yet.
        uses_gpu: False with --device cpu.
    """
    findings = [check_output(out), check_room(out), check_shared_memory(), check_address_space()]
    unusable = check_usable() if uses_gpu else None
    return [*findings, unusable] if unusable else findings


def require_fit(findings: Sequence[Finding]) -> None:
    """Log every warning, and stop the job at the first failure.

    Raises:
        JobError: one line that says what was found, what is needed and what to do.
    """
    for finding in findings:
        if finding.status == "warn":
            logger.warning("%s: %s", finding.name, finding.text)
    for finding in findings:
        if finding.status == "FAIL":
            raise JobError(f"{finding.name}: {finding.text}")
