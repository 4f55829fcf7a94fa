"""Checks the machine, or the cluster, before hours of work: what was found, what is needed, what to do about it.

One line per check. ok: fine. warn: works, but slowly or not for everything. FAIL: a job will stop, or has to.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from jobs.checks.environment import check_packages, missing_packages
from jobs.checks.finding import Finding, count_by_status, format_findings, terminal_width

_EPILOG = """examples:
  python jobs/doctor.py                                             # raw/ -> clean/ with profile full
  python jobs/doctor.py --in /data/catalogue --out /data/clean --languages en,ja --gpus 8
  python jobs/doctor.py --nodes                                     # every node of the Ray that runs here
  python jobs/doctor.py --profile miniature --json 2>/dev/null | jq '.findings[] | select(.status == "FAIL")'
exit codes: 0 nothing failed, 1 something did, 2 wrong use. Where a Ray with several nodes runs, --in and --out are
tried from each of them.

what a stage of profile full takes of a GPU: weights + parts of a song that run together (batch: 8 by default). All
weights of a worker stay loaded, and two workers share a GPU:
"""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    from jobs.checks.gpus import describe_stages
    from jobs.checks.model_list import LANGUAGES
    from jobs.command import CommandParser, add_model_flags
    from pipeline.model_files.stage_files import STAGES

    parser = CommandParser(prog="doctor.py", description=__doc__, epilog=_EPILOG + describe_stages())
    parser.add_argument("--in", dest="source", type=Path, help="folder or manifest of songs (default: raw/)")
    parser.add_argument("--out", type=Path, default=Path("clean"), help="folder that jobs write to (default: clean/)")
    add_model_flags(parser, STAGES)
    parser.add_argument(
        "--languages", default=LANGUAGES, help=f"ISO 639-1 codes of your songs, with commas (default: {LANGUAGES})"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs that each machine should have (default: any)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print all findings as one JSON object, the lines for people to stderr (default: counts as JSON)",
    )
    parser.add_argument("--nodes", action="store_true", help="make the checks on every node of the Ray cluster")
    return parser.parse_args()


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    from jobs.checks.examine import Options, examine
    from jobs.checks.model_list import read_languages
    from jobs.cluster import resolve_path
    from jobs.command import EXIT_FINE, EXIT_SHORT, read_profile
    from pipeline.input_file import InputError

    arguments = parse_arguments()
    if arguments.gpus is not None and arguments.gpus < 0:
        raise InputError(f"--gpus {arguments.gpus}: expected 0 or more")
    profile, languages = read_profile(arguments), read_languages(arguments.languages)
    options = Options(
        profile=profile,
        languages=tuple(languages),
        source=resolve_path(arguments.source or Path("raw")),
        out=resolve_path(arguments.out),
        is_source_given=arguments.source is not None,
        num_gpus=arguments.gpus,
        all_nodes=arguments.nodes,
        fetch=_fetch_command(arguments),
    )
    stream = sys.stderr if arguments.json else sys.stdout
    findings = []
    for finding in examine(options):
        findings.append(finding)
        stream.write(format_findings([finding], terminal_width()))
        stream.flush()
    counts = count_by_status(findings)
    totals: dict[str, Any] = {"ok": counts["ok"], "warn": counts["warn"], "failed": counts["FAIL"]}
    if arguments.json:
        totals["findings"] = [finding.to_json() for finding in findings]
    return totals, EXIT_SHORT if counts["FAIL"] else EXIT_FINE


def _fetch_command(arguments: argparse.Namespace) -> str:
    """Return the command that fetches the models of these arguments."""
    from pipeline.model_files.stage_files import STAGES

    others = "".join(f" --{stage} {name}" for stage in STAGES if (name := getattr(arguments, stage)))
    return f"python jobs/models.py fetch --profile {arguments.profile} --languages {arguments.languages}{others}"


def require_packages() -> None:
    """End with a finding where packages are missing or broken: nothing else of this command can be imported then."""
    finding = check_packages() if missing_packages() else None
    try:
        if finding is None:
            importlib.import_module("jobs.checks.examine")
    except (ImportError, OSError) as error:  # OSError: a library of a package that the system cannot load
        finding = Finding(name="packages", status="FAIL", found=f"cannot be imported: {error}", remedy="make setup")
    if finding is not None:
        sys.stdout.write(format_findings([finding], terminal_width()))
        sys.stdout.write(json.dumps({"ok": 0, "warn": 0, "failed": 1, "findings": [finding.to_json()]}) + "\n")
        sys.exit(1)


if __name__ == "__main__":
    require_packages()
    from jobs.command import run_command

    run_command(main)
