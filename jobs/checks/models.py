"""Are the models of a profile here, do codebook and MuQ belong together, and does the hub answer?"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.checks.finding import Finding, format_bytes
from jobs.checks.model_list import FIT_CODEBOOK, ModelState
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.names import MINIATURE
from pipeline.model_files.profiles import Profile

HUB_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HTTPS_PROXY")
HUB_TIMEOUT_S = 5.0
_CHECK_NETWORK = "check the network, HTTPS_PROXY or HF_ENDPOINT"
_OBJECT = re.compile(r"^(<.*?>|\w+\(.*?\)): ")  # as "HTTPSConnection(host='...', port=443): "


def hub_cache() -> Path:
    """Return the folder of the hub's models."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def hub_endpoint() -> str:
    """Return the hub's address."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def check_hub_settings(environment: Mapping[str, str]) -> Finding:
    """Check what the hub's library reads of the environment, and whether models can be stored."""
    named = ", ".join(f"{name}={environment[name]}" for name in HUB_VARIABLES if environment.get(name))
    endpoint = environment.get("HF_ENDPOINT", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        return Finding(
            name="hub settings",
            status="FAIL",
            found=named,
            needed="HF_ENDPOINT with http:// or https://",
            remedy=f"export HF_ENDPOINT=https://{endpoint}",
        )
    cache = hub_cache()
    existing = next(path for path in (cache, *cache.parents) if os.path.exists(path))
    if not os.access(existing, os.W_OK):
        return Finding(
            name="hub settings",
            status="warn",
            found=f"{cache} cannot be written: nothing can be fetched",
            remedy="export HF_HOME=FOLDER, one that you may write to",
        )
    return Finding(name="hub settings", status="ok", found=f"models in {cache}{f' ({named})' if named else ''}")


def ask_hub() -> str:
    """Return why no model can be fetched from the hub now, in one line; "" where it answers.

    One request, with a timeout of `HUB_TIMEOUT_S`: each model would try for much longer.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
    from requests.exceptions import RequestException

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; unset it to fetch"
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except (RequestException, OSError) as error:
        return f"{constants.ENDPOINT} cannot be reached: {_reason(error)}; {_CHECK_NETWORK}"
    return ""


def _reason(error: OSError) -> str:
    """Return what urllib3 says of a failed request, without the objects that it says it of."""
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", None) or cause  # of a request that was tried several times
    text = _OBJECT.sub("", str(cause)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def check_hub(states: Sequence[ModelState]) -> Finding:
    """Check that the hub answers, where something has to be fetched."""
    if not any(state.is_fetchable for state in states):
        return Finding(name="hub", status="ok", found="not asked: every model that it has is here")
    started = time.monotonic()
    problem = ask_hub()
    if not problem:
        return Finding(
            name="hub", status="ok", found=f"{hub_endpoint()} answers after {time.monotonic() - started:.1f} s"
        )
    found, _, remedy = problem.partition("; ")
    return Finding(
        name="hub",
        status="warn",
        found=found,
        needed="access to fetch the models that are missing",
        remedy=f"{remedy}; or fetch on another machine and copy its HF_HOME",
    )


def check_models(states: Sequence[ModelState], fetch: str) -> list[Finding]:
    """Return one finding for all models that are here, and one for all that are to be fetched; the codebook apart.

    Args:
        states: of the models of a profile.
        fetch: the command that fetches them.
    """
    states = [state for state in states if state.need.stage != "codebook"]
    here = [state for state in states if state.state == "complete"]
    to_fetch = [state for state in states if state.is_fetchable]
    findings = []
    if here:
        labels = ", ".join(state.need.label for state in here)
        total = format_bytes(sum(state.num_bytes or 0 for state in here))
        findings.append(Finding(name="models", status="ok", found=f"{len(here)} here, {total}: {labels}"))
    if to_fetch:
        names = ", ".join(_describe_missing(state) for state in to_fetch)
        found = f"{len(to_fetch)} of {len(states)} not here: {names}"
        findings.append(
            Finding(name="models", status="FAIL", found=found, needed="all, before a job starts", remedy=fetch)
        )
    for state in states:
        if state.state != "complete" and not state.is_fetchable:
            remedy = f"--{state.need.stage} with another name or path (see --help)"
            findings.append(Finding(name="models", status="FAIL", found=state.problem, remedy=remedy))
    return findings


def _describe_missing(state: ModelState) -> str:
    """Return "asr large-v3 (~3.1 GB)", or what of it is missing where a part is here."""
    name = "" if state.need.languages else f" {state.need.name}"  # the languages say which aligner it is
    if state.state == "incomplete":
        return f"{state.need.label}{name} (in part: {state.problem})"
    size = f" (~{format_bytes(state.num_bytes)})" if state.num_bytes else ""
    return f"{state.need.label}{name}{size}"


def check_codebook(codebook: ModelState, muq: ModelState, profile: Profile) -> Finding:
    """Check that the codebook is there and was fitted on this profile's MuQ.

    Args:
        codebook: of the profile.
        muq: likewise; where it is not here, only the layer is compared.
        profile: says which layer of MuQ is taken.
    """
    if codebook.path is None:
        is_absent = codebook.state == "missing" and codebook.problem.startswith("not fitted")
        return Finding(
            name="codebook",
            status="warn" if is_absent else "FAIL",
            found=codebook.problem.partition(": python")[0],
            needed="one that is fitted on your own songs, before extract_tokens.py; cleaning works without",
            remedy=FIT_CODEBOOK,
        )
    again = f"fit it again: {FIT_CODEBOOK}"
    if codebook.need.name == MINIATURE:
        again = "it ships with the project: restore the checkout"
    try:
        config = read_config(codebook.path / "config.json")
        metadata = config.get("metadata")
        fitted = metadata if isinstance(metadata, dict) else {}
        layer, sha256 = fitted.get("muq_layer"), fitted.get("muq_sha256")
        is_other_muq = bool(muq.path and sha256 and sha256 != fingerprint_model(muq.path, "muq"))
    except ModelFileError as error:
        return Finding(name="codebook", status="FAIL", found=str(error), remedy=again)
    if layer is not None and layer != profile.muq_layer:
        found = f"{codebook.path}: fitted on layer {layer} of MuQ"
        needed = f"layer {profile.muq_layer}, as the profile takes"
        return Finding(name="codebook", status="FAIL", found=found, needed=needed, remedy=again)
    if is_other_muq:
        found = f"{codebook.path}: fitted on another MuQ ({fitted.get('muq', 'of unknown name')})"
        needed = f"the profile's MuQ, {muq.need.name}"
        return Finding(name="codebook", status="FAIL", found=found, needed=needed, remedy=again)
    known = "fits MuQ" if sha256 and muq.path else "MuQ not compared"
    size = config.get("codebook_size", "?")
    return Finding(name="codebook", status="ok", found=f"{codebook.path}: {size} entries, layer {layer}, {known}")
