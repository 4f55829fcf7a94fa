"""The repositories of profile `full`: real file lists, names, configs and tensors; contents as in published/README.md.

Large contents are made once per test session, on first use, in a temporary folder.
"""

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from ..hub import weights
from .safetensors_file import write_safetensors
from .server import Content, Repository, StandIn
from .whisper_mels import write_large_v3_inputs

PUBLISHED = Path(__file__).parent / "published"
MUQ, SEPARATOR, VAE = "OpenMuQ/MuQ-large-msd-iter", "adefossez/HTDemucs", "CypressYang/SongBloom"
ALIGNER_EN, ALIGNER_DE = "facebook/wav2vec2-base-960h", "jonatasgrosman/wav2vec2-large-xlsr-53-german"
WHISPER_LARGE, WHISPER_BASE = "Systran/faster-whisper-large-v3", "Systran/faster-whisper-base"
REPOSITORIES = (MUQ, SEPARATOR, VAE, ALIGNER_EN, ALIGNER_DE, WHISPER_LARGE, WHISPER_BASE)

# Published sizes in bytes: they check our lists of names and shapes.
MUQ_BYTES, SEPARATOR_BYTES, ALIGNER_EN_BYTES, VAE_BYTES = 1_333_825_096, 84_025_440, 377_607_901, 674_920_616
_TORCH_METADATA = {"format": "pt"}
_CARD = {
    ".gitattributes": b"*.bin filter=lfs diff=lfs merge=lfs -text\n",
    "README.md": b"---\nlicense: see page\n---\n",
}


class PublishedModels:
    """Builds repositories into a folder, each once."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder, about 3 GB when everything is built; nothing is built yet."""
        self._folder = folder
        self._built: dict[str, Repository] = {}

    def repository(self, name: str) -> Repository:
        """Return a repository, one of `REPOSITORIES`."""
        if name not in self._built:
            builders: dict[str, Callable[[Path], Repository]] = {
                MUQ: self._build_muq,
                SEPARATOR: self._build_separator,
                VAE: self._build_vae,
                ALIGNER_EN: self._build_english_aligner,
                ALIGNER_DE: self._build_german_aligner,
                WHISPER_LARGE: self._build_large_whisper,
                WHISPER_BASE: self._build_base_whisper,
            }
            folder = self._folder / name
            folder.mkdir(parents=True)
            self._built[name] = builders[name](folder)
        return self._built[name]

    def _build_muq(self, folder: Path) -> Repository:
        config = PUBLISHED / "muq_large_msd_iter_config.json"
        weights_path = folder / "model.safetensors"
        write_safetensors(weights_path, weights.muq_state(config), _TORCH_METADATA, alignment=8)
        files: dict[str, Content] = {"config.json": config, "model.safetensors": weights_path}
        return Repository(MUQ, {**_CARD, **files, "pytorch_model.bin": StandIn(1_334_000_000)}, "cc-by-nc-4.0")

    def _build_separator(self, folder: Path) -> Repository:
        path = folder / "955717e8.safetensors"
        write_safetensors(path, weights.htdemucs_state(), weights.HTDEMUCS_METADATA, alignment=8)
        files: dict[str, Content] = {path.name: path, "955717e8.json": StandIn(20_000)}
        return Repository(SEPARATOR, {**_CARD, **files, "htdemucs.yaml": b"models: ['955717e8']\n"})

    def _build_vae(self, folder: Path) -> Repository:
        import torch

        path = folder / "autoencoder_music_dsp1920.ckpt"
        torch.save({"state_dict": weights.vae_state()}, path)
        beside: dict[str, Content] = {}
        for name in ("songbloom_full_150s", "songbloom_full_150s_dpo"):
            beside |= {f"{name}.pt": StandIn(7_490_000_000), f"{name}.yaml": StandIn(3_000)}
        files: dict[str, Content] = {path.name: path, "stable_audio_1920_vae.json": _published("stable_audio_1920_vae")}
        return Repository(VAE, {**_CARD, **files, **beside, "vocab_g2p.yaml": StandIn(5_000)}, "other")

    def _build_english_aligner(self, folder: Path) -> Repository:
        path = folder / "model.safetensors"
        state = weights.aligner_state(_published("wav2vec2_base_960h_config"))
        write_safetensors(path, state, _TORCH_METADATA, alignment=1)
        names = ("config", "vocab", "preprocessor_config", "special_tokens_map", "tokenizer_config")
        files: dict[str, Content] = {f"{name}.json": _published(f"wav2vec2_base_960h_{name}") for name in names}
        beside = {
            "feature_extractor_config.json": StandIn(158),
            "pytorch_model.bin": StandIn(377_667_514),
            "tf_model.h5": StandIn(377_840_624),
        }
        return Repository(ALIGNER_EN, {**_CARD, **files, **beside, path.name: path}, "apache-2.0")

    def _build_german_aligner(self, folder: Path) -> Repository:
        import torch

        path = folder / "pytorch_model.bin"
        torch.save(weights.aligner_state(_published("wav2vec2_xlsr_53_german_config")), path)
        names = ("config", "vocab", "preprocessor_config")
        files: dict[str, Content] = {f"{name}.json": _published(f"wav2vec2_xlsr_53_german_{name}") for name in names}
        beside = {"flax_model.msgpack": StandIn(1_262_000_000), "special_tokens_map.json": StandIn(85)}
        return Repository(ALIGNER_DE, {**_CARD, **files, **beside, path.name: path}, "apache-2.0")

    def _build_large_whisper(self, folder: Path) -> Repository:
        write_large_v3_inputs(self._packaged_base, _published("faster_whisper_large_v3_config"), folder)
        names = ("config.json", "model.bin", "tokenizer.json", "vocabulary.json")
        files: dict[str, Content] = {name: folder / name for name in names}
        files["preprocessor_config.json"] = _published("faster_whisper_large_v3_preprocessor_config")
        return Repository(WHISPER_LARGE, {**_CARD, **files})

    def _build_base_whisper(self, folder: Path) -> Repository:
        names = ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")
        return Repository(WHISPER_BASE, {**_CARD, **{name: self._packaged_base / name for name in names}})

    @cached_property
    def _packaged_base(self) -> Path:
        """The folder of Whisper base from its Python packages, copied: other tests give the user's cache elsewhere."""
        from pipeline.model_files.packaged import find_whisper

        if (packaged := find_whisper("base", [])) is None:
            raise LookupError("the packages with the weights of Whisper base are missing: make setup installs them")
        return Path(shutil.copytree(packaged, self._folder / "packaged-base"))


def _published(name: str) -> Path:
    return PUBLISHED / f"{name}.json"
