"""What the data and the training side must spell the same way: the clock, ids, fields of a sample, limits.

Every number that both sides use stands here once. Sources: the released SongBloom configuration
(48 kHz, 1920-fold VAE, 16384 codes, 64 latent channels, 10 s prompts; arXiv:2506.07634).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

SCHEMA_VERSION = 1  # raise on any change that a reader would notice

FRAME_RATE_HZ = 25  # one clock for semantic tokens and latents: 48000 / 1920 = 24000 / 960
LATENT_SAMPLE_RATE_HZ = 48_000
LATENT_HOP_LENGTH = 1_920
SEMANTIC_SAMPLE_RATE_HZ = 24_000
SEMANTIC_HOP_LENGTH = 960

CODEBOOK_SIZE = 16_384
LATENT_CHANNELS = 64
PROMPT_FRAMES = 250  # 10 s

SECTION_LABELS = ("verse", "chorus", "bridge", "intro", "outro", "inst", "silence")
VOCAL_LABELS = ("verse", "chorus", "bridge")

SPLITS = ("train", "val")
LYRICS_SOURCES = ("clean", "raw")  # raw: as found, so lines have no times

# A ustar name field holds 100 bytes, and ".latent_std.npy" takes 15 of them; 5 are spare.
MAX_KEY_BYTES = 80

# What a reader accepts before it allocates. Far above any song, far below what hurts a machine.
MAX_NUM_FRAMES = 1_000_000  # 11 hours
MAX_LATENT_CHANNELS = 1_024
MAX_PROMPTS = 1_024
MAX_METADATA_BYTES = 16 * 2**20
MAX_MEMBER_BYTES = 2**30


class ShardError(ValueError):
    """A shard, an index or a sample that is not what the format says."""


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a sample in a shard."""

    name: str  # in Python, and the stem of the index columns <name>_offset and <name>_bytes
    suffix: str  # text after the first dot of the member's name
    dtype: str | None  # None: not an array
    axes: str  # one letter per axis; the same letter means the same length within a sample


METADATA = Field("metadata", "json", None, "")
SEMANTIC_TOKENS = Field("semantic_tokens", "semantic.npy", "uint16", "T")  # ids, 0 <= id < CODEBOOK_SIZE
LATENTS = Field("latents", "latent.npy", "float16", "TC")  # VAE posterior mean, unscaled
LATENTS_STD = Field("latents_std", "latent_std.npy", "float16", "TC")  # VAE posterior standard deviation
PROMPTS = Field("prompts", "prompts.npy", "float16", "KPC")  # K mono style prompts of P = PROMPT_FRAMES

FIELDS = (METADATA, SEMANTIC_TOKENS, LATENTS, LATENTS_STD, PROMPTS)  # the order inside a shard
ARRAY_FIELDS = FIELDS[1:]


def count_frames(num_samples: int, sample_rate: int) -> int:
    """Return the number of whole 25 Hz frames in `num_samples` samples at `sample_rate` Hz (exact, no floats)."""
    if num_samples < 0 or sample_rate <= 0:
        raise ValueError(f"{num_samples} samples at {sample_rate} Hz is no audio")
    return num_samples * FRAME_RATE_HZ // sample_rate


def time_to_frame(time_s: float, num_frames: int) -> int:
    """Return the frame that holds `time_s` seconds, clipped to [0, num_frames].

    The one map from lyric times to frames. A time within 20 ns of a frame's start belongs to that frame, so a
    start that was written as a decimal or computed from samples is not lost to rounding.
    """
    if not math.isfinite(time_s):
        raise ValueError(f"{time_s} is not a time in seconds")
    frame = Fraction(time_s).limit_denominator(1_000_000) * FRAME_RATE_HZ
    return min(max(int(frame // 1), 0), num_frames)
