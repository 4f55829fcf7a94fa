"""raw/ -> clean/: separate vocals, hear what is sung, and keep the lyrics that agree, line by line.

Every song ends in clean/songs.parquet with a verdict, in clean/quarantine.parquet because its file is no usable audio,
or in clean/failed.parquet because this machine could not do it, as for want of memory: the next run tries it again. A
run that was stopped goes on where it was: finished songs are not done again unless their audio, lyrics, settings or
models changed.
"""

import argparse
import functools
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.checks.quick import check_quickly, require_fit
from jobs.clean_steps import SongWorker
from jobs.clean_survey import Survey, record_failure, settle
from jobs.cluster import Crew, Died, Row, connect, resolve_path
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, add_model_flags, read_language, read_profile, run_command
from jobs.failures import Failure, FailureBudget
from jobs.output_folder import claim_folder, require_apart
from jobs.run_options import RunOptions, add_run_flags, read_run_options
from pipeline.catalogue.inputs import LOCK, RECORDS, Scan, SongInput, scan
from pipeline.cleaning.clean_song import CleanSettings
from pipeline.cleaning.records import (
    CHECKED,
    FAILED_SCHEMA,
    QUARANTINE_SCHEMA,
    SONGS_SCHEMA,
    count_times,
    read_record,
    remove_timed_text,
    write_run,
    write_table,
)
from pipeline.cleaning.report import write_report
from pipeline.input_file import InputError
from shards.atomic_file import remove_temporaries

logger = logging.getLogger(__name__)

PROGRESS_S = 10.0


def clean(
    source: Path, out: Path, settings: CleanSettings, options: RunOptions, limit: int | None = None
) -> dict[str, Any]:
    """Clean all songs of `source` into `out` and return the totals of the run."""
    started = time.monotonic()
    require_apart(source, out)
    found = scan(source)
    songs = found.songs[:limit]
    require_fit(check_quickly(out, uses_gpu=options.device != "cpu"))
    settings = settings.locate_models(song.language for song in songs)
    with claim_folder(out, out / LOCK, "cleaning"):
        for folder in (out, out / "lyrics", *(out / RECORDS).glob("*"), *(out / CHECKED).glob("*")):
            remove_temporaries(folder)
        logger.info("%d songs in %s", len(songs), source)
        cluster = connect(options.device, options.max_worker_bytes)
        with Crew(cluster.readers()) as readers:
            surveyed = _look_at_files(songs, out, settings, options, readers)
            todo, num_finished = settle(out, surveyed, settings)
            settings.check_aligners(row["source"].language or row["text_language"] for row in todo)
            logger.info("%d songs to listen to, %d finished before", len(todo), num_finished)
            # What failed before comes last, or it would keep the others waiting each time. Else the longest first: no
            # core waits long for the last song.
            todo.sort(key=lambda row: (row["failed_before"], -row["checked"].duration_s, row["source"].song_id))
            stages = functools.partial(settings.stages, cluster.device)
            make_worker = functools.partial(SongWorker, stages, out, settings.keep_vocals)
            # A worker that has read files starts to listen sooner.
            with readers.fit(cluster.encoders(options.workers)) as listeners:
                _listen(out, todo, make_worker, listeners, options)
        return write_outputs(out, songs, settings, time.monotonic() - started, num_finished, found)


def _look_at_files(
    songs: Sequence[SongInput], out: Path, settings: CleanSettings, options: RunOptions, crew: Crew
) -> list[Row]:
    """Return what is known of every song without listening, sorted by song_id."""
    survey = functools.partial(Survey, out, settings, settings.fingerprint())
    results = crew.stream([{"source": song} for song in songs], survey, lambda _: options.max_seconds(0.0))
    rows = [row.row | {"failed": Failure(row.reason)} if isinstance(row, Died) else row for row in results]
    return sorted(rows, key=lambda row: row["source"].song_id)


