"""A dataset of noise in the shape of songs, to measure speed and memory before there is a real one.

    python -m model.random_songs --out FOLDER [--songs 64] [--seconds 60 180]

Tokens, latents and lyrics are random; lengths, sections and the number of lyric symbols are those of songs.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.index import DatasetInfo, write_dataset_info, write_index
from shards.latent_statistics import LatentStatistics
from shards.sample import Sample
from shards.schema import CODEBOOK_SIZE, FRAME_RATE_HZ, LATENT_CHANNELS, PROMPT_FRAMES, SPLITS
from shards.vocabulary import SYMBOLS, TAG_IDS
from shards.writer import make_key, write_shard

SECTION_FRAMES = 400  # 16 s
LINE_FRAMES = 100  # 4 s
SYMBOLS_PER_LINE = 14  # sung lyrics have about 0.14 symbols a frame
VAL_SHARE = 8  # one song of so many is held out


def make_song(number: int, num_frames: int, split: str) -> Sample:
    """Return a song of noise; the same for the same number."""
    random = np.random.default_rng([number, num_frames])
    song_id = f"random-{split}-{number}"
    bounds = [*range(0, num_frames, SECTION_FRAMES), num_frames]
    sections = [{"label": "verse", **_span(start, end)} for start, end in zip(bounds, bounds[1:], strict=False)]
    lines = [
        {
            "text": "la", "section": "verse", "section_index": start // SECTION_FRAMES, "score": 1.0,
            "source": "lyrics", "edit": "kept",
            "phoneme_ids": random.integers(max(TAG_IDS.values()) + 1, len(SYMBOLS), SYMBOLS_PER_LINE).tolist(),
            **_span(start, start + LINE_FRAMES),
        }
        for start in range(0, num_frames - LINE_FRAMES, LINE_FRAMES)
    ]  # fmt: skip
    prompt_starts = [0, num_frames - PROMPT_FRAMES]
    metadata = {
        "schema_version": 1, "song_id": song_id, "language": "en", "duration_s": num_frames / FRAME_RATE_HZ,
        "num_frames": num_frames, "lyrics_source": "clean", "lines": lines, "words": [], "sections": sections,
        "songbloom_lyrics": "", "prompt_start_frames": prompt_starts, "metrics": {},
        "provenance": {"sha256": hashlib.sha256(song_id.encode()).hexdigest()},
    }  # fmt: skip
    return Sample(
        key=make_key(song_id),
        metadata=metadata,
        semantic_tokens=random.integers(0, CODEBOOK_SIZE, num_frames, dtype=np.uint16),
        latents=random.standard_normal((num_frames, LATENT_CHANNELS), dtype=np.float32).astype(np.float16),
        latents_std=np.full((num_frames, LATENT_CHANNELS), 0.1, dtype=np.float16),
        prompts=random.standard_normal((2, PROMPT_FRAMES, LATENT_CHANNELS), dtype=np.float32).astype(np.float16),
    )


def write_random_dataset(out: Path, num_songs: int, seconds: tuple[float, float]) -> None:
    """Write `num_songs` songs of lengths evenly spread over `seconds`, some of them held out."""
    lengths = np.linspace(*seconds, num_songs) * FRAME_RATE_HZ
    statistics = LatentStatistics(LATENT_CHANNELS)

    def make_songs(split: str) -> Iterator[Sample]:
        for number in range(num_songs):
            if (number % VAL_SHARE == 0) == (split == "val"):
                song = make_song(number, int(lengths[number]), split)
                if split == "train":
                    statistics.add(song.latents)
                yield song

    rows = [row for split in SPLITS for row in write_shard(out / split / "000000.tar", make_songs(split))]
    info = DatasetInfo.from_rows(
        rows,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(),
        models={},
        fingerprint="random",
    )
    write_dataset_info(out, info)
    write_index(out, rows)


def _span(start_frame: int, end_frame: int) -> dict[str, Any]:
    times = {"start_s": start_frame / FRAME_RATE_HZ, "end_s": end_frame / FRAME_RATE_HZ}
    return {**times, "start_frame": start_frame, "end_frame": end_frame}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.random_songs", description="write a dataset of noise")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--songs", type=int, default=64, help="at least 2 (default: 64)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(60, 180), help="shortest and longest song")
    options = parser.parse_args()
    if options.songs < 2 or not 2 * PROMPT_FRAMES / FRAME_RATE_HZ <= options.seconds[0] <= options.seconds[1]:
        parser.error("expected at least 2 songs, of at least 20 s, the shortest length first")
    write_random_dataset(options.out, options.songs, tuple(options.seconds))


if __name__ == "__main__":
    main()
