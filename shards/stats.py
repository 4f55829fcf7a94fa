"""Counts over a dataset: from the index alone, or from everything that is in the shards."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shards.index import INDEX_NAME, Index
from shards.latent_statistics import LatentStatistics
from shards.reader import ShardReader
from shards.sample import Sample
from shards.schema import FRAME_RATE_HZ, SPLITS, ShardError
from shards.vocabulary import compose_lyric_ids


def summarize_index(index: Index) -> dict[str, Any]:
    """Return what the index says: songs and hours per split and language, durations, shards and bytes.

    Raises:
        ShardError: a duration that no song has.
    """
    durations_s = index.column("duration_s")
    if not np.isfinite(durations_s).all():
        raise ShardError(
            f"{INDEX_NAME}: duration_s holds values that are not finite; `python -m shards verify` names them"
        )
    splits, languages = (dict(_group_songs(index, name, durations_s)) for name in ("split", "language"))
    shard_codes, _ = index.codes("shard")
    starts = np.flatnonzero(np.diff(shard_codes, prepend=-1))  # few, where rows of a shard stand together
    first_rows = starts[np.unique(shard_codes[starts], return_index=True)[1]]
    return {
        "num_samples": len(index),
        "hours": round(float(durations_s.sum()) / 3600, 4),
        "splits": {split: splits.get(split, {"num_samples": 0, "hours": 0.0}) for split in SPLITS},
        "languages": dict(sorted(languages.items())),
        "duration_s": _describe(durations_s),
        "num_shards": len(first_rows),
        "num_bytes": sum(index.column("shard_bytes")[first_rows].tolist()),
    }


def summarize_contents(reader: ShardReader, samples: Iterable[Sample]) -> dict[str, Any]:
    """Return what is in the samples: sections, lyrics, use of the codebook, scale of the latents.

    `codebook_perplexity` is 2 to the entropy of the ids in bits: how many ids would do if all were equally common.
    """
    id_counts = np.zeros(reader.info.codebook_size, np.int64)
    statistics = LatentStatistics(reader.info.latent_channels)
    section_frames: Counter[str] = Counter()
    lyrics_sources: Counter[str] = Counter()
    lyric_ids: list[int] = []
    num_lines, num_words, num_prompts = 0, 0, 0
    for sample in samples:
        metadata = sample.metadata
        id_counts += np.bincount(sample.semantic_tokens, minlength=len(id_counts))
        statistics.add(sample.latents)
        for section in metadata["sections"]:
            section_frames[section["label"]] += section["end_frame"] - section["start_frame"]
        lyrics_sources[metadata["lyrics_source"]] += 1
        lyric_ids.append(_count_lyric_ids(metadata))
        num_lines += len(metadata["lines"])
        num_words += len(metadata["words"])
        num_prompts += len(sample.prompts)
    used = id_counts[id_counts > 0] / id_counts.sum()
    return {
        "section_s": {label: frames / FRAME_RATE_HZ for label, frames in sorted(section_frames.items())},
        "lyrics_sources": dict(sorted(lyrics_sources.items())),
        "num_lines": num_lines,
        "num_words": num_words,
        "num_prompts": num_prompts,
        "lyric_ids_per_song": _describe(lyric_ids),
        "codebook_used": len(used),
        "codebook_size": len(id_counts),
        "codebook_perplexity": round(float(2 ** -(used * np.log2(used)).sum()), 2),
        "latent_mean": _describe(statistics.mean()),
        "latent_std": _describe(statistics.std()),
    }


def _count_lyric_ids(metadata: dict[str, Any]) -> int:
    """Return the length of the whole song's lyrics at one tag per second; the released model takes 600 ids."""
    ids = compose_lyric_ids(
        metadata["sections"], metadata["lines"], start_frame=0, end_frame=metadata["num_frames"], seconds_per_tag=1
    )
    return len(ids)


def _group_songs(index: Index, name: str, durations_s: NDArray[np.float64]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each value of a column of few values, and how many songs and hours have it."""
    codes, values = index.codes(name)
    for code in np.unique(codes).tolist():
        mask = codes == code
        yield values[code], {"num_samples": int(mask.sum()), "hours": round(float(durations_s[mask].sum()) / 3600, 4)}


def _describe(values: ArrayLike) -> dict[str, float]:
    ordered = np.sort(np.asarray(values, np.float64))
    names = {"min": 0.0, "median": 0.5, "max": 1.0}
    return {name: round(float(np.quantile(ordered, quantile)), 6) for name, quantile in names.items()}
