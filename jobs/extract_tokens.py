"""raw/ + clean/ -> shards/: semantic tokens, VAE latents and style prompts of every kept song, as WebDataset shards.

The same songs and settings give the same bytes with any number of workers and after any crash. A run that was stopped
goes on where it was: finished songs and shards are not done again.
"""

import argparse
import functools
import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

from jobs.checks.quick import check_quickly, require_fit
from jobs.cluster import Died, Row, connect, naming, resolve_path, stream
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, add_model_flags, read_profile, run_command
from jobs.failures import Failure, FailureBudget, attempt
from jobs.output_folder import claim_folder, require_apart
from jobs.run_options import RunOptions, add_run_flags, read_run_options
from pipeline.audio.decode import AudioDecodeError, decode_audio, hash_file, require_regular_file
from pipeline.catalogue.inputs import SongInput, scan
from pipeline.catalogue.tags import fill_from_tags, read_tags
from pipeline.cleaning.clean_song import lyrics_bytes
from pipeline.cleaning.records import write_text
from pipeline.encoding.encode_song import MODELS, SongEncoder, SongToEncode, describe_models
from pipeline.encoding.plan_shards import PlannedShard, plan_shards, song_from_raw, songs_from_clean
from pipeline.input_file import InputError
from pipeline.lyrics.encoding import decode_lyrics
from pipeline.model_files.profiles import Profile, locate_models
from pipeline.phonemes.phonemizer import Mode
from shards.atomic_file import remove_temporaries
from shards.dataset_info import INFO_NAME, DatasetInfo, write_dataset_info
from shards.index import INDEX_NAME, IndexRow, write_index
from shards.latent_statistics import MIN_STD, LatentStatistics
from shards.reader import ShardReader
from shards.sample import Sample
from shards.schema import SPLITS, ShardError
from shards.writer import write_shard

logger = logging.getLogger(__name__)

PROGRESS = ".progress"  # samples and facts of shards under way; readers of the dataset never look there
PLANNED = "planned.json"  # names of the shards that belong to this job
PROGRESS_S = 10.0


class EncodeWorker:
    """Encodes songs and leaves each as a one-sample shard for assembly.

    A song that has no usable audio any more, or lyrics that no shard can hold, is `unusable`; one that could not be
    computed here is `failed`. Both are left out and tried again by the next run.
    """

    def __init__(self, profile: Profile, device: str, progress: Path, phonemes: Mode) -> None:
        """Load the models, once per process."""
        self._encoder = SongEncoder(profile, device, phonemes)
        self._encoder.setup()
        self._progress = progress

    def __call__(self, row: Row) -> Row:
        """Encode one song; only its name and, where it is left out, the reason go on."""
        song: SongToEncode = row["song"]
        summary = {"shard": row["shard"], "song_id": song.row["song_id"], "unusable": "", "failed": ""}
        with naming(song.row["song_id"]):
            try:
                sample = attempt(lambda: self._encode(song))
                if isinstance(sample, Failure):
                    logger.error("%s: %s", song.row["song_id"], sample.traceback)
                    return summary | {"failed": sample.reason}
                write_shard(self._progress / _sample_name(row["shard"], song.key), [sample])
            except (AudioDecodeError, ShardError) as error:
                return summary | {"unusable": str(error)}
        return summary

    def _encode(self, song: SongToEncode) -> Sample:
        require_regular_file(song.path)
        _require_unchanged(song)
        sample = self._encoder.encode(song)
        _require_unchanged(song)  # while it was read
        return sample


def _require_unchanged(song: SongToEncode) -> None:
    if hash_file(song.path) != song.row["sha256"]:
        raise AudioDecodeError("the file has changed since it was read first; clean it again")


def _sample_name(shard: str, key: str) -> str:
    return f"{shard.split('/')[0]}/{key}.tar"


class Survey:
    """Reads a raw song's bytes and length, for songs that were not cleaned."""

    def __init__(self, models: dict[str, Any]) -> None:
        """Remember the models, which are part of a song's fingerprint."""
        self._models = models

    def __call__(self, row: Row) -> Row:
        """Add `song`, or `failed` with the reason."""
        source: SongInput = row["source"]
        try:
            found = attempt(lambda: self._read(source))
        except AudioDecodeError as error:
            found = Failure(str(error))
        if isinstance(found, Failure):
            return {"song": None, "song_id": source.song_id, "failed": found.reason}
        return {"song": found, "song_id": source.song_id, "failed": ""}

    def _read(self, source: SongInput) -> SongToEncode:
        if source.problem:
            raise AudioDecodeError(source.problem)
        duration_s = decode_audio(source.path).duration_s
        source = fill_from_tags(source, read_tags(source.path, source.language))
        text = decode_lyrics(lyrics_bytes(source), source.language)
        return song_from_raw(source, text, hash_file(source.path), duration_s, self._models)