def _listen(
    out: Path, todo: Sequence[Row], make_worker: Callable[[], SongWorker], crew: Crew, options: RunOptions
) -> None:
    """Take all songs through the heavy stages, and say how far they are."""
    total_s = sum(row["checked"].duration_s for row in todo)
    started = last = time.monotonic()
    done_s = 0.0
    budget = FailureBudget(options.max_failed_rate, len(todo))
    results = crew.stream(todo, make_worker, lambda row: options.max_seconds(row["checked"].duration_s))
    for count, result in enumerate(results, 1):
        summary = _record_death(out, result) if isinstance(result, Died) else result
        done_s += summary["duration_s"]
        if summary["verdict"] == "failed":
            budget.add_failure(summary["song_id"], summary["reason"])
        else:
            budget.add_success()
        if count == len(todo) or time.monotonic() - last > PROGRESS_S or sys.stderr.isatty():
            last = time.monotonic()
            eta_s = (last - started) / done_s * (total_s - done_s)
            name = f"{summary['verdict']} {summary['reason']}".strip()
            logger.info("%d of %d songs, about %.0f s left; %s: %s", count, len(todo), eta_s, summary["song_id"], name)


def _record_death(out: Path, died: Died) -> Row:
    """Record a song that its worker did not survive, and return its summary."""
    source: SongInput = died.row["source"]
    record_failure(out, source, Failure(died.reason))
    return {
        "song_id": source.song_id,
        "verdict": "failed",
        "reason": died.reason,
        "duration_s": died.row["checked"].duration_s,
    }


def write_outputs(
    out: Path,
    songs: Iterable[SongInput],
    settings: CleanSettings,
    wall_s: float,
    resumed: int,
    found: Scan,
) -> dict[str, Any]:
    """Gather the records of all songs into the tables, the report and the totals."""
    records = [(song, read_record(out, song.song_id)) for song in songs]
    lost = [song.song_id for song, record in records if record is None]
    if lost:
        raise InputError(
            f"{out}: no record of {lost[0]!r} ({len(lost)} in all); was the folder changed during the run?"
        )
    rows = [record["row"] for _, record in records if record and "row" in record]
    seconds: Counter[str] = Counter()
    for _, record in records:
        seconds.update(record.get("seconds", {}) if record else {})
    quarantined = [record["quarantine"] for _, record in records if record and "quarantine" in record]
    failed = [record["failed"] for _, record in records if record and "failed" in record]
    _remove_stale(out, {row["song_id"] for row in rows if row["verdict"] == "keep"})
    write_table(out / "songs.parquet", rows, SONGS_SCHEMA)
    write_table(out / "quarantine.parquet", quarantined, QUARANTINE_SCHEMA)
    write_table(out / "failed.parquet", failed, FAILED_SCHEMA)
    stats = {
        "seen": len(records),
        "kept": sum(row["verdict"] == "keep" for row in rows),
        "rejected": dict(Counter(row["reason"] for row in rows if row["verdict"] == "reject")),
        "quarantined": len(quarantined),
        "failed": len(failed),
        "lines": dict(Counter(line["edit"] for row in rows if row["verdict"] == "keep" for line in row["lines"])),
        "dropped_lines": dict(Counter(line["reason"] for row in rows for line in row["dropped"])),
        "lyrics_times": count_times(rows),
        "beyond_limit": len(found.songs) - len(records),  # songs that --limit left out
        "lyrics_files": len({song.lyrics_path for song in found.songs} - {None}),
        "passed_over": found.passed_over,  # files that are neither, by suffix and reason
        "audio_hours": round(sum(row["duration_s"] for row in rows) / 3600, 4),
        "finished_before": resumed,
        "seconds_per_stage": {name: round(value, 2) for name, value in sorted(seconds.items())},
        "wall_s": round(wall_s, 2),  # of this run; the seconds above are those of all songs, whenever they were done
    }
    write_run(out, settings.facts(), stats)
    write_report(out / "report.html", rows, quarantined, failed, stats)
    return stats


