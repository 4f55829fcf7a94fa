"""Which files of a model's folder a stage reads: what has to be there, what is downloaded, what is hashed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from pipeline.model_files.errors import ModelFileError

STAGES = ("separator", "asr", "verifier", "aligner", "muq", "codebook", "vae")
WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".th", ".hama"})
VAE_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors", "weights.safetensors")
VAE_CHECKPOINT, VAE_CHECKPOINT_CONFIG = "autoencoder_music_dsp1920.ckpt", "stable_audio_1920_vae.json"
VAE_CONFIGS = ("config.json", VAE_CHECKPOINT_CONFIG)
ALIGNER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
PREPROCESSOR = "preprocessor_config.json"
_MAX_LIST_BYTES = 1 << 14  # those of Demucs have some 100 bytes
_MAX_LIST_BRACKETS = 256  # nested in each other they take time that grows with their square
_REFUSED_TOKENS = (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)  # with which few bytes can take minutes


@dataclass(frozen=True, slots=True)
class _Layout:
    """One way in which a model's files lie; every pattern of `required` has to match at least one of them."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_WHISPER = _Layout(("config.json", "model.bin", "tokenizer.json", "vocabulary.*"), (PREPROCESSOR,))
_WEIGHTS_AND_CONFIG = _Layout(("config.json", "model.safetensors"))
# A stage takes the first layout whose files are all there.
_LAYOUTS: dict[str, tuple[_Layout, ...]] = {
    "separator": (_WEIGHTS_AND_CONFIG, _Layout(("*.yaml", "*.safetensors"))),
    "asr": (_WHISPER,),
    "verifier": (_WHISPER,),
    "aligner": tuple(_Layout(("config.json", "vocab.json", PREPROCESSOR, weights)) for weights in ALIGNER_WEIGHTS),
    "muq": (_WEIGHTS_AND_CONFIG,),
    "codebook": (_WEIGHTS_AND_CONFIG,),
    "vae": (
        *(_Layout(("config.json", weights)) for weights in VAE_WEIGHTS),
        _Layout((VAE_CHECKPOINT, VAE_CHECKPOINT_CONFIG)),
        _Layout((VAE_CHECKPOINT,)),
    ),
}


class MissingFilesError(Exception):
    """A folder or repository without all files that a stage reads; the message names them."""


def choose_files(stage: str, names: Iterable[str], required: Sequence[str] = ()) -> list[str]:
    """Return which of a folder's files a stage reads, sorted.

    Args:
        stage: one of `STAGES`.
        names: of the files directly in the folder or repository.
        required: names that have to be there beyond what every model of the stage has.

    Raises:
        MissingFilesError: no layout is complete.
    """
    present = sorted(name for name in names if "/" not in name)
    missing: list[list[str]] = []
    for layout in _LAYOUTS[stage]:
        patterns = (*layout.required, *required)
        absent = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in present)]
        if not absent:
            wanted = (*patterns, *layout.optional)
            return [name for name in present if any(fnmatchcase(name, pattern) for pattern in wanted)]
        missing.append(absent)
    nearest = min(missing, key=len)
    raise MissingFilesError(f"{', '.join(nearest)} missing")


def find_files(stage: str, path: Path, required: Sequence[str] = ()) -> list[Path]:
    """Return the files that a stage reads of a model that is here: a folder, or one file (with its config beside it).

    Raises:
        MissingFilesError: some are not there.
    """
    if path.is_file():
        config = find_vae_files(path)[1] if stage == "vae" else None
        return [path] if config is None else [path, config]
    names = choose_files(stage, (entry.name for entry in path.iterdir() if entry.is_file()), required)
    if stage == "separator" and "config.json" not in names:
        names = _bag_files(path, names)
    return [path / name for name in names]


def find_vae_files(path: Path) -> tuple[Path, Path | None]:
    """Return the weights of a VAE, and its config where it has one, of a folder or a weights file.

    Raises:
        MissingFilesError: a folder without weights.
    """
    folder = path if path.is_dir() else path.parent
    config_names = VAE_CONFIGS if path.is_dir() else (f"{path.stem}.json", *VAE_CONFIGS)
    configs = [folder / name for name in config_names if (folder / name).is_file()]
    if path.is_file():
        return path, configs[0] if configs else None
    names = choose_files("vae", (entry.name for entry in folder.iterdir()))
    weights = next(folder / name for name in names if Path(name).suffix in WEIGHT_SUFFIXES)
    config = next((folder / name for name in names if name.endswith(".json")), None)
    return weights, config


def read_bag(path: Path) -> dict[str, object]:
    """Read the yaml that lists the models of a Demucs bag: a mapping with the list `models` of signatures.

    Raises:
        ModelFileError: damaged, or something else.
    """
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise ModelFileError(f"{path}: {path.stat().st_size} bytes, expected at most {_MAX_LIST_BYTES}")
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _MAX_LIST_BRACKETS:
            raise ModelFileError(f"{path}: more than {_MAX_LIST_BRACKETS} lists, expected a plain list of models")
        if any(isinstance(token, _REFUSED_TOKENS) for token in yaml.scan(text)):
            raise ModelFileError(f"{path}: anchors, aliases or tags, expected a plain list of models")
        bag = yaml.safe_load(text)
    except (
        OSError,
        ValueError,
        yaml.YAMLError,
        RecursionError,
    ) as error:  # ValueError: no UTF-8, or no date
        raise ModelFileError(f"{path}: {error}; expected a readable list of models") from error
    names = bag.get("models") if isinstance(bag, dict) else None
    if not (isinstance(names, list) and names and all(isinstance(n, str) and n.isalnum() for n in names)):
        raise ModelFileError(f"{path}: expected a list 'models' of signatures")
    return dict(bag)


def _bag_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the one list of models, and the files that it names: a folder may hold those of other bags as well."""
    lists = [name for name in names if name.endswith(".yaml")]
    if len(lists) != 1:
        raise MissingFilesError(f"{len(lists)} yaml files, expected one that lists the models")
    models = read_bag(folder / lists[0])["models"]
    assert isinstance(models, list)
    members = [f"{model}.safetensors" for model in models]
    if absent := sorted(set(members) - set(names)):
        raise MissingFilesError(f"{', '.join(absent)} missing")
    return [lists[0], *sorted(set(members))]
