"""The models of a profile: which there are, where they come from, what is here, and `fetch` brings the rest.

Everything goes into the hub's cache (HF_HOME), where all jobs look, and where other programs look as well. A download
that was cut goes on where it stopped; what came is compared with the hub's hashes. On a Ray cluster that is running
every node gets the models, unless all share one cache. Jobs themselves fetch what is missing when they start.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.checks.fetch import NodeModels, ask_remote, bytes_to_come, fetch, free_cache_bytes, use_cache, visit_nodes
from jobs.checks.finding import format_bytes
from jobs.checks.model_list import (
    LANGUAGES,
    ModelState,
    languages_without_aligner,
    list_needs,
    look_up,
    read_languages,
    read_names,
)
from jobs.checks.models import ask_hub, hub_cache
from jobs.checks.nodes import count_nodes
from jobs.cluster import JobError, resolve_path
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, add_model_flags, read_profile, run_command
from pipeline.model_files.hub import HubError, RemoteModel
from pipeline.model_files.stage_files import STAGES

logger = logging.getLogger(__name__)

_EPILOG = """examples:
  python jobs/models.py list                                     # works offline, downloads nothing
  python jobs/models.py fetch                                    # profile full, aligners for English and Chinese
  python jobs/models.py fetch --languages en,de,ja --cache /data/hf
  python jobs/models.py fetch --only separator,muq
