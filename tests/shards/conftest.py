"""Small datasets that hold everything a real one holds: 8 latent channels, songs of half a minute."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.index import DatasetInfo, IndexRow, write_dataset_info, write_index
from shards.latent_statistics import LatentStatistics
from shards.reader import Sample
from shards.schema import PROMPT_FRAMES, time_to_frame
from shards.writer import make_key, write_shard

CHANNELS = 8


def build_metadata(song_id: str, num_frames: int) -> dict[str, Any]:
    """Return metadata of a song with an intro, a verse of two lines and a chorus of one."""
    duration_s = num_frames / 25

    def span(start_s: float, end_s: float) -> dict[str, Any]:
        frames = {"start_frame": time_to_frame(start_s, num_frames), "end_frame": time_to_frame(end_s, num_frames)}
        return {"start_s": start_s, "end_s": end_s, **frames}

    common = {"score": 0.9, "source": "lyrics", "edit": "kept"}
    return {
        "schema_version": 1,
        "song_id": song_id,
        "language": "en",
        "duration_s": duration_s,
        "num_frames": num_frames,
        "lyrics_source": "clean",
        "lines": [
            {"text": "one 风", "section": "verse", "section_index": 1, "phoneme_ids": [99, 21], **span(5, 7), **common},
            {"text": "two", "section": "verse", "section_index": 1, "phoneme_ids": [88, 95], **span(8, 9), **common},
            {"text": "three", "section": "chorus", "section_index": 2, "phoneme_ids": [90], **span(12, 14), **common},
        ],
        "words": [{"text": "one", "score": 0.9, "line": 0, **span(5, 5.5)}],
        "sections": [
            {"label": "intro", **span(0, 4)},
            {"label": "verse", **span(4, 11)},
            {"label": "chorus", **span(11, duration_s)},
        ],
        "songbloom_lyrics": "[intro] [intro] [intro] [intro] , [verse] one 风. two , [chorus] three",
        "prompt_start_frames": [0, 100],
        "metrics": {"coverage": 0.97},
        "provenance": {"sha256": hashlib.sha256(song_id.encode()).hexdigest(), "models": {"vae": "miniature"}},
    }


def build_sample(song_id: str = "album/song 1", num_frames: int = 600, channels: int = CHANNELS) -> Sample:
    """Return a song that is a pure function of its arguments."""
    random = np.random.default_rng(list(song_id.encode()))
    return Sample(
        key=make_key(song_id),
        metadata=build_metadata(song_id, num_frames),
        semantic_tokens=random.integers(0, 16_384, num_frames).astype(np.uint16),
        latents=random.normal(0.5, 2, (num_frames, channels)).astype(np.float16),
        latents_std=random.uniform(0, 1, (num_frames, channels)).astype(np.float16),
        prompts=random.normal(0, 1, (2, PROMPT_FRAMES, channels)).astype(np.float16),
    )


def describe_dataset(rows: list[IndexRow], train: list[Sample]) -> DatasetInfo:
    """Return dataset.json for `rows`, with the statistics of the samples in `train`."""
    statistics = LatentStatistics(CHANNELS)
    for sample in train:
        statistics.add(sample.latents)
    return DatasetInfo.from_rows(
        rows,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(),
        models={"vae_latents": {"model": "miniature"}},
        fingerprint="fixture",
    )


def write_dataset(root: Path) -> list[IndexRow]:
    """Write two train shards of two songs and a val shard of one, and return their rows."""
    train = [build_sample(f"train/{number}", 600 + number) for number in range(4)]
    rows = write_shard(root / "train" / "000000.tar", train[:2])
    rows += write_shard(root / "train" / "000001.tar", train[2:])
    rows += write_shard(root / "val" / "000000.tar", [build_sample("val/0")])
    write_dataset_info(root, describe_dataset(rows, train))
    write_index(root, rows)
    return rows


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Return the function that builds a song."""
    return build_sample


@pytest.fixture
def rows(tmp_path: Path) -> list[IndexRow]:
    """Write a dataset into `tmp_path` and return its rows."""
    return write_dataset(tmp_path)
