"""Which hub repository stands behind a short name, and what is published about the repositories of profile full.

Aligners are those of WhisperX 3.8 (`whisperx.alignment`), named `wav2vec2-<language>`. For the five languages where it
takes a torchaudio bundle, a hub model of the same kind, because a bundle is a pickle from a URL. None for Vietnamese:
WhisperX's model has layers between encoder and head that `Wav2Vec2ForCTC` has no place for.
"""

from dataclasses import dataclass

from pipeline.model_files.stage_files import PREPROCESSOR, VAE_CHECKPOINT_CONFIG

_DEMUCS_OWNER = "adefossez"  # where demucs 4.1 looks up its names
_WHISPER_SIZES = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3")
WHISPER_REPOSITORIES = (
    {size: f"Systran/faster-whisper-{size}" for size in _WHISPER_SIZES}
    | {f"{size}.en": f"Systran/faster-whisper-{size}.en" for size in _WHISPER_SIZES[:4]}
    | {
        "large": "Systran/faster-whisper-large-v3",
        "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    }
)

_XLSR_53 = {
    "ar": "arabic",
    "de": "german",
    "el": "greek",
    "es": "spanish",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "ja": "japanese",
    "nl": "dutch",
    "pl": "polish",
    "pt": "portuguese",
    "ru": "russian",
    "zh": "chinese-zh-cn",
}
ALIGNER_REPOSITORIES = {
    f"wav2vec2-{language}": repository
    for language, repository in (
        {tag: f"jonatasgrosman/wav2vec2-large-xlsr-53-{name}" for tag, name in _XLSR_53.items()}
        | {
            "ca": "softcatala/wav2vec2-large-xlsr-catala",
            "cs": "comodoro/wav2vec2-xls-r-300m-cs-250",
            "da": "saattrupdan/wav2vec2-xls-r-300m-ftspeech",
            "en": "facebook/wav2vec2-base-960h",
            "eu": "stefan-it/wav2vec2-large-xlsr-53-basque",
            "gl": "ifrz/wav2vec2-large-xlsr-galician",
            "he": "imvladikon/wav2vec2-xls-r-300m-hebrew",
            "hi": "theainerd/Wav2Vec2-large-xlsr-hindi",
            "hr": "classla/wav2vec2-xls-r-parlaspeech-hr",
            "id": "cahya/wav2vec2-large-xlsr-indonesian",
            "ka": "xsway/wav2vec2-large-xlsr-georgian",
            "ko": "kresnik/wav2vec2-large-xlsr-korean",
            "lv": "jimregan/wav2vec2-large-xlsr-latvian-cv",
            "ml": "gvs/wav2vec2-large-xlsr-malayalam",
            "nn": "NbAiLab/nb-wav2vec2-1b-nynorsk",
            "no": "NbAiLab/nb-wav2vec2-1b-bokmaal-v2",
            "ro": "gigant/romanian-wav2vec2",
            "sk": "comodoro/wav2vec2-xls-r-300m-sk-cv8",
            "sl": "anton-l/wav2vec2-large-xlsr-53-slovenian",
            "sv": "KBLab/wav2vec2-large-voxrex-swedish",
            "te": "anuragshas/wav2vec2-large-xlsr-53-telugu",
            "tl": "Khalsuu/filipino-wav2vec2-l-xls-r-300m-official",
            "tr": "mpoyraz/wav2vec2-xls-r-300m-cv7-turkish",
            "uk": "Yehor/wav2vec2-xls-r-300m-uk-with-small-lm",
            "ur": "kingabzpro/wav2vec2-large-xls-r-300m-Urdu",
        }
    ).items()
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What is known of a repository without asking a hub; sizes in bytes of what its stage reads."""

    licence: str
    num_bytes: int
    required: tuple[str, ...] = ()  # files beyond those of every model of the stage


# Licences as on the repositories' pages; sizes are exact but for turbo and distil, which are rounded up. Without its
# preprocessor_config.json a large Whisper would be fed 80 mel bands, without its JSON the VAE be taken for the default.
PUBLISHED = {
    "adefossez/HTDemucs": Published(licence="MIT", num_bytes=84_025_461),
    "Systran/faster-whisper-large-v3": Published(licence="MIT", num_bytes=3_090_835_702, required=(PREPROCESSOR,)),
    "mobiuslabsgmbh/faster-whisper-large-v3-turbo": Published(
        licence="MIT", num_bytes=1_630_000_000, required=(PREPROCESSOR,)
    ),
    "Systran/faster-distil-whisper-large-v3": Published(
        licence="MIT", num_bytes=1_530_000_000, required=(PREPROCESSOR,)
    ),
    "Systran/faster-whisper-base": Published(licence="MIT", num_bytes=147_882_941),
    "OpenMuQ/MuQ-large-msd-iter": Published(licence="CC-BY-NC-4.0", num_bytes=1_333_828_229),
    "CypressYang/SongBloom": Published(
        licence="academic use only", num_bytes=674_924_229, required=(VAE_CHECKPOINT_CONFIG,)
    ),
    "facebook/wav2vec2-base-960h": Published(licence="Apache-2.0", num_bytes=377_609_947),
    "jonatasgrosman/wav2vec2-large-xlsr-53-chinese-zh-cn": Published(licence="Apache-2.0", num_bytes=1_280_000_000),
}


def find_repository(name: str, stage: str) -> str | None:
    """Return the hub repository that a short name stands for in a stage, None for a name that is none."""
    if stage in ("asr", "verifier"):
        return WHISPER_REPOSITORIES.get(name)
    if stage == "aligner":
        return ALIGNER_REPOSITORIES.get(name)
    if stage == "separator" and "/" not in name and name.startswith(("htdemucs", "hdemucs", "mdx")):
        return f"{_DEMUCS_OWNER}/{_demucs_repository(name)}"
    return None


def required_files(repository: str) -> tuple[str, ...]:
    """Return the files that this repository has to have beyond those of every model of its stage."""
    return PUBLISHED[repository].required if repository in PUBLISHED else ()


def _demucs_repository(name: str) -> str:
    """Return the hub repository of a Demucs name, by the rule of demucs 4.1 (`demucs.hf.hf_repo_name`)."""
    if name == "htdemucs":
        return "HTDemucs"
    return f"HTDemucs-{name.removeprefix('htdemucs_')}" if name.startswith("htdemucs_") else f"Demucs-{name}"
