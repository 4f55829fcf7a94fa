"""Profiles: named sets of models and stage settings. `full` is for real work, `miniature` ships with the project."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.models import MINIATURE, STAGES, resolve_model

ALIGN_WITH_ASR = "asr"  # aligner name: the attention of the Whisper model itself, no weights of its own
ALIGN_BY_LANGUAGE = "wav2vec2"  # aligner name: the CTC model of each song's language


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One name per model, as `pipeline.models.resolve_model` takes it, and the settings that go with them."""

    name: str
    separator: str
    asr: str
    aligner: str
    muq: str
    muq_layer: int  # entry of MuQ's hidden states: 0 is the input of the first layer
    codebook: str
    vae: str
    separator_overlap: float = 0.25  # of a segment; Demucs' own default
    asr_compute_type: Literal["float32", "float16", "int8"] = "float32"
    muq_window_s: float = 30.0  # MuQ was trained on 30 s
    muq_margin_s: float = 1.0  # discarded at each inner edge of a window
    vae_chunk_s: float = 10.0  # audio that the VAE takes at once; memory only, the result does not depend on it
    prompts_per_song: int = 4  # 10 s style prompts from different places


PROFILES = {
    "full": Profile(
        name="full",
        separator="htdemucs",
        asr="large-v3",
        aligner=ALIGN_BY_LANGUAGE,
        muq="OpenMuQ/MuQ-large-msd-iter",
        muq_layer=6,  # a middle layer, as LeVo takes; SongBloom's own is unpublished
        codebook="codebook",  # where jobs/fit_codebook.py puts it
        vae="CypressYang/SongBloom",
    ),
    "miniature": Profile(
        name="miniature",
        separator=MINIATURE,
        asr=MINIATURE,
        aligner=ALIGN_WITH_ASR,
        muq=MINIATURE,
        muq_layer=3,
        codebook=MINIATURE,
        vae=MINIATURE,
    ),
}


def get_profile(name: str) -> Profile:
    """Return the profile called `name`."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r}, expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


def check_models(profile: Profile, stages: Iterable[str], *, languages: Iterable[str] = ("en",)) -> dict[str, Path]:
    """Resolve the models of some stages before any work, and return where each lies.

    Args:
        profile: whose models.
        stages: names out of `pipeline.models.STAGES`.
        languages: ISO 639-1 codes that an aligner by language must be there for; its key is then "aligner-<code>".

    Raises:
        ModelNotFoundError: the first model that cannot be had.
    """
    paths = {}
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r}, expected one of {', '.join(STAGES)}")
        name = getattr(profile, stage)
        if stage == "aligner" and name == ALIGN_WITH_ASR:
            continue
        if stage == "aligner" and name == ALIGN_BY_LANGUAGE:
            for language in languages:
                paths[f"aligner-{language}"] = resolve_model(f"{ALIGN_BY_LANGUAGE}-{language}", stage)
        else:
            paths[stage] = resolve_model(name, stage)
    return paths