a machine without network: fetch on another one, copy the folder HF_HOME (~/.cache/huggingface) and export
HF_HUB_OFFLINE=1. A mirror of the hub: export HF_ENDPOINT=https://its.address
the last line is one JSON object; exit codes: 0 every model is here (the codebook apart: it is fitted, not fetched),
1 one is not, 2 wrong use"""


def list_models(states: Sequence[ModelState]) -> str:
    """Return a table of models: what of each is here, its stage, size, licence and name."""
    rows = [("here", "stage", "size", "licence", "model")]
    for state in states:
        what = f"{state.source} ({state.problem})" if state.state == "incomplete" else state.source
        if state.need.stage == "codebook" and state.state == "missing":
            what = "fitted on your songs: python jobs/fit_codebook.py"
        licence = state.licence or ("see its page" if state.address else "")
        rows.append((state.state, state.need.label, _format_size(state), licence, what))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    return "\n".join(lines) + "\n"


def _format_size(state: ModelState) -> str:
    if state.num_bytes is None:
        return "" if state.need.stage == "codebook" else "unknown"
    return f"{'' if state.is_exact else '~'}{format_bytes(state.num_bytes)}"


def _summarise(states: Sequence[ModelState], hub_problem: str) -> str:
    """Return the lines under the table."""
    lines = []
    if any(state.num_bytes is not None and not state.is_exact for state in states):
        lines.append("~ about, as published")
    if hub_problem:
        lines.append(f"hub: {hub_problem}")
    to_come = bytes_to_come(states)
    if to_come:
        is_vague = any(state.is_fetchable and not state.is_exact for state in states)
        size = f"{'about ' if is_vague else ''}{format_bytes(to_come)}"
        size += " and what is of unknown size" if any(s.is_fetchable and s.num_bytes is None for s in states) else ""
        lines.append(f"to come: {size}; free in {hub_cache()}: {format_bytes(free_cache_bytes())}")
    return "".join(f"{line}\n" for line in lines)


def fetch_missing(
    states: Sequence[ModelState], remotes: dict[Any, RemoteModel | HubError], hub_problem: str
) -> list[ModelState]:
    """Return the states after what can be had was fetched; one that fails does not stop the others."""
    to_come, free = bytes_to_come(states), free_cache_bytes()
    if to_come > free and not hub_problem:
        hub_problem = (
            f"not started: {format_bytes(to_come)} are to come, {format_bytes(free)} are free in {hub_cache()}; make "
            "room, or name a folder on another disk with --cache"
        )
    after = []
    for state in states:
        if not state.is_fetchable:
            after.append(state)
            continue
        remote = remotes.get(state.need.hub_name)
        if hub_problem or isinstance(remote, HubError):
            problem = f"{state.address}: {hub_problem}" if hub_problem else str(remote)
            after.append(state.with_problem(problem))
            continue
        after.append(fetch(state, remote))
    return after


def _visit_cluster(states: Sequence[ModelState], cache: str, *, is_dry: bool) -> tuple[dict[str, NodeModels], str]:
    """Return what the nodes of a running cluster have, empty where there is one machine, and why none was asked."""
    try:
        if count_nodes() < 2:
            return {}, ""
        nodes = visit_nodes([state.need for state in states], cache, is_dry=is_dry)
    except JobError as error:
        return {}, str(error)
    if all(node.shares_cache for node in nodes.values()):
        logger.info("all %d nodes share %s: nothing more to fetch", len(nodes), hub_cache())
        return nodes, ""
    for name, node in nodes.items():
        if not node.missing:
            logger.info("node %s: complete", name)
        for state in node.missing:
            logger.error("node %s: %s %s: %s", name, state.need.label, state.source, state.problem)
    return nodes, ""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(prog="models.py", description=__doc__, epilog=_EPILOG)
    parser.add_argument("action", choices=("fetch", "list"), help="list is fetch --dry-run")
    add_model_flags(parser, STAGES)
    parser.add_argument(
        "--languages",
        default=LANGUAGES,
        help=f"ISO 639-1 codes of your songs, with commas: each may have an aligner of its own (default: {LANGUAGES})",
    )
    parser.add_argument("--only", metavar="STAGES", help=f"some of {', '.join(STAGES)}, with commas (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="say what there is and what would come; fetch nothing")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep the models there, as HF_HOME=DIR does, which jobs then need as well (default: $HF_HOME)",
    )
    return parser.parse_args()


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    is_dry = arguments.dry_run or arguments.action == "list"
    profile = read_profile(arguments)
    languages = read_languages(arguments.languages)
    stages = read_names(arguments.only, "--only", STAGES) if arguments.only else STAGES
    cache = str(resolve_path(arguments.cache)) if arguments.cache else ""
    if cache:
        use_cache(Path(cache))
    states = [look_up(need) for need in list_needs(profile, languages, stages)]
    hub_problem = ask_hub() if any(state.is_fetchable for state in states) else ""
    remotes: dict[Any, RemoteModel | HubError] = {} if hub_problem else dict(ask_remote(states))
    states = [_complete(state, remotes) for state in states]
    sys.stdout.write(list_models(states) + _summarise(states, hub_problem))
    sys.stdout.flush()
    if "aligner" in stages and (without := languages_without_aligner(profile, languages)):
        logger.info("no aligner of its own: %s; Whisper's attention places the words alone", ", ".join(without))
    if not is_dry and any(state.is_fetchable for state in states):
        states = fetch_missing(states, remotes, hub_problem)
        sys.stdout.write(list_models(states))
        sys.stdout.flush()
    missing = [state for state in states if state.state != "complete" and state.need.stage != "codebook"]
    for state in missing:
        if not is_dry or isinstance(remotes.get(state.need.hub_name), HubError) or not state.is_fetchable:
            logger.error("%s %s: %s", state.need.label, state.source, state.problem)
    nodes, nodes_problem = _visit_cluster(states, cache, is_dry=is_dry)
    if nodes_problem:
        logger.error("other nodes: %s", nodes_problem)
    if cache and not is_dry:
        logger.info("before you run jobs: export HF_HOME=%s", cache)
    totals = {
        "profile": profile.name,
        "languages": languages,
        "cache": str(hub_cache()),
        "models": [state.to_json() for state in states],
        "missing": [state.need.label for state in missing],
        "bytes_to_come": bytes_to_come(states),
        "hub_problem": hub_problem,
        "nodes": {
            name: {"shares_cache": node.shares_cache, "missing": [state.need.label for state in node.missing]}
            for name, node in nodes.items()
        },
        "nodes_problem": nodes_problem,
    }
    is_short = missing or nodes_problem or any(node.missing for node in nodes.values())
    return totals, EXIT_SHORT if is_short else EXIT_FINE


def _complete(state: ModelState, remotes: dict[Any, RemoteModel | HubError]) -> ModelState:
    """Add what the hub says of a model."""
    remote = remotes.get(state.need.hub_name)
    if isinstance(remote, HubError):
        return state.with_problem(str(remote))
    return state if remote is None or state.state == "complete" else state.with_remote(remote)


if __name__ == "__main__":
    run_command(main)