def _remove_stale(out: Path, kept: set[str]) -> None:
    """Remove the lyrics files of songs that the last run kept and this one does not: they would mislead.

    Only what songs.parquet names: other files in the folder belong to somebody else.
    """
    if not (out / "songs.parquet").exists():
        return
    last = pq.read_table(out / "songs.parquet", columns=["song_id", "verdict"]).to_pylist()
    for row in last:
        if row["verdict"] == "keep" and row["song_id"] not in kept:
            remove_timed_text(out, row["song_id"])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(
        prog="clean_lyrics.py",
        description=__doc__,
        epilog="examples:\n  python jobs/clean_lyrics.py\n"
        "  ray job submit -- python jobs/clean_lyrics.py --in /data/catalogue.parquet --out /data/clean\n"
        "  python jobs/clean_lyrics.py --profile miniature --limit 10",
    )
    parser.add_argument(
        "--in", dest="source", type=Path, default=Path("raw"), help="folder tree of audio with song.txt, song.lrc or "
        "lyrics.txt beside each file; or a manifest (.jsonl, .csv, .parquet with the column audio) (default: raw/)"
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("clean"), help="folder to write to (default: clean/)")
    add_model_flags(parser, ("separator", "asr", "verifier", "aligner"))
    parser.add_argument(
        "--language", default="auto", help="of all songs, as en or English (default: auto: what is "
        "sung in each; a manifest's and the lyrics' language are hints)"
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="only the first N songs")
    parser.add_argument(
        "--min-duration", type=float, default=1.0, help="shorter songs are rejected, in seconds (default: 1)"
    )
    parser.add_argument(
        "--max-duration", type=float, default=900.0, help="longer songs are rejected, in seconds (default: 900)"
    )
    parser.add_argument(
        "--seconds-per-tag", type=float, default=1.0, help="one [intro], [inst] or [outro] tag for so many seconds: "
        "1 for the 150 s models, 5 for the 240 s model (default: 1)"
    )  # fmt: skip
    parser.add_argument(
        "--lyrics-from-asr", action="store_true", help="keep songs without lyrics too, with what was heard as lyrics: "
        "every line has source asr (default: they are rejected with no_lyrics)"
    )  # fmt: skip
    parser.add_argument("--keep-vocals", action="store_true", help="also write clean/vocals/<song_id>.flac")
    parser.add_argument(
        "--max-drop-rate", type=float, default=1.0, help="exit with 1 where more than this share of the inputs was "
        "rejected or quarantined (default: 1, never)"
    )  # fmt: skip
    add_run_flags(parser)
    return parser.parse_args()


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    source, out = resolve_path(arguments.source), resolve_path(arguments.out)
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}: expected 1 or more")
    options = read_run_options(arguments)
    settings = CleanSettings(
        profile=read_profile(arguments),
        language=read_language(arguments.language),
        min_duration_s=arguments.min_duration,
        max_duration_s=arguments.max_duration,
        seconds_per_tag=arguments.seconds_per_tag,
        keep_vocals=arguments.keep_vocals,
        lyrics_from_asr=arguments.lyrics_from_asr,
    )
    stats = clean(source, out, settings, options, arguments.limit)
    if stats["failed"] > arguments.max_failed_rate * stats["seen"]:
        logger.error(
            "%d of %d songs failed, --max-failed-rate allows %.0f%%: failed.parquet says why; the same command tries "
            "them again",
            stats["failed"],
            stats["seen"],
            100 * arguments.max_failed_rate,
        )
        return stats, EXIT_SHORT
    dropped = (sum(stats["rejected"].values()) + stats["quarantined"]) / max(stats["seen"], 1)
    if dropped > arguments.max_drop_rate:
        logger.error(
            "%.0f%% of the inputs were dropped, --max-drop-rate allows %.0f%%",
            100 * dropped,
            100 * arguments.max_drop_rate,
        )
        return stats, EXIT_SHORT
    return stats, EXIT_FINE


if __name__ == "__main__":
    run_command(main)