def lock(out: Path) -> AbstractContextManager[None]:
    """Refuse a second extraction into the same folder, and a folder with a dataset of somebody else.

    Other files may lie there: `--out shards/` from the root of a checkout means the folder with the format's source.
    """
    owned = (*(f"{split}/*" for split in SPLITS), INDEX_NAME, INFO_NAME)
    return claim_folder(out, out / PROGRESS / "lock", "extraction", owned)


def extract(
    songs: Sequence[SongToEncode],
    out: Path,
    profile: Profile,
    *,
    val_fraction: float,
    shard_bytes: int,
    options: RunOptions,
    phonemes: Mode = "plain",
) -> dict[str, Any]:
    """Encode the songs into shards and write the index and dataset.json last; return the totals."""
    started = time.monotonic()
    plan = plan_shards(
        songs, val_fraction=val_fraction, shard_bytes=shard_bytes, prompts_per_song=profile.prompts_per_song
    )
    _remove_stale(out, plan)
    finished = {shard.name: facts for shard in plan if (facts := _read_facts(out, shard)) is not None}
    pending = [shard for shard in plan if shard.name not in finished]
    _remove_samples(out, pending)
    rows = [{"shard": s.name, "song": song} for s in pending for song in s.songs if not _is_encoded(out, s, song)]
    num_songs = sum(len(shard.songs) for shard in plan)
    logger.info("%d songs in %d shards; %d songs to encode", num_songs, len(plan), len(rows))
    if pending:  # an index over shards that change would lie
        for name in (INDEX_NAME, INFO_NAME):
            (out / name).unlink(missing_ok=True)
    cluster = connect(options.device, options.max_worker_bytes)
    budget = FailureBudget(options.max_failed_rate, len(rows))
    make_worker = functools.partial(EncodeWorker, profile, cluster.device, out / PROGRESS, phonemes)
    failed: dict[str, str] = {}
    left = Counter(row["shard"] for row in rows)
    shards = {shard.name: shard for shard in pending}
    for name in shards.keys() - left.keys():
        finished[name] = _assemble(out, shards[name], failed)
    last = time.monotonic()
    pool = cluster.encoders(options.workers)
    results = stream(rows, make_worker, pool, lambda row: options.max_seconds(row["song"].row["duration_s"]))
    for count, result in enumerate(results, 1):
        done = _after_death(result) if isinstance(result, Died) else result
        if reason := budget.count(done["song_id"], unusable=done["unusable"], failed=done["failed"]):
            failed[done["song_id"]] = reason
        left[done["shard"]] -= 1
        if left[done["shard"]] == 0:
            finished[done["shard"]] = _assemble(out, shards[done["shard"]], failed)
        if count == len(rows) or time.monotonic() - last > PROGRESS_S or sys.stderr.isatty():
            last = time.monotonic()
            eta_s = (last - started) / count * (len(rows) - count)
            logger.info("%d of %d songs encoded, about %.0f s left", count, len(rows), eta_s)
    failed = {song_id: reason for facts in finished.values() for song_id, reason in facts["failed"].items()}
    return _finish(out, plan, finished, failed, describe_models(profile, phonemes), time.monotonic() - started)


def _after_death(died: Died) -> Row:
    """Return the summary of a song that its worker did not survive."""
    song: SongToEncode = died.row["song"]
    return {"shard": died.row["shard"], "song_id": song.row["song_id"], "unusable": "", "failed": died.reason}


def _is_encoded(out: Path, shard: PlannedShard, song: SongToEncode) -> bool:
    sample = _read_sample(out, shard, song)
    return sample is not None and sample.metadata["provenance"].get("fingerprint") == song.fingerprint


def _read_sample(out: Path, shard: PlannedShard, song: SongToEncode) -> Sample | None:
    name = _sample_name(shard.name, song.key)
    if not (out / PROGRESS / name).exists():
        return None
    try:
        return next(iter(ShardReader(out / PROGRESS).iterate(name)))
    except (ShardError, StopIteration):  # a file of another version, or damaged: encoded again
        return None


