"""Shards without an index, such as other tools write, read from end to end by stock WebDataset.

What stands where in the stream depends on the number of readers, and nothing can be read again by its place: a run that
goes on reads from the start of a new order. Samples are checked as those of this project, but for checksums, which only
an index has.
"""

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from shards.metadata import check_metadata, decode_metadata
from shards.npy import decode_array
from shards.sample import Sample, check_lengths, is_key
from shards.schema import ARRAY_FIELDS, METADATA, SPLITS, ShardError
from shards.tar import BLOCK_BYTES

SHUFFLED_SONGS = 128  # in memory at a time: 0.2 GB
_MAGIC = slice(257, 262)  # of a tar header


def list_shards(root: Path, split: str) -> list[Path]:
    """Return the tar files of a split, sorted by name; none where the folder is missing."""
    if split not in SPLITS:
        raise ShardError(f"split {split!r}: expected {' or '.join(SPLITS)}")
    return sorted(path for path in (root / split).glob("*.tar") if path.is_file())


def stream_samples(
    root: Path,
    split: str,
    *,
    codebook_size: int,
    on_damage: Callable[[ShardError], None],
    seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Sample]:
    """Yield this reader's samples: with a seed without end, shards and songs in another order each time; else once.

    Readers share the shards, or where there are fewer of them than readers, the songs of each.

    Args:
        root: the dataset's folder.
        split: train or val.
        codebook_size: ids are below this.
        on_damage: is told of each sample or rest of a shard that cannot be read, and may raise.
        seed: of the order; None: sorted by name.
        rank: of this reader.
        world_size: number of readers.

    Raises:
        ShardError: the split has no shards.
    """
    from webdataset import WebDataset, detshuffle  # loads PyTorch

    shards = list_shards(root, split)
    if not shards:
        raise ShardError(f"{root}/{split}: no .tar files; put shards there, or name another folder")
    shares_shards = len(shards) >= world_size

    def report(error: Exception) -> bool:
        parts = error.args or (error,)  # WebDataset puts the path last
        where, what = (parts[-1] if len(parts) > 1 else root), " ".join(str(parts[0]).split())
        on_damage(ShardError(f"{where}: {type(error).__name__}: {what:.200}; the rest of the shard is left out"))
        return True  # go on with the next shard

    for epoch in count():
        order = list(range(len(shards)))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(len(shards)).tolist()
        chosen = [shards[number] for number in (order[rank::world_size] if shares_shards else order)]
        plain = [str(path.resolve()) for path in chosen if _is_plain(path, on_damage)]
        if plain:
            songs: Any = WebDataset(
                plain, shardshuffle=False, handler=report, nodesplitter=_keep, workersplitter=_keep, empty_check=False
            )
            if seed is not None:
                songs = songs.compose(detshuffle(SHUFFLED_SONGS, SHUFFLED_SONGS, seed % 2**32, epoch - 1))
            for item in songs if shares_shards else islice(songs, rank, None, world_size):
                try:
                    yield _decode(item, root, codebook_size)
                except ShardError as error:
                    on_damage(error)
        if seed is None or not plain:
            return


def _keep(source: Any) -> Any:
    """Leave the division of shards among readers as it is."""
    return source


def _is_plain(path: Path, on_damage: Callable[[ShardError], None]) -> bool:
    """Tell whether a file is an uncompressed tar: a compressed one may become anything as it is unpacked."""
    try:
        with path.open("rb") as file:
            header = file.read(BLOCK_BYTES)
    except OSError as error:
        on_damage(ShardError(f"{path}: cannot be read: {error.strerror}"))
        return False
    if header[_MAGIC] == b"ustar":
        return True
    on_damage(ShardError(f"{path}: starts with {header[:8]!r}, expected an uncompressed tar file (ustar, GNU or pax)"))
    return False


def _decode(item: dict[str, Any], root: Path, codebook_size: int) -> Sample:
    """Return the song in WebDataset's sample, whose members are bytes.

    Raises:
        ShardError: a member is missing or not what the format says, or they do not fit each other.
    """
    key = item["__key__"].rpartition("/")[2]
    where = f"{Path(item['__url__']).name}: sample {key[:80]!r}"
    if not is_key(key):
        raise ShardError(f"{where}: expected a name of up to 80 letters, digits, - and _")
    missing = [field.suffix for field in (METADATA, *ARRAY_FIELDS) if field.suffix not in item]
    if missing:
        raise ShardError(f"{where}: no member {missing[0]}; shards/README.md lists them")
    metadata = decode_metadata(item[METADATA.suffix], where)
    check_metadata(metadata, where)
    arrays: dict[str, Any] = {
        field.name: decode_array(np.frombuffer(bytearray(item[field.suffix]), np.uint8), field, where)
        for field in ARRAY_FIELDS
    }
    sample = Sample(key=key, metadata=metadata, **arrays)
    check_lengths(sample, where, codebook_size=codebook_size)
    return sample
