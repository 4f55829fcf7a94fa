"""A dataset of short songs that a very small model can learn, written as extraction writes it, and a run on it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.settings.settings import RunConfig, config_from_dict
from shards.index import DatasetInfo, write_dataset_info, write_index
from shards.reader import Sample
from shards.schema import PROMPT_FRAMES
from shards.writer import make_key, write_shard

CHANNELS = 4
CODES = 32
SECTION_FRAMES = 60  # no multiple of a block, so that crops have something to floor
LINE_IDS = [100, 20, 101, 21]


def build_song(number: int, num_sections: int = 4, lyrics_source: str = "clean", split: str = "train") -> Sample:
    """Return a song of sections of 60 frames: intro, then a line in each verse; tokens count upwards."""
    num_frames = SECTION_FRAMES * num_sections
    random = np.random.default_rng([number, num_sections])

    def span(start: int, end: int) -> dict[str, Any]:
        return {"start_s": start / 25, "end_s": end / 25, "start_frame": start, "end_frame": end}

    no_span = dict.fromkeys(("start_s", "end_s", "start_frame", "end_frame"))
    starts = [SECTION_FRAMES * section for section in range(num_sections)]
    is_clean = lyrics_source == "clean"
    lines = [
        {
            "text": "la la", "section": "verse", "section_index": section if is_clean else 0, "phoneme_ids": LINE_IDS,
            "score": 1.0, "source": "lyrics", "edit": "kept",
            **(span(starts[section] + 10, starts[section] + 50) if is_clean else no_span),
        }
        for section in range(1, num_sections)
    ]  # fmt: skip
    sections = [{"label": "verse" if k else "intro", **span(s, s + SECTION_FRAMES)} for k, s in enumerate(starts)]
    song_id = f"{split}-{number}"
    prompt_starts = [0, num_frames - 20]
    metadata = {
        "schema_version": 1, "song_id": song_id, "language": "en", "duration_s": num_frames / 25,
        "num_frames": num_frames, "lyrics_source": lyrics_source, "lines": lines, "words": [],
        "sections": sections if is_clean else [{"label": "verse", **span(0, num_frames)}], "songbloom_lyrics": "",
        "prompt_start_frames": prompt_starts, "metrics": {},
        "provenance": {"sha256": hashlib.sha256(song_id.encode()).hexdigest()},
    }  # fmt: skip
    return Sample(
        key=make_key(song_id),
        metadata=metadata,
        semantic_tokens=((np.arange(num_frames) * (number % 3 + 1)) % CODES).astype(np.uint16),
        latents=random.normal(0.5, 2, (num_frames, CHANNELS)).astype(np.float16),
        latents_std=random.uniform(0, 0.1, (num_frames, CHANNELS)).astype(np.float16),
        prompts=random.normal(0, 1, (len(prompt_starts), PROMPT_FRAMES, CHANNELS)).astype(np.float16),
    )


def write_tiny_dataset(root: Path, train: Sequence[Sample], val: Sequence[Sample] = (), codes: int = CODES) -> Path:
    """Write the songs as a dataset and return its folder."""
    rows = write_shard(root / "train" / "000000.tar", train)
    if val:
        rows += write_shard(root / "val" / "000000.tar", val)
    info = DatasetInfo.from_rows(
        rows,
        latent_mean=[0.5] * CHANNELS,
        latent_std=[2.0] * CHANNELS,
        models={},
        fingerprint="tiny",
        codebook_size=codes,
    )
    write_dataset_info(root, info)
    write_index(root, rows)
    return root


def tiny_config(root: Path, folder: Path, *, deepspeed: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """Return the configuration of a run of seconds; `changes` are `section__key=value`."""
    tree: dict[str, dict[str, Any]] = {
        "model": {
            "dim": 64, "num_heads": 1, "lm_layers": 1, "dit_layers": 1, "ffn_scale": 2, "codebook_size": CODES,
            "latent_channels": CHANNELS, "time_features": 16,
            "conditions": {"max_lyric_tokens": 60, "prompt_frames": 30},
        },
        "data": {
            "root": str(root), "min_crop_s": 2.0, "max_crop_s": 5.0, "seconds_per_tag": 1.0, "sample_latents": True,
            "prefetch_steps": 1, "val_songs": 2,
        },
        "optimizer": {
            "kind": "adamw", "lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0,
        },
        "schedule": {"kind": "cosine", "num_steps": 8, "warmup_steps": 2, "final_ratio": 0.1},
        "trainer": {
            "batch_size": 5, "micro_batch_size": 2, "precision": "fp32", "zero_stage": 0,
            "checkpoint_activations": False, "flow_weight": 0.1, "seed": 1, "log_every": 1, "val_every": 0,
        },
        "checkpoint": {"folder": str(folder), "every": 4, "keep": 2},
    }  # fmt: skip
    for name, value in changes.items():
        section, key = name.split("__")
        tree[section][key] = value
    return config_from_dict(tree | {"deepspeed": deepspeed or {}}, "tiny")