def _assemble(out: Path, shard: PlannedShard, failed: dict[str, str]) -> dict[str, Any]:
    """Write one shard from its encoded songs, then the facts that say so, then delete what it was made of."""
    statistics: LatentStatistics | None = None

    def samples() -> Iterator[Sample]:
        nonlocal statistics
        for song in shard.songs:
            if song.row["song_id"] in failed:
                continue
            sample = _read_sample(out, shard, song)
            if sample is None:
                raise ShardError(f"{shard.name}: the encoded song {song.key} is gone; run the command again")
            statistics = statistics or LatentStatistics(sample.latent_channels)
            statistics.add(sample.latents)
            yield sample

    has_songs = any(song.row["song_id"] not in failed for song in shard.songs)
    rows = write_shard(out / shard.name, samples()) if has_songs else []
    facts = {
        "fingerprint": shard.fingerprint,
        "failed": {song_id: failed[song_id] for song in shard.songs if (song_id := song.row["song_id"]) in failed},
        "rows": [asdict(row) for row in rows],
        "statistics": statistics.to_json() if statistics else None,
    }
    write_text(_facts_path(out, shard.name), json.dumps(facts))
    for song in shard.songs:
        (out / PROGRESS / _sample_name(shard.name, song.key)).unlink(missing_ok=True)
    logger.info("%s: %d songs, %.1f MB", shard.name, len(rows), (out / shard.name).stat().st_size / 1e6 if rows else 0)
    return facts


def _facts_path(out: Path, shard: str) -> Path:
    return out / PROGRESS / f"{shard.replace('/', '-').removesuffix('.tar')}.json"


def _read_facts(out: Path, shard: PlannedShard) -> dict[str, Any] | None:
    """Return the facts of a shard that is finished with the same songs and settings, else None."""
    try:
        facts = json.loads(_facts_path(out, shard.name).read_text(encoding="utf-8"))
        is_same = facts["fingerprint"] == shard.fingerprint
        rows = [IndexRow(**row) for row in facts["rows"]]
        is_whole = not rows or (out / shard.name).stat().st_size == rows[0].shard_bytes
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if is_same and is_whole and not facts["failed"] else None


def _remove_stale(out: Path, plan: Sequence[PlannedShard]) -> None:
    """Delete what killed runs left half-written, and shards of an earlier plan; refuse files of anyone else.

    The names of all shards that any run has planned are written down before the first of them is.
    """
    ours, planned = _read_planned(out), {shard.name for shard in plan}
    present = {f"{split}/{path.name}": path for split in SPLITS for path in sorted((out / split).glob("*.tar"))}
    for name, path in present.items():
        if name not in ours and not _facts_path(out, name).exists():
            raise InputError(f"{path}: not written by this job; move it away or choose another --out")
    for name in present.keys() - planned:
        present[name].unlink()
        _facts_path(out, name).unlink(missing_ok=True)
    write_text(out / PROGRESS / PLANNED, json.dumps(sorted(planned)))
    for folder in (out, out / PROGRESS):
        for place in (folder, *(folder / split for split in SPLITS)):
            remove_temporaries(place)


