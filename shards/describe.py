"""One sample in words, for people."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from shards.index import IndexRow
from shards.sample import Sample
from shards.schema import ARRAY_FIELDS, FIELDS


def describe_sample(sample: Sample, row: IndexRow) -> Iterator[str]:
    """Yield lines of text about `sample`; nothing in them can steer a terminal."""
    metadata = sample.metadata
    yield f"key         {sample.key}"
    yield f"song_id     {make_printable(metadata['song_id'])}"
    yield f"language    {make_printable(metadata['language'])}"
    yield f"duration    {metadata['duration_s']:.2f} s, {sample.num_frames} frames"
    yield f"shard       {row.shard}, bytes {row.start} to {row.end}"
    yield f"lyrics      {metadata['lyrics_source']}"
    yield "members"
    for field, (offset, num_bytes) in zip(FIELDS, row.members, strict=True):
        yield f"  {field.suffix:<16} {num_bytes:>10} bytes at {offset}"
    yield "arrays"
    for field in ARRAY_FIELDS:
        yield f"  {field.suffix:<16} {_describe_array(getattr(sample, field.name))}"
    yield "sections"
    for section in metadata["sections"]:
        yield f"  {_span(section)} {section['label']}"
    yield "lines"
    for line in metadata["lines"]:
        yield (
            f"  {_span(line)} section {line['section_index']}, {len(line['phoneme_ids'])} phonemes: "
            f"{make_printable(line['text'])}"
        )
    yield "songbloom_lyrics"
    yield f"  {make_printable(metadata['songbloom_lyrics'])}"
    for name in ("prompt_start_frames", "metrics", "provenance"):
        yield f"{name}"
        yield f"  {make_printable(str(metadata[name]))}"


def make_printable(text: str) -> str:
    """Return `text` with every control character spelled out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _span(record: dict[str, Any]) -> str:
    if record["start_s"] is None:
        return f"{'no times':>17}"
    return f"{record['start_s']:8.2f} {record['end_s']:8.2f}"


def _describe_array(array: np.ndarray[Any, Any]) -> str:
    shape = " x ".join(map(str, array.shape))
    low, mean, high = float(array.min()), float(array.mean(dtype=np.float64)), float(array.max())
    return f"{array.dtype} {shape}, min {low:.4g}, mean {mean:.4g}, max {high:.4g}"
