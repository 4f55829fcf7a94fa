"""Made-up datasets of real size and shape, for measuring."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.dataset_info import DatasetInfo, write_dataset_info
from shards.index_row import IndexRow
from shards.index_writer import write_index, write_index_columns
from shards.latent_statistics import LatentStatistics
from shards.sample import Sample
from shards.schema import CODEBOOK_SIZE, FIELDS, FRAME_RATE_HZ, LATENT_CHANNELS, PROMPT_FRAMES, SCHEMA_VERSION
from shards.tar import BLOCK_BYTES, END_MARK, pad_size
from shards.writer import make_key, write_shard

SONG_S = 200
SONGS_PER_SHARD = 300  # of the default 512 MB
_LINE_S, _LINES_PER_SECTION, _WORDS_PER_LINE = 4, 5, 6
_PHONEMES_PER_LINE = 28
_PROMPTS = 4  # as extract_tokens makes by default


def write_bench_dataset(
    root: Path,
    num_songs: int,
    *,
    seconds: tuple[int, int] = (SONG_S, SONG_S),
    phonemes_per_line: int = _PHONEMES_PER_LINE,
) -> None:
    """Write a dataset of noise in the shape of songs; one of 200 s has 50 lines, 300 words and 1.6 MB, as real ones.

    Args:
        root: folder of the dataset.
        num_songs: how many.
        seconds: shortest and longest song, at least 40 s; the others lie evenly between.
        phonemes_per_line: of 4 s.
    """
    generator = np.random.default_rng(0)
    num_frames = FRAME_RATE_HZ * seconds[1] + num_songs
    noise = generator.standard_normal((num_frames, LATENT_CHANNELS), np.float32).astype(np.float16)
    lengths_s = np.linspace(*seconds, num_songs).astype(int).tolist()
    rows: list[IndexRow] = []
    statistics = LatentStatistics(LATENT_CHANNELS)
    statistics.add(noise)
    for shard, first in enumerate(range(0, num_songs, SONGS_PER_SHARD)):
        numbers = range(first, min(first + SONGS_PER_SHARD, num_songs))
        songs = _songs(numbers, lengths_s, noise, phonemes_per_line, generator)
        rows += write_shard(root / "train" / f"{shard:06d}.tar", songs)
    info = DatasetInfo.from_rows(
        rows, latent_mean=statistics.mean(), latent_std=statistics.std(), models={}, fingerprint="bench"
    )
    write_dataset_info(root, info)
    write_index(root, rows)


def _songs(
    numbers: range,
    lengths_s: Sequence[int],
    noise: NDArray[np.float16],
    phonemes_per_line: int,
    generator: np.random.Generator,
) -> Iterator[Sample]:
    for number in numbers:
        metadata = _describe_song(number, lengths_s[number], phonemes_per_line, generator)
        latents = noise[number : number + metadata["num_frames"]]
        yield Sample(
            key=make_key(metadata["song_id"]),
            metadata=metadata,
            semantic_tokens=generator.integers(0, CODEBOOK_SIZE, len(latents)).astype(np.uint16),
            latents=latents,
            latents_std=np.abs(latents),
            prompts=latents[: _PROMPTS * PROMPT_FRAMES].reshape(_PROMPTS, PROMPT_FRAMES, LATENT_CHANNELS),
        )


def _span(start_s: float, duration_s: float) -> dict[str, Any]:
    start_s, end_s = round(start_s, 2), round(start_s + duration_s, 2)
    return {"start_s": start_s, "end_s": end_s, "start_frame": int(start_s * 25), "end_frame": int(end_s * 25)}


def _describe_song(
    number: int, duration_s: int, phonemes_per_line: int, generator: np.random.Generator
) -> dict[str, Any]:
    song_id = f"artist/album/song {number}"
    num_lines, num_frames = duration_s // _LINE_S, duration_s * FRAME_RATE_HZ
    section_s, word_s = _LINE_S * _LINES_PER_SECTION, _LINE_S / _WORDS_PER_LINE
    spans = [_span(start_s, min(section_s, duration_s - start_s)) for start_s in range(0, duration_s, section_s)]
    scores = generator.uniform(0.2, 1, num_lines).round(4).tolist()
    phonemes = generator.integers(8, 330, (num_lines, phonemes_per_line)).tolist()
    lines = [
        {
            "text": "some words that are sung in a line", "section": "verse", "source": "lyrics", "edit": "kept",
            "score": scores[k], "section_index": k // _LINES_PER_SECTION, "phoneme_ids": phonemes[k],
            **_span(k * _LINE_S, 0.9 * _LINE_S),
        }
        for k in range(num_lines)
    ]  # fmt: skip
    words = [
        {
            "text": "word", "score": scores[k % num_lines], "line": k // _WORDS_PER_LINE,
            **_span(k * word_s, 0.8 * word_s),
        }
        for k in range(num_lines * _WORDS_PER_LINE)
    ]  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION, "song_id": song_id, "language": "en", "duration_s": float(duration_s),
        "num_frames": num_frames, "lyrics_source": "clean", "lines": lines, "words": words,
        "sections": [{"label": "verse", **span} for span in spans],
        "songbloom_lyrics": " , ".join(["[verse] some words that are sung in a line."] * len(spans)),
        "prompt_start_frames": [k * num_frames // _PROMPTS for k in range(_PROMPTS)],
        "metrics": {"coverage": 0.97, "cer": 0.02, "mean_score": 0.6, "vocal_ratio": 0.5, "lufs": -14.0},
        "provenance": {"sha256": hashlib.sha256(song_id.encode()).hexdigest(), "models": {"vae": "bench"}},
    }  # fmt: skip


def write_bench_index(root: Path, num_rows: int) -> None:
    """Write the index of a dataset of `num_rows` songs, in shards that do not exist."""
    generator = np.random.default_rng(0)
    numbers = np.arange(num_rows)
    shards, places = np.divmod(numbers, SONGS_PER_SHARD)
    sizes = {
        "metadata": 56_000,
        "semantic_tokens": 10_128,
        "latents": 640_128,
        "latents_std": 640_128,
        "prompts": 128_128,
    }
    sample_bytes = sum(BLOCK_BYTES + pad_size(size) for size in sizes.values())
    columns: dict[str, Any] = {
        "key": pc.binary_join_element_wise("song", pa.array(numbers).cast(pa.string()), "-"),
        "song_id": pc.binary_join_element_wise("artist/song", pa.array(numbers).cast(pa.string()), " "),
        "split": pa.array(np.array(["train"])).take(pa.array(np.zeros(num_rows, np.int8))),
        "shard": pa.array([f"train/{k:06d}.tar" for k in range(int(shards[-1]) + 1)]).take(pa.array(shards)),
        "num_frames": pa.array(generator.integers(2_000, 8_000, num_rows)),
        "language": pa.array(["en", "zh"]).take(pa.array(generator.integers(0, 2, num_rows))),
        "duration_s": pa.array(generator.uniform(80, 320, num_rows)),
        "sha256": _random_hex(num_rows, generator),
        "crc32": pa.array(generator.integers(0, 2**32, num_rows)),
        "shard_bytes": pa.array(np.full(num_rows, sample_bytes * SONGS_PER_SHARD + len(END_MARK))),
        "shard_sha256": _random_hex(int(shards[-1]) + 1, generator).take(pa.array(shards)),
    }
    position = places * sample_bytes
    for field in FIELDS:
        columns[f"{field.name}_offset"] = pa.array(position + BLOCK_BYTES)
        columns[f"{field.name}_bytes"] = pa.array(np.full(num_rows, sizes[field.name]))
        position = position + BLOCK_BYTES + pad_size(sizes[field.name])
    write_index_columns(root, columns)


def _random_hex(count: int, generator: np.random.Generator) -> pa.Array:
    """Return `count` different texts of 64 hexadecimal digits."""
    data = generator.bytes(32 * count).hex().encode()
    offsets = np.arange(0, 64 * (count + 1), 64, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data))
