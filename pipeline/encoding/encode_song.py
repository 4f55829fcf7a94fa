"""One song to one sample of a shard: latents, semantic tokens, style prompts, and the lyrics on the same clock."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decode import (
    Audio,
    AudioDecodeError,
    DecodedAudio,
    decode_audio,
    resample,
    resample_mono,
    to_stereo,
)
from pipeline.encoding.semantic_tokens import SemanticTokenizer
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.hub import HubName
from pipeline.model_files.profiles import Profile
from pipeline.phonemes.phonemizer import Mode, Phonemizer
from shards.sample import Sample
from shards.schema import (
    FRAME_RATE_HZ,
    LATENT_HOP_LENGTH,
    LATENT_SAMPLE_RATE_HZ,
    PROMPT_FRAMES,
    SCHEMA_VERSION,
    SEMANTIC_HOP_LENGTH,
    SEMANTIC_SAMPLE_RATE_HZ,
    count_frames,
    time_to_frame,
)

MODELS = ("muq", "codebook", "vae")
ENCODING_VERSION = 1  # raise when the same song and models give other arrays
MAX_DURATION_S = 3_600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SongToEncode:
    """One song with the lyrics it will carry; `row` has the columns of songs.parquet that the sample keeps."""

    key: str
    path: Path
    lyrics_source: str  # "clean", or "raw" for lyrics without times
    row: dict[str, Any]
    fingerprint: str  # over audio, lyrics, models and settings


class SongEncoder:
    """Encodes songs one by one; models load in `setup`, once per worker.

    Args:
        profile: which MuQ, codebook and VAE.
        device: "cpu" or "cuda".
        phonemes: mode in which lyrics are spelled.
    """

    def __init__(self, profile: Profile, device: str = "cpu", phonemes: Mode = "plain") -> None:
        """Keep the settings."""
        self._profile, self._device = profile, device
        self._phonemizer = Phonemizer(phonemes)

    def setup(self) -> None:
        """Load the models."""
        profile = self._profile
        self._tokenizer = load_tokenizer(profile, self._device)
        self._codec = load_codec(profile, self._device)
        self.models = describe_models(profile, self._phonemizer.mode)

    def encode(self, song: SongToEncode) -> Sample:
        """Return the sample of one song.

        Raises:
            AudioDecodeError: no usable audio, or less than one frame of it.
        """
        decoded = decode_audio(song.path, max_duration_s=MAX_DURATION_S)
        num_frames = frames_of(decoded)
        tokens = self._tokenizer.tokens(semantic_audio(decoded, num_frames), num_frames)
        audio_48k = latent_audio(decoded, num_frames)
        del decoded  # an hour of it takes more than a GB
        mean, std = self._codec.encode(audio_48k)
        starts = prompt_starts(num_frames, self._profile.prompts_per_song)
        return Sample(
            key=song.key,
            metadata=self._metadata(song, num_frames, starts),
            semantic_tokens=tokens,
            latents=mean.astype(np.float16),
            latents_std=std.astype(np.float16),
            prompts=self._codec.encode_prompts(audio_48k, starts).astype(np.float16),
        )

    def _metadata(self, song: SongToEncode, num_frames: int, starts: list[int]) -> dict[str, Any]:
        row = song.row
        sections = [_on_clock(section, num_frames) for section in row["sections"]]
        sections[-1]["end_frame"] = num_frames  # a rounded end must not leave the last frame without a section
        unknown: list[str] = []
        lines = []
        for line in row["lines"]:
            phonemes = self._phonemizer.line_ids(line["text"], row["language"])
            unknown += phonemes.unknown
            lines.append(
                _on_clock(line, num_frames)
                | {"phoneme_ids": phonemes.ids, "section_index": _section_of(line, row["sections"])}
            )
        return {
            "schema_version": SCHEMA_VERSION,
            "song_id": row["song_id"],
            "language": row["language"],
            "duration_s": row["duration_s"],
            "num_frames": num_frames,
            "lyrics_source": song.lyrics_source,
            "lines": lines,
            "words": [_on_clock(word, num_frames) for word in row["words"]],
            "sections": sections,
            "songbloom_lyrics": row["songbloom_lyrics"],
            "prompt_start_frames": starts,
            "metrics": row["metrics"] | {"unknown_phonemes": len(unknown)},
            "provenance": {
                "sha256": row["sha256"],
                "fingerprint": song.fingerprint,
                "models": self.models,
                "encoding_version": ENCODING_VERSION,
            },
        }


class FeatureSampler:
    """MuQ features of a few frames of a song: what a codebook is fitted on."""

    def __init__(self, profile: Profile, device: str = "cpu") -> None:
        """Keep the settings."""
        self._profile, self._device = profile, device

    def setup(self) -> None:
        """Load MuQ."""
        self._tokenizer = load_tokenizer(self._profile, self._device, with_codebook=False)

    def sample(self, path: Path, num_vectors: int, seed: int) -> NDArray[np.float32]:
        """Return float32 [n, D] of n = min(num_vectors, T) frames, drawn by `seed`, in their order."""
        decoded = decode_audio(path, max_duration_s=MAX_DURATION_S)
        num_frames = frames_of(decoded)
        features = self._tokenizer.features(semantic_audio(decoded, num_frames), num_frames)
        chosen = np.random.default_rng(seed).permutation(num_frames)[:num_vectors]
        return features[np.sort(chosen)]


def load_tokenizer(profile: Profile, device: str, *, with_codebook: bool = True) -> SemanticTokenizer:
    """Return the tokenizer of a profile, set up."""
    tokenizer = SemanticTokenizer(
        profile.model_path("muq"),
        profile.model_path("codebook") if with_codebook else None,
        layer=profile.muq_layer,
        window_s=profile.muq_window_s,
        margin_s=profile.muq_margin_s,
        batch_size=profile.batch_size(device),
        device=device,
    )
    tokenizer.setup()
    return tokenizer


def load_codec(profile: Profile, device: str) -> VaeCodec:
    """Return the VAE of a profile."""
    chunk_frames = max(1, round(profile.vae_chunk_s * FRAME_RATE_HZ))
    path = profile.model_path("vae")
    return VaeCodec(path, device=device, chunk_frames=chunk_frames, batch_size=profile.batch_size(device, "vae"))


def frames_of(decoded: DecodedAudio) -> int:
    """Return T of a decoded file; less than one frame is no song."""
    num_frames = count_frames(decoded.samples.shape[1], decoded.sample_rate)
    if num_frames == 0:
        raise AudioDecodeError(f"{decoded.duration_s:.3f} s is less than one frame")
    return num_frames


def semantic_audio(decoded: DecodedAudio, num_frames: int) -> NDArray[np.float32]:
    """Return 24 kHz mono [T * 960], as MuQ takes it."""
    mono = resample_mono(decoded.samples, decoded.sample_rate, SEMANTIC_SAMPLE_RATE_HZ)[None]
    fitted: NDArray[np.float32] = fit(mono, num_frames * SEMANTIC_HOP_LENGTH)[0]
    return fitted


def latent_audio(decoded: DecodedAudio, num_frames: int) -> Audio:
    """Return 48 kHz stereo [2, T * 1920], as the VAE takes it."""
    resampled = resample(decoded.samples, decoded.sample_rate, LATENT_SAMPLE_RATE_HZ)
    return fit(to_stereo(resampled), num_frames * LATENT_HOP_LENGTH)


def fit(samples: Audio, num_samples: int) -> Audio:
    """Cut or zero-pad float32 [C, L] to `num_samples`: resampling rounds lengths, the frame clock does not."""
    missing = num_samples - samples.shape[1]
    return np.pad(samples, ((0, 0), (0, missing))) if missing > 0 else samples[:, :num_samples]


def prompt_starts(num_frames: int, num_prompts: int) -> list[int]:
    """Return where the style prompts of a song start: spread evenly, never only its beginning."""
    room = num_frames - PROMPT_FRAMES
    if room <= 0:
        return [0]
    return sorted({room * (2 * k + 1) // (2 * num_prompts) for k in range(num_prompts)})


def describe_models(profile: Profile, phonemes: Mode = "plain") -> dict[str, Any]:
    """Return name and hash of every encoder, and its settings, as samples and dataset.json record them.

    A phoneme mode is among the settings where it is not "plain".

    A name is the one that the user gave, but of a local path only the last part: where a machine keeps its models is
    nobody's business. All encoders run in IEEE float32, see `pipeline.gpu.ieee_float32`.
    """
    described: dict[str, Any] = {
        stage: {
            "name": _public_name(profile.given_name(stage), profile.model_path(stage)),
            "sha256": fingerprint_model(profile.model_path(stage), stage),
        }
        for stage in MODELS
    }
    described["settings"] = {
        name: value for name, value in asdict(profile).items() if name.startswith(("muq_", "prompts_"))
    } | {"float32": "ieee"}
    if phonemes != "plain":
        described["settings"]["phonemes"] = phonemes
    return described


def _public_name(given: str, path: Path) -> str:
    """Return a given name without the folders of a local path; "owner/model" may be either, so `path` decides."""
    hub_name = HubName.parse(given)
    if hub_name is not None and f"models--{hub_name.repository.replace('/', '--')}" in path.parts:
        return given
    return Path(given).name or path.name


def _on_clock(span: dict[str, Any], num_frames: int) -> dict[str, Any]:
    if span["start_s"] is None:
        return span | {"start_frame": None, "end_frame": None}
    start_frame = time_to_frame(span["start_s"], num_frames)
    return span | {"start_frame": start_frame, "end_frame": max(time_to_frame(span["end_s"], num_frames), start_frame)}


def _section_of(line: dict[str, Any], sections: list[dict[str, Any]]) -> int:
    """Return the index of the section that holds the line's middle; a line without times names its own."""
    if line["start_s"] is None:
        return int(line["section_index"])
    middle_s = (line["start_s"] + line["end_s"]) / 2
    return max((k for k, section in enumerate(sections) if section["start_s"] <= middle_s), default=0)
