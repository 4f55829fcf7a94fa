"""How often a mixture of five languages opens shards and decodes rows of the index; figures of shards/MEASUREMENTS.md.

Usage: python -m tests.shards.measure_mixtures FOLDER. Writes an index of a million made-up songs there; a minute.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import index_file
from shards.bench_data import write_bench_index
from shards.index import INDEX_NAME, Index, read_index, write_index_columns
from shards.plan import Plan
from shards.reader import MAX_OPEN_SHARDS

LANGUAGES = ["en", "es", "ja", "ko", "zh"]
NUM_SONGS, BATCH_SIZE = 20_000, 128


def write_mixed(root: Path, num_rows: int) -> Index:
    """Write the index of songs whose languages are mixed in every shard."""
    write_bench_index(root, num_rows)
    table = pq.read_table(root / INDEX_NAME)
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    drawn = np.random.default_rng(0).integers(0, len(LANGUAGES), num_rows)
    write_index_columns(root, columns | {"language": pa.array(LANGUAGES).take(pa.array(drawn))})
    return read_index(root)


def count_opens(index: Index, plan: Plan, world_size: int) -> float:
    """Return the shards opened per song by one of `world_size` readers, which reads any of each step's songs."""
    codes, _ = index.codes("shard")
    generator, kept, opened = np.random.default_rng(1), OrderedDict[int, None](), 0
    places = np.flatnonzero(generator.random(NUM_SONGS * world_size) * world_size < 1)
    for place in places.tolist():
        shard = int(codes[plan.song(place)])
        opened += shard not in kept
        kept[shard] = None
        kept.move_to_end(shard)
        if len(kept) > MAX_OPEN_SHARDS:
            kept.popitem(last=False)
    return opened / len(places)


def count_groups(root: Path, plan: Plan, kept: int) -> float:
    """Return the row groups of the index that are decoded per song."""
    index, decoded = read_index(root), 0
    check = index_file.IndexFile._check

    def count(self: index_file.IndexFile, table: pa.Table) -> pa.Table:
        nonlocal decoded
        decoded += 1
        return check(self, table)

    with patch.object(index_file, "_GROUPS_KEPT", kept), patch.object(index_file.IndexFile, "_check", count):
        for place in range(3_000):
            index.row(plan.song(place))
    return decoded / 3_000


def main(root: Path) -> None:
    index = write_mixed(root, 1_000_000)
    for shares in (None, dict.fromkeys(LANGUAGES, 1.0)):
        for window_shards in (16, None):
            plan = Plan(index, seed=0, shares=shares, window_shards=window_shards)
            opens = {world_size: round(count_opens(index, plan, world_size), 3) for world_size in (1, 16)}
            groups = {kept: round(count_groups(root, plan, kept), 3) for kept in (32, 64)}
            sys.stdout.write(f"{shares} {window_shards}: opens per song by ranks {opens}, groups by kept {groups}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
