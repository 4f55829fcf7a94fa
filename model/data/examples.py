"""From songs to what one forward pass computes: crops with their lyrics and prompts, padded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.crops import Crop, CropRules, choose_crop, choose_prompt
from model.network.conditioning import PADDING
from model.network.song_batch import SongBatch
from model.settings.settings import RunConfig
from shards.sample import Sample
from shards.schema import FRAME_RATE_HZ

# Streams of random numbers of one slot; the model draws its own from the slot's seed.
_CROP, _PROMPT, _LATENTS, SUBSTITUTE = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One crop of one song, ready to be padded; T frames, C channels, P prompt frames."""

    slot: int
    key: str
    seed: int  # of everything random about this song in this step
    semantic_tokens: NDArray[np.int64]  # [T]
    latents: NDArray[np.float32]  # [T, C]
    lyric_ids: list[int]
    prompt: NDArray[np.float32]  # [P, C], P may be 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Songs of one forward pass. `is_repeat`: computed only to keep this rank in step with others, counts nothing."""

    batch: SongBatch
    seeds: tuple[int, ...]
    slots: tuple[int, ...]
    is_repeat: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RankBatch:
    """One rank's share of a step, and why songs drawn for it could not be used."""

    micro_batches: tuple[MicroBatch, ...]
    num_skipped: Counter[str]


class ExampleMaker:
    """Cuts songs as a configuration says."""

    def __init__(self, config: RunConfig) -> None:
        """Take a run's configuration."""
        self._config = config
        data, model = config.data, config.model
        self.rules = CropRules(
            min_frames=int(data.min_crop_s * FRAME_RATE_HZ),
            max_frames=int(data.max_crop_s * FRAME_RATE_HZ),
            block_frames=model.block_frames,
            max_lyric_tokens=model.conditions.max_lyric_tokens,
            seconds_per_tag=data.seconds_per_tag,
        )
        self.min_frames = max(self.rules.min_frames, model.block_frames)  # of a song that a crop may come from

    def cut(self, sample: Sample, *, slot: int, seed: int, wanted_frames: int) -> Example:
        """Return a crop of a song, of about the wanted length.

        Args:
            sample: the song.
            slot: its place in the step.
            seed: of everything random about it.
            wanted_frames: see `choose_crop`.

        Raises:
            UnusableSongError: no span of the song fits the settings.
        """
        crop = choose_crop(sample.metadata, self.rules, generator(seed, _CROP), wanted_frames)
        span = slice(crop.start_frame, crop.end_frame)
        latents = sample.latents[span].astype(np.float32)
        if self._config.data.sample_latents:
            noise = generator(seed, _LATENTS).standard_normal(latents.shape, dtype=np.float32)
            latents += sample.latents_std[span].astype(np.float32) * noise
        return Example(
            slot=slot,
            key=sample.key,
            seed=seed,
            semantic_tokens=sample.semantic_tokens[span].astype(np.int64),
            latents=latents,
            lyric_ids=crop.lyric_ids,
            prompt=self._cut_prompt(sample, crop, seed),
        )

    def _cut_prompt(self, sample: Sample, crop: Crop, seed: int) -> NDArray[np.float32]:
        """Return the frames of a style prompt that the song really has, up to the model's longest."""
        longest = min(self._config.model.conditions.prompt_frames, sample.prompts.shape[1])
        number = choose_prompt(sample.metadata, crop, sample.prompts.shape[1], generator(seed, _PROMPT))
        if number is None:
            return np.zeros((0, sample.latent_channels), dtype=np.float32)
        real = sample.num_frames - sample.metadata["prompt_start_frames"][number]
        return sample.prompts[number, : min(longest, real)].astype(np.float32)

    def collate(self, examples: Sequence[Example], *, is_repeat: bool) -> MicroBatch:
        """Return the songs of one forward pass, padded.

        Raises:
            BatchError: a song that the model must not learn from.
        """
        num_channels = self._config.model.latent_channels
        batch = SongBatch(
            keys=tuple(example.key for example in examples),
            semantic_tokens_BT=_pad([example.semantic_tokens for example in examples], self._config.model.eos_id),
            latents_BTC=_pad([example.latents for example in examples], 0.0, num_channels),
            num_frames_B=torch.tensor([len(example.semantic_tokens) for example in examples]),
            lyric_ids_BL=_pad([np.array(example.lyric_ids, dtype=np.int64) for example in examples], PADDING),
            num_lyrics_B=torch.tensor([len(example.lyric_ids) for example in examples]),
            prompts_BNC=_pad([example.prompt for example in examples], 0.0, num_channels),
            num_prompt_frames_B=torch.tensor([len(example.prompt) for example in examples]),
        )
        batch.validate(self._config.model)
        return MicroBatch(
            batch=batch,
            seeds=tuple(example.seed for example in examples),
            slots=tuple(example.slot for example in examples),
            is_repeat=is_repeat,
        )


def generator(seed: int, stream: int) -> np.random.Generator:
    """Return one of the independent streams of random numbers of a seed."""
    return np.random.Generator(np.random.PCG64([seed, stream]))


def _pad(arrays: Sequence[NDArray[Any]], fill: float, num_channels: int | None = None) -> torch.Tensor:
    """Return the arrays as one tensor, padded at the end with `fill` to the longest."""
    shape = [len(arrays), max(len(array) for array in arrays), *([] if num_channels is None else [num_channels])]
    padded = np.full(shape, fill, dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)