def _read_planned(out: Path) -> set[str]:
    try:
        names = json.loads((out / PROGRESS / PLANNED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _remove_samples(out: Path, pending: Sequence[PlannedShard]) -> None:
    """Delete encoded songs that no shard waits for."""
    awaited = {_sample_name(shard.name, song.key) for shard in pending for song in shard.songs}
    for split in SPLITS:
        for path in (out / PROGRESS / split).glob("*.tar"):
            if f"{split}/{path.name}" not in awaited:
                path.unlink()


def _finish(
    out: Path,
    plan: Sequence[PlannedShard],
    finished: dict[str, dict[str, Any]],
    failed: dict[str, str],
    models: dict[str, Any],
    wall_s: float,
) -> dict[str, Any]:
    rows = [IndexRow(**row) for shard in plan for row in finished[shard.name]["rows"]]
    train = [
        finished[s.name]["statistics"] for s in plan if s.name.startswith("train/") and finished[s.name]["statistics"]
    ]
    if not train:
        raise InputError(f"{out}: no song could be encoded for the train split: {failed or 'none was given'}")
    statistics = LatentStatistics.from_json(train[0])
    for part in train[1:]:
        statistics.merge(LatentStatistics.from_json(part))
    info = DatasetInfo.from_rows(
        rows,
        latent_mean=statistics.mean(),
        latent_std=statistics.std(floor=MIN_STD),
        models=models,
        fingerprint=hashlib.sha256("".join(shard.fingerprint for shard in plan).encode()).hexdigest(),
    )
    write_dataset_info(out, info)
    write_index(out, rows)
    return {
        "songs": len(rows),
        "failed": failed,
        "shards": info.num_shards,
        "splits": info.splits,
        "hours": round(info.hours, 4),
        "wall_s": round(wall_s, 2),
        "out": str(out),
    }


def find_work(
    source: Path, clean: Path | None, profile: Profile, options: RunOptions, phonemes: Mode = "plain"
) -> tuple[list[SongToEncode], dict[str, str], dict[str, int]]:
    """Return the songs to encode, those that cannot be read with the reason, and how many files are no songs."""
    models = describe_models(profile, phonemes)
    folder = clean or source.parent / "clean"
    if (folder / "songs.parquet").exists():
        return songs_from_clean(source if source.is_dir() else source.parent, folder, models), {}, {}
    if clean is not None:
        raise InputError(f"{clean}: no songs.parquet there; run jobs/clean_lyrics.py first")
    logger.warning(
        "no %s: lyrics are used as found, neither checked nor timed (lyrics_source: raw)", folder / "songs.parquet"
    )
    scanned = scan(source)
    found = scanned.songs
    survey = functools.partial(Survey, models)
    results = stream([{"source": song} for song in found], survey, connect(options.device).readers())
    surveyed = [
        {"song": None, "song_id": row.row["source"].song_id, "failed": row.reason} if isinstance(row, Died) else row
        for row in results
    ]
    failed = {row["song_id"]: row["failed"] for row in surveyed if row["failed"]}
    for song_id, reason in sorted(failed.items()):
        logger.warning("left out: %s: %s", song_id, reason)
    songs = [row["song"] for row in surveyed if row["song"] is not None]
    if not songs:
        raise InputError(f"{source}: none of {len(found)} files holds audio that can be used")
    return songs, failed, scanned.passed_over


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(prog="extract_tokens.py", description=__doc__)
    parser.add_argument(
        "--in",
        dest="source",
        type=Path,
        default=Path("raw"),
        help="the folder or manifest that was cleaned (default: raw/)",
    )
    parser.add_argument("--out", type=Path, default=Path("shards"), help="folder of the dataset (default: shards/)")
    parser.add_argument("--clean", type=Path, help="folder that clean_lyrics.py wrote (default: clean/ beside --in)")
    add_model_flags(parser, ("muq", "codebook", "vae"))
    parser.add_argument(
        "--val-fraction", type=float, default=0.01, help="share of songs for validation (default: 0.01)"
    )
    parser.add_argument("--shard-bytes", type=int, default=512 << 20, help="size of a shard (default: 536870912)")
    parser.add_argument(
        "--phonemes", default="plain", metavar="MODE", help="how lyrics are spelled: plain (default), reference as for "
        "the released weights, or a checkpoint, whose mode is taken: one that the shards shall fine-tune"
    )  # fmt: skip
    add_run_flags(parser)
    return parser.parse_args()


def read_phoneme_mode(name: str) -> Mode:
    """Return the mode of --phonemes: by its name, or that of the checkpoint that lies there."""
    if name in get_args(Mode):
        return cast(Mode, name)
    path = resolve_path(Path(name))
    if not path.exists():
        raise InputError(f"--phonemes {name}: expected {' or '.join(get_args(Mode))}, or a checkpoint; no such file")
    from model.weights.base_weights import read_config  # loads PyTorch
    from model.weights.checkpoint import CheckpointError, find_weights
    from model.weights.weights_file import read_header

    try:
        file = find_weights(path)
        return read_config(file, read_header(file)[1]).model.conditions.phonemes
    except CheckpointError as error:
        raise InputError(f"--phonemes: {error}") from error


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    source, out = resolve_path(arguments.source), resolve_path(arguments.out)
    if not 0 <= arguments.val_fraction < 1:
        raise InputError(f"--val-fraction {arguments.val_fraction}: expected 0 to below 1")
    if arguments.shard_bytes < 1:
        raise InputError(f"--shard-bytes {arguments.shard_bytes}: expected 1 or more")
    options = read_run_options(arguments)
    if not source.exists():
        raise InputError(f"{source}: no such folder or manifest; put audio there, or name another with --in")
    require_apart(source, out)
    require_fit(check_quickly(out, uses_gpu=options.device != "cpu"))
    phonemes = read_phoneme_mode(arguments.phonemes)
    profile = locate_models(read_profile(arguments), MODELS)
    with lock(out):
        clean = resolve_path(arguments.clean) if arguments.clean else None
        songs, failed, passed_over = find_work(source, clean, profile, options, phonemes)
        totals = extract(
            songs,
            out,
            profile,
            val_fraction=arguments.val_fraction,
            shard_bytes=arguments.shard_bytes,
            options=options,
            phonemes=phonemes,
        )
    totals |= {"failed": failed | totals["failed"], "passed_over": passed_over}
    return totals, EXIT_SHORT if totals["failed"] else EXIT_FINE


if __name__ == "__main__":
    run_command(main)
