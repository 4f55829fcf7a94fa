"""One song of a dataset in memory, and what must hold before it is written or after it was read."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.metadata import check_metadata
from shards.npy import check_shape
from shards.schema import (
    ARRAY_FIELDS,
    CODEBOOK_SIZE,
    LATENTS,
    LATENTS_STD,
    MAX_KEY_BYTES,
    PROMPTS,
    SEMANTIC_TOKENS,
    ShardError,
)

# Starts with a letter or a digit: webdataset skips names that start with "__", shells take "-" for an option.
_KEY = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_KEY_BYTES - 1}}}")
_HALF_EXPONENT = 0x7C00  # all ones in the exponent of a float16: infinite or not a number


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """One song; T frames at 25 Hz, C latent channels, K prompts of P = 250 frames."""

    key: str
    metadata: dict[str, Any]  # shards/README.md lists its keys
    semantic_tokens: NDArray[np.uint16]  # [T]
    latents: NDArray[np.float16]  # [T, C] VAE posterior mean, unscaled
    latents_std: NDArray[np.float16]  # [T, C] VAE posterior standard deviation
    prompts: NDArray[np.float16]  # [K, P, C] mono style prompts, posterior mean

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by field name."""
        return {field.name: getattr(self, field.name) for field in ARRAY_FIELDS}

    @property
    def num_frames(self) -> int:
        """Return T."""
        return len(self.semantic_tokens)

    @property
    def latent_channels(self) -> int:
        """Return C."""
        return int(self.latents.shape[1])


def is_key(value: object) -> bool:
    """Say whether `value` may name a sample: letters, digits, "_" and "-", no dot, at most MAX_KEY_BYTES."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def check_sample(sample: Sample, where: str, *, codebook_size: int = CODEBOOK_SIZE) -> None:
    """Raise ShardError unless everything that the format promises about `sample` holds, down to each value.

    Args:
        sample: any.
        where: how messages name it, such as "train/000000.tar: sample 'a'".
        codebook_size: ids are below this.
    """
    if not is_key(sample.key):
        raise ShardError(f"{where}: not a key; make one from the song id with make_key")
    for field in ARRAY_FIELDS:
        array = getattr(sample, field.name)
        if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") != np.dtype(field.dtype):
            found = getattr(array, "dtype", type(array).__name__)
            raise ShardError(f"{where}: {field.suffix} is {found}, expected {field.dtype}")
        check_shape(array.shape, field, where)
    check_metadata(sample.metadata, where)
    check_lengths(sample, where, codebook_size=codebook_size)
    for field in (LATENTS, LATENTS_STD, PROMPTS):
        array = np.asarray(getattr(sample, field.name), dtype=np.float16)
        if ((array.view(np.uint16) & _HALF_EXPONENT) == _HALF_EXPONENT).any():
            raise ShardError(f"{where}: {field.suffix} holds a value that is infinite or not a number")
    if (sample.latents_std < 0).any():
        raise ShardError(f"{where}: {LATENTS_STD.suffix} holds a negative standard deviation")


def check_lengths(sample: Sample, where: str, *, codebook_size: int) -> None:
    """Raise ShardError unless the arrays fit each other and the metadata, and all ids are below `codebook_size`."""
    expected = {"T": sample.num_frames, "C": sample.latent_channels, "K": len(sample.metadata["prompt_start_frames"])}
    owners = {"T": SEMANTIC_TOKENS.suffix, "C": LATENTS.suffix, "K": "prompt_start_frames"}
    for field in ARRAY_FIELDS:
        for axis, length in zip(field.axes, getattr(sample, field.name).shape, strict=True):
            if length != expected.get(axis, length):
                raise ShardError(
                    f"{where}: {field.suffix} has {axis}={length}, expected {expected[axis]} (length of {owners[axis]})"
                )
    if sample.metadata["num_frames"] != sample.num_frames:
        raise ShardError(
            f"{where}: metadata has num_frames={sample.metadata['num_frames']}, "
            f"expected {sample.num_frames} (length of {SEMANTIC_TOKENS.suffix})"
        )
    largest = int(sample.semantic_tokens.max())
    if largest >= codebook_size:
        raise ShardError(f"{where}: {SEMANTIC_TOKENS.suffix} holds id {largest}, expected below {codebook_size}")
