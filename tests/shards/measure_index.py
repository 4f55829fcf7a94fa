"""Peak memory and CPU seconds of what goes over a whole index: `python tests/shards/measure_index.py COMMAND --rows N`.

The index is made up. For `merge` it is split in two datasets whose shards are a few bytes each, with the SHA-256 that
the index gives; for the other commands no shard is there, so `verify` and `repair` name every song as lost. The command
runs in a process of its own. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.__main__ import main as run_command
from shards.bench import _peak_kib, probe_index
from shards.bench_data import write_bench_index
from shards.dataset_info import DatasetInfo, write_dataset_info
from shards.index import read_index, write_index
from shards.index_row import replace_columns, split_by_shard
from shards.index_writer import IndexWriter

_COMMANDS = ("open", "write", "write-columns", "merge", "verify", "repair", "stats", "inspect")


def main() -> None:
    """Make the index, run the command in a child and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--scratch", type=Path, help="where files go (default: the system's folder for them)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        _measure(options.command, options.child)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        write_bench_index(folder / "whole", options.rows)
        _describe(folder / "whole", options.rows)
        if options.command == "merge":
            for number, name in enumerate("ab"):
                _write_half(folder / "whole", folder / name, number)
        command = [sys.executable, __file__, options.command, "--child", scratch]
        subprocess.run(command, check=True)


def _measure(command: str, folder: Path) -> None:
    whole, copy = folder / "whole", folder / "copy"
    output = sys.stdout
    with (folder / "output").open("w") as sys.stdout:
        imported_mb, started_s, started_cpu_s = _peak_kib() / 1024, time.perf_counter(), time.process_time()
        if command == "open":
            probe_index(whole, 0)
        elif command == "write":
            write_index(copy, read_index(whole))
        elif command == "write-columns":
            writer = IndexWriter(copy)
            for batch in read_index(whole).batches():
                writer.add_batch(replace_columns(batch))
            writer.check()
            writer.write()
        elif command == "merge":
            assert run_command(["merge", str(copy), str(folder / "a"), str(folder / "b")]) == 0
        else:
            run_command([command, str(whole), *(["nobody"] if command == "inspect" else [])])
    result = {"wall_s": time.perf_counter() - started_s, "cpu_s": time.process_time() - started_cpu_s}
    result |= {"peak_mb": _peak_kib() / 1024, "imported_mb": imported_mb}
    output.write(json.dumps({"command": command, **{name: round(value, 1) for name, value in result.items()}}) + "\n")


def _write_half(whole: Path, root: Path, number: int) -> None:
    """Write every second shard of an index as a dataset."""
    writer, is_mine = IndexWriter(root), False
    shard = ""
    for batch in read_index(whole).batches():
        kept: list[int] = []
        sums: list[str] = []
        for name, start, end in split_by_shard(batch):
            if name != shard:
                shard, is_mine = name, not is_mine if shard else number == 0
            if is_mine:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(f"{number} {name}".encode())
                kept += range(start, end)
                sums += [hashlib.sha256(f"{number} {name}".encode()).hexdigest()] * (end - start)
        rows = replace_columns(batch).take(pa.array(kept, pa.int64()))
        writer.add_batch(replace_columns(rows, shard_sha256=pa.array(sums, pa.string())))
    writer.check()
    writer.write()
    _describe(root, writer.totals.num_samples)


def _describe(root: Path, num_rows: int) -> None:
    info = DatasetInfo(
        latent_channels=64, latent_mean=(0.0,) * 64, latent_std=(1.0,) * 64, num_samples=num_rows, num_shards=1,
        hours=float(np.sum(read_index(root).column("duration_s"))) / 3600, fingerprint="made up", models={},
        splits={"train": num_rows, "val": 0},
    )  # fmt: skip
    write_dataset_info(root, info)


if __name__ == "__main__":
    main()
