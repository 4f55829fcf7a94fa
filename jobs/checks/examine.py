"""All checks in their order, those of one machine as well as those that join a cluster."""

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.checks.catalogue_size import CatalogueSize
from jobs.checks.environment import check_packages, check_python, check_ray_variables
from jobs.checks.finding import Finding
from jobs.checks.folders import check_disk, check_output, check_source
from jobs.checks.gpus import check_gpus, count_visible_gpus, cpu_weight_bytes
from jobs.checks.machine import (
    check_address_space,
    check_cores,
    check_memory,
    check_open_files,
    check_shared_memory,
    count_workers,
)
from jobs.checks.model_list import list_needs, look_up
from jobs.checks.models import check_codebook, check_hub, check_hub_settings, check_models
from jobs.checks.nodes import check_machines, check_ray, check_shared_folders, count_nodes, explain_failure
from jobs.cluster import WORKERS_PER_GPU, JobError
from pipeline.model_files.names import MINIATURE
from pipeline.model_files.profiles import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is going to be run."""

    profile: Profile
    languages: tuple[str, ...]
    source: Path  # absolute
    out: Path  # absolute
    is_source_given: bool
    num_gpus: int | None = None  # that each machine is supposed to have
    all_nodes: bool = False  # whether every node makes the checks of its machine
    fetch: str  # the command that fetches what is missing


def examine_machine(options: Options) -> Iterator[Finding]:
    """Yield what is found of the machine that this runs on: programs, GPUs, memory, limits."""
    yield check_python()
    yield check_packages()
    yield from check_gpus(options.profile, num_wanted=options.num_gpus, num_languages=len(options.languages))
    num_gpus = count_visible_gpus()
    num_workers = count_workers(num_gpus, WORKERS_PER_GPU)
    yield check_cores(num_workers)
    yield check_memory(num_workers, 0 if num_gpus else cpu_weight_bytes(options.profile))
    yield check_shared_memory()
    yield check_open_files()
    yield check_address_space()


def examine_models(options: Options) -> Iterator[Finding]:
    """Yield what is found of the models, on the machine that this runs on."""
    yield check_hub_settings(os.environ)
    states = [look_up(need) for need in list_needs(options.profile, options.languages)]
    yield from check_models(states, options.fetch)
    by_stage = {state.need.stage: state for state in states}
    yield check_codebook(by_stage["codebook"], by_stage["muq"], options.profile)
    yield check_hub(states)


def examine_node(options: Options) -> Sequence[Finding]:
    """Return what is found on a node of a cluster.

    A codebook that is not fitted yet is a finding of the driver's machine already; a job needs it there alone to start.
    """
    findings = [*examine_machine(options), *examine_models(options)]
    return [finding for finding in findings if finding.name != "codebook" or finding.status != "warn"]


def examine(options: Options) -> Iterator[Finding]:
    """Yield all findings, each as soon as it is known."""
    yield from examine_machine(options)
    yield check_ray_variables(os.environ, Path.home())
    ray = check_ray(os.environ)
    yield ray
    source, size = check_source(options.source, is_given=options.is_source_given)
    yield source
    output = check_output(options.out)
    yield output
    yield check_disk(options.out, size, options.profile)
    yield from examine_models(options)
    if ray.status != "FAIL":
        yield from _examine_cluster(options, size, can_write=output.status == "ok")


def _examine_cluster(options: Options, size: CatalogueSize | None, *, can_write: bool) -> Iterator[Finding]:
    """Yield what the nodes of a running cluster find; nothing where this machine is alone."""
    try:
        num_nodes = count_nodes()
        if num_nodes > 1 and can_write:
            sample = size.samples[0] if size and size.samples else options.source
            yield from check_shared_folders(sample, options.out)
        if options.all_nodes and num_nodes:
            yield from check_machines(functools.partial(examine_node, _with_absolute_paths(options)))
        elif options.all_nodes:
            remedy = "`ray start --head` on one machine, `ray start --address` on the others, and run this there"
            yield Finding(name="nodes", status="FAIL", found="no Ray runs here", needed="a cluster", remedy=remedy)
    except (JobError, OSError) as error:  # OSError: the output folder went away in the meantime
        yield explain_failure(error)


def _with_absolute_paths(options: Options) -> Options:
    """Return options whose local models have absolute paths: a relative one means another folder on every node."""
    states = [look_up(need) for need in list_needs(options.profile, options.languages) if need.stage != "aligner"]
    local = {
        state.need.stage: str(state.path)
        for state in states
        if state.path is not None and state.need.hub_name is None and state.need.name != MINIATURE
    }
    return replace(options, profile=replace(options.profile, **local))  # type: ignore[arg-type]
