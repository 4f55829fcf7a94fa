"""How findings read, in a file and on a terminal."""

import pytest

from jobs.checks import finding
from jobs.checks.finding import Finding, format_findings


def test_a_finding_is_one_line_in_a_file_and_folded_on_a_terminal():
    found = Finding(name="disk", status="FAIL", found="1 GB free " * 6, needed="9 GB", remedy="make room " * 5)
    (line,) = format_findings([found], None).splitlines()
    assert line.startswith("FAIL  disk         1 GB free")
    assert "; needed: 9 GB -> make room" in line
    folded = format_findings([found], 60).splitlines()
    assert all(len(part) <= 60 for part in folded)
    assert len(folded) > 2
    (remedy,) = (part for part in folded if "->" in part)
    assert remedy == f"{' ' * 19}-> make room make room make room make"  # on a line of its own, below the text
    assert all(part.startswith(" " * 19) for part in folded[1:])


def test_a_node_is_named_in_its_line():
    found = Finding(name="memory", status="warn", found="2 GB", node="worker-3")
    assert format_findings([found], None) == "warn  memory       worker-3: 2 GB\n"


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(999, "1 kB"), (84_025_440, "84 MB"), (3_100_000_000, "3.1 GB"), (2.5e12, "2.5 TB")]
)
def test_sizes_are_decimal(num_bytes, text):
    assert finding.format_bytes(num_bytes) == text
