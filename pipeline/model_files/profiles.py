"""Profiles: named sets of models and stage settings. `full` is for real work, `miniature` ships with the project."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.model_files.names import MINIATURE, resolve_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One name per model, as `resolve_model` takes it, and the settings that go with them."""

    name: str
    separator: str
    asr: str
    verifier: str  # the Whisper that says how likely given lines are, and where their words are
    aligner: str  # a second ear for word times, as `pipeline.alignment.by_language.Aligners` takes it
    muq: str
    muq_layer: int  # entry of MuQ's hidden states: 0 is the input of the first layer
    codebook: str
    vae: str
    separator_overlap: float = 0.25  # of a segment; Demucs' own default
    separator_precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"  # figures in pipeline/README.md
    accompaniment_share: float = 0.0  # of the accompaniment that stays in what the recogniser hears
    muq_window_s: float = 30.0  # MuQ was trained on 30 s
    muq_margin_s: float = 1.0  # discarded at each inner edge of a window
    vae_chunk_s: float = 10.0  # audio that the VAE takes at once; memory only, the result does not depend on it
    gpu_batch: int = 8  # segments or windows of a song that run together on a GPU; a CPU gains nothing
    vae_gpu_batch: int = 2  # the same for chunks of the VAE, each of which takes 1.3 GB
    prompts_per_song: int = 4  # 10 s style prompts from different places
    from_packages: bool = False  # whether "base" and "tiny.en" mean those of the Python packages of the demo
    given_names: tuple[tuple[str, str], ...] = ()  # of the models that `locate_models` has replaced by paths

    def batch_size(self, device: str, stage: str = "") -> int:
        """Return how many parts of a song run together in a stage, on a device ("cpu" or "cuda")."""
        if device == "cpu":
            return 1
        return self.vae_gpu_batch if stage == "vae" else self.gpu_batch

    def model_path(self, stage: str) -> Path:
        """Return where the model of a stage lies on this machine; nothing is downloaded.

        Raises:
            ModelNotFoundError: it is not here; see `locate_models`.
        """
        name = getattr(self, stage)
        return resolve_model(name, stage, from_packages=self.from_packages, may_download=False)

    def given_name(self, stage: str) -> str:
        """Return the name by which the user chose the model of a stage."""
        return dict(self.given_names).get(stage) or str(getattr(self, stage))


PROFILES = {
    "full": Profile(
        name="full",
        separator="htdemucs",
        separator_precision="tf32",  # only what is learnt from has to be exact, and vocals are only listened to
        asr="large-v3",
        verifier="base",  # the search's thresholds were measured with it, and it asks many times
        aligner="wav2vec2",  # WhisperX's model of the song's language, Whisper's attention where there is none
        muq="OpenMuQ/MuQ-large-msd-iter",
        muq_layer=6,  # a middle layer, as LeVo takes; SongBloom's own is unpublished
        codebook="codebook",  # where jobs/fit_codebook.py puts it
        vae="CypressYang/SongBloom",
    ),
    "miniature": Profile(
        name="miniature",
        separator=MINIATURE,
        accompaniment_share=0.5,
        asr=MINIATURE,
        verifier=MINIATURE,
        aligner=MINIATURE,
        muq=MINIATURE,
        muq_layer=3,
        codebook=MINIATURE,
        vae=MINIATURE,
        from_packages=True,
    ),
}


class ProfileError(ValueError):
    """A profile that does not exist."""


def get_profile(name: str) -> Profile:
    """Return the profile called `name`."""
    if name not in PROFILES:
        raise ProfileError(f"profile {name!r}, expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


def locate_models(profile: Profile, stages: Iterable[str]) -> Profile:
    """Return the profile with absolute paths for the models of some stages, before any work.

    A job does this once, and hands what it gets to its workers: a relative name would mean each worker's own folder,
    and a hub's branch may move in the meantime. What is not here is downloaded where a hub may be asked.

    Raises:
        ModelNotFoundError: the first model that cannot be had.
    """
    names = {stage: getattr(profile, stage) for stage in stages}
    paths = {stage: resolve_model(name, stage, from_packages=profile.from_packages) for stage, name in names.items()}
    given = dict(profile.given_names) | {stage: profile.given_name(stage) for stage in names}
    located = {stage: str(path) for stage, path in paths.items()}
    return replace(profile, given_names=tuple(sorted(given.items())), **located)  # type: ignore[arg-type]
