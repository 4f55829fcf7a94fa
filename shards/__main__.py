"""Commands about a dataset: verify it, look at one sample, count what is in it."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shards.describe import describe_sample, make_printable
from shards.index import read_index
from shards.merge import merge
from shards.reader import ShardReader
from shards.repair import repair
from shards.schema import ShardError
from shards.stats import summarize_contents, summarize_index
from shards.storage import is_url
from shards.verify import verify

MAX_WORKERS = 256
_EXIT_CODES = "exit codes: 0 all is well, 1 something is wrong with the dataset, 2 wrong use"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    if hasattr(sys.stdout, "reconfigure"):  # lyrics are in any script, terminals are not
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _build_parser()
    options = parser.parse_args(arguments)
    for folder in options.must_exist(options):
        if not Path(folder).is_dir():
            parser.error(f"{folder} is not a folder; name the folder that holds index.parquet")
    try:
        return int(options.run(options))
    except (ShardError, OSError) as error:
        return _finish([str(error)], {"ok": False, "error": str(error)})
    except MemoryError as error:  # Arrow's too
        told = f"no memory left: {error or 'nothing more is known'}; free some, or raise the limit (ulimit -v)"
        return _finish([told], {"ok": False, "error": told})


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shards",
        description="Work with a dataset: a folder with dataset.json, index.parquet, train/*.tar and val/*.tar.",
        epilog=f"The last line of every command's output is one JSON object. {_EXIT_CODES}.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "verify",
        help="check every byte and name what is wrong",
        description=(
            "Check the index against the shards: sizes, checksums, order and shape of members, values, unique keys, "
            "shards that are cut, changed, missing or not listed, and dataset.json against all of it. "
            "Prints one line for each thing that is wrong, when it is found, then the counts. Behind a URL no folder "
            "is listed, so shards that the index leaves out are not noticed."
        ),
        epilog=_EXIT_CODES,
    )
    check.set_defaults(run=_run_verify)
    look = commands.add_parser("inspect", help="show one sample", description="Show one sample.", epilog=_EXIT_CODES)
    look.set_defaults(run=_run_inspect)
    count = commands.add_parser(
        "stats",
        help="count songs, hours, shards and what is in them",
        description="Count songs and hours by split and language, from the index.",
        epilog=_EXIT_CODES,
    )
    count.set_defaults(run=_run_stats)
    count.add_argument(
        "--contents",
        action="store_true",
        help="also read every sample: sections, lyrics, use of the codebook, scale of the latents",
    )
    join = commands.add_parser(
        "merge",
        help="join datasets into a new one",
        description=(
            "Copy the shards of all datasets into a new folder, checking every byte. Refuses datasets of different "
            "models, songs that are in two of them, and a recording that is in train here and in val there."
        ),
        epilog=_EXIT_CODES,
    )
    join.set_defaults(run=_run_merge, must_exist=lambda options: options.sources)
    join.add_argument("out", metavar="OUT", type=Path, help="folder of the new dataset")
    join.add_argument("sources", metavar="DIR", type=Path, nargs="+", help="folders of the datasets, in their order")
    mend = commands.add_parser(
        "repair",
        help="make index and dataset.json anew, without damaged shards",
        description=(
            "Check every shard, rename those that are cut or changed to NAME.tar.damaged, list what is lost with them, "
            "and write index.parquet and dataset.json from the rest."
        ),
        epilog="exit codes: 0 nothing is lost, 1 something is lost or cannot be repaired, 2 wrong use",
    )
    mend.set_defaults(run=_run_repair)
    mend.add_argument("dir", metavar="DIR", type=Path, help="folder of the dataset, such as shards/")
    mend.set_defaults(must_exist=lambda options: [options.dir])
    check.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=1,
        choices=range(1, MAX_WORKERS + 1),
        help=f"processes that check shards, up to {MAX_WORKERS} (default: 1); the report does not depend on it",
    )
    for command in (check, look, count):
        command.add_argument("dir", metavar="DIR", help="folder or URL of the dataset, such as s3://bucket/shards")
        command.set_defaults(must_exist=lambda options: [] if is_url(options.dir) else [options.dir])
    look.add_argument("key", metavar="KEY", nargs="?", help="key or song_id of the sample (default: the first one)")
    return parser


def _run_verify(options: argparse.Namespace) -> int:
    report = verify(options.dir, num_workers=options.workers, on_problem=_write_line)
    result = {
        "ok": not report.num_problems,
        "num_problems": report.num_problems,
        "num_samples": report.num_samples,
        "num_shards": report.num_shards,
        "num_bytes": report.num_bytes,
        "hours": round(report.hours, 6),
    }
    return _finish([], result)


def _run_inspect(options: argparse.Namespace) -> int:
    index = read_index(options.dir)
    number = 0 if options.key is None else index.find(options.key)
    if number is None:
        raise ShardError(f"no sample has the key or song_id {options.key!r}")
    row = index.row(number)
    sample = ShardReader(options.dir).read(row)
    shapes = {name: list(array.shape) for name, array in sample.arrays.items()}
    return _finish(describe_sample(sample, row), {"ok": True, "key": row.key, "shard": row.shard, "shapes": shapes})


def _run_stats(options: argparse.Namespace) -> int:
    index = read_index(options.dir)
    summary = summarize_index(index)
    if options.contents:
        reader = ShardReader(options.dir)
        summary |= summarize_contents(reader, map(reader.read, index))
    lines = (f"{name:<20} {json.dumps(value, ensure_ascii=False)}" for name, value in summary.items())
    return _finish(lines, {"ok": True, **summary})


def _run_merge(options: argparse.Namespace) -> int:
    info = merge(options.out, options.sources)
    result = {"ok": True, "num_samples": info.num_samples, "num_shards": info.num_shards, "hours": round(info.hours, 6)}
    return _finish([], result)


def _run_repair(options: argparse.Namespace) -> int:
    done = repair(options.dir)
    result = {"ok": not done.lost, "num_samples": done.num_samples, "dropped": done.dropped, "lost": done.lost}
    return _finish(done.lines, result)


def _finish(lines: Iterable[str], result: dict[str, Any]) -> int:
    """Write the lines for people, then the result as one JSON object, and return the exit code."""
    for line in lines:
        _write_line(line)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


def _write_line(line: str) -> None:
    sys.stdout.write(make_printable(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
