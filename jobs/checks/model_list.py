"""The models of a profile: what each is called, where it comes from, how large it is and what of it is here."""

import difflib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jobs.command import read_language
from pipeline.alignment.by_language import choose_model
from pipeline.input_file import InputError
from pipeline.model_files.errors import ModelFileError, ModelNotFoundError
from pipeline.model_files.hub import HubName, RemoteModel, find_snapshot
from pipeline.model_files.hub_repositories import PUBLISHED, find_repository
from pipeline.model_files.names import MINIATURE, resolve_model
from pipeline.model_files.profiles import Profile
from pipeline.model_files.stage_files import STAGES, MissingFilesError, find_files

FIT_CODEBOOK = "python jobs/fit_codebook.py --in raw/ --out codebook/"
PIPELINE, PROJECT_LICENCE = Path(__file__).resolve().parents[2] / "pipeline", "Apache-2.0"

LANGUAGES = "en,zh"  # SongBloom's

State = Literal["complete", "incomplete", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNeed:
    """A model that a stage of a profile takes."""

    stage: str
    name: str  # as `resolve_model` takes it
    languages: tuple[str, ...] = ()  # that an aligner serves
    from_packages: bool = False  # whether a Python package serves for some names

    @property
    def label(self) -> str:
        """The stage, and the languages where it has a model for each."""
        return f"{self.stage} {','.join(self.languages)}" if self.languages else self.stage

    @property
    def hub_name(self) -> HubName | None:
        """The repository that `resolve_model` would ask for; None for what no hub has."""
        if self.stage == "codebook" or self.name == MINIATURE:
            return None
        if (repository := find_repository(self.name, self.stage)) is not None:
            return HubName(repository)
        return None if Path(self.name).expanduser().exists() else HubName.parse(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """What is known of a model, and what of it is here."""

    need: ModelNeed
    state: State
    path: Path | None = None  # of a complete one
    problem: str = ""  # why it is not complete: one line
    num_bytes: int | None = None  # of what its stage reads; None: nobody said
    is_exact: bool = False  # whether `num_bytes` was counted here or by the hub, not published once
    licence: str = ""  # "" where nobody said

    @property
    def source(self) -> str:
        """Where it comes from, short enough for a table."""
        if (name := self.need.hub_name) is not None:
            return f"{name.repository}/{name.file_name}" if name.file_name else name.repository
        if self.need.name == MINIATURE:
            return "miniature (ships with the project, or a package)"
        return self.need.name

    @property
    def address(self) -> str:
        """The page of its repository; "" for what no hub has."""
        name = self.need.hub_name
        return "" if name is None else name.address

    @property
    def is_fetchable(self) -> bool:
        """Whether a hub has it and it is not here."""
        return self.state != "complete" and self.need.hub_name is not None

    def with_remote(self, remote: RemoteModel) -> "ModelState":
        """Return it with size and licence as the hub states them now."""
        num_bytes = sum(file.num_bytes for file in remote.files)
        return replace(self, num_bytes=num_bytes, is_exact=True, licence=remote.licence or self.licence)

    def with_problem(self, problem: str) -> "ModelState":
        """Return it with another reason why it is not complete."""
        return replace(self, problem=problem)

    def to_json(self) -> dict[str, Any]:
        """Return what scripts need."""
        return {
            "stage": self.need.stage,
            "languages": list(self.need.languages),
            "name": self.need.name,
            "address": self.address,
            "licence": self.licence,
            "bytes": self.num_bytes,
            "bytes_are_exact": self.is_exact,
            "state": self.state,
            "path": None if self.path is None else str(self.path),
            "problem": self.problem,
        }


def list_needs(profile: Profile, languages: Sequence[str], stages: Sequence[str] = STAGES) -> list[ModelNeed]:
    """Return the models that some stages take, in the order of `STAGES`; aligners once per model.

    Args:
        profile: whose models.
        languages: ISO 639-1 codes whose aligners count; a language without one of its own adds nothing.
        stages: a part of `STAGES`.
    """
    needs = []
    for stage in (stage for stage in STAGES if stage in stages):
        name = str(getattr(profile, stage))
        if stage != "aligner":
            needs.append(ModelNeed(stage=stage, name=name, from_packages=profile.from_packages))
            continue
        served: dict[str, list[str]] = {}
        for language in dict.fromkeys(languages):
            if (chosen := choose_model(name, language)) is not None:
                served.setdefault(chosen, []).append(language)
        needs += [ModelNeed(stage=stage, name=model, languages=tuple(tags)) for model, tags in served.items()]
    return needs


def languages_without_aligner(profile: Profile, languages: Sequence[str]) -> list[str]:
    """Return the languages whose words Whisper's cross-attention places alone."""
    return [language for language in languages if choose_model(profile.aligner, language) is None]


def look_up(need: ModelNeed) -> ModelState:
    """Return what of a model is here; nothing is asked of a hub."""
    name = need.hub_name
    published = PUBLISHED.get(name.repository) if name else None
    state = ModelState(
        need=need,
        state="missing",
        num_bytes=published.num_bytes if published else None,
        licence=published.licence if published else "",
    )
    try:
        path = resolve_model(need.name, need.stage, from_packages=need.from_packages, may_download=False)
        files = find_files(need.stage, path)
        num_bytes = sum(file.stat().st_size for file in files)
    except ModelNotFoundError as error:
        return _explain_absence(state, error)
    except (ModelFileError, MissingFilesError, OSError) as error:
        return replace(state, state="incomplete", problem=str(error))
    licence = state.licence or _licence_of(path)
    return replace(state, state="complete", path=path, num_bytes=num_bytes, is_exact=True, licence=licence)


def _explain_absence(state: ModelState, error: ModelNotFoundError) -> ModelState:
    """Say in few words why a model is not complete: the error itself is a paragraph."""
    if (name := state.need.hub_name) is not None:
        try:
            find_snapshot(name, state.need.stage)
        except MissingFilesError as missing:
            return replace(state, state="incomplete", problem=str(missing))
        return replace(state, problem="not in the hub cache")
    if state.need.stage == "codebook" and not Path(state.need.name).exists():
        return replace(state, problem=f"not fitted yet: {FIT_CODEBOOK}")
    return replace(state, problem=str(error).partition(". Looked in:")[0])


def _licence_of(path: Path) -> str:
    """Return the licence of a model that installs with a Python package, or ships with this project; "" of others."""
    if path.is_relative_to(PIPELINE):
        return PROJECT_LICENCE
    if "site-packages" not in path.parts:
        return ""
    package = path.parts[path.parts.index("site-packages") + 1]
    for distribution in importlib.metadata.packages_distributions().get(package, []):
        metadata = importlib.metadata.metadata(distribution)
        for key in ("License-Expression", "License"):
            for licence in metadata.get_all(key) or []:
                return str(licence)
    return ""


def read_languages(text: str) -> list[str]:
    """Return the codes of --languages.

    Raises:
        InputError: something else in it.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    codes = dict.fromkeys(read_language(name, "--languages") for name in names)
    if not codes or "auto" in codes:
        raise InputError(f"--languages {text!r}: expected ISO 639-1 codes with commas, as en,zh")
    return list(codes)


def read_names(text: str, flag: str, allowed: Sequence[str]) -> list[str]:
    """Return the parts of a list with commas, each once.

    Raises:
        InputError: nothing in it, or a part that is not allowed.
    """
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise InputError(f"{flag} {text!r}: expected at least one name")
    for part in parts:
        if part not in allowed:
            near = difflib.get_close_matches(part, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(allowed)}"
            raise InputError(f"{flag} {part!r}: no stage; {hint}")
    return parts
