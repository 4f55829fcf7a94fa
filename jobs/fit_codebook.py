"""raw/ -> codebook/: fit the 16384 entries of the semantic tokens on MuQ features of your own songs.

SongBloom's codebook is not published: tokens of a fitted one mean something else, so a released language model cannot
read them, and a model is trained from scratch or learns its token embedding and classifier anew. Features of sampled
frames are computed once, over Ray, and kept under --out while the job runs; a run that was stopped goes on there and
ends with the same codebook, with any number of workers. Of a large catalogue as many songs are drawn as give
--max-vectors frames, FRAMES_PER_SONG each; the fit then streams over the sampled frames, file by file.
"""

import argparse
import functools
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.checks.quick import check_quickly, require_fit
from jobs.cluster import Died, Row, connect, resolve_path, stream
from jobs.command import EXIT_FINE, CommandParser, add_model_flags, read_profile, run_command
from jobs.failures import Failure, FailureBudget, attempt
from jobs.output_folder import claim_folder
from jobs.run_options import RunOptions, add_run_flags, read_run_options
from pipeline.audio.decode import AudioDecodeError
from pipeline.catalogue.inputs import SongInput, find_songs
from pipeline.encoding.codebook import MODEL_TYPE, Codebook
from pipeline.encoding.codebook_fitter import CodebookFitter
from pipeline.encoding.encode_song import MAX_DURATION_S, FeatureSampler
from pipeline.input_file import InputError
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelError
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.profiles import Profile, locate_models
from shards.atomic_file import open_atomic, remove_temporaries
from shards.schema import CODEBOOK_SIZE, FRAME_RATE_HZ

logger = logging.getLogger(__name__)

PROGRESS = ".progress"
STATE = "fitter.npz"
FRAMES_PER_SONG = 256  # at least, where the song has them: one in 0.8 s of a song of 200 s
MIN_VECTORS_PER_CODE = 32  # fewer and entries are single frames rather than means of many


class SampleWorker:
    """Computes MuQ features of a song and keeps a sample of its frames in a file."""

    def __init__(self, profile: Profile, device: str, folder: Path, frames_per_song: int) -> None:
        """Load MuQ, once per process."""
        self._sampler = FeatureSampler(profile, device)
        self._sampler.setup()
        self._folder, self._frames_per_song = folder, frames_per_song

    def __call__(self, row: Row) -> Row:
        """Write one file of float16 [n, D]; only its name goes on."""
        source: SongInput = row["source"]
        summary = {"song_id": source.song_id, "unusable": "", "failed": ""}
        seed = _hash(source.song_id)
        try:
            features = attempt(lambda: self._sampler.sample(source.path, self._frames_per_song, seed=seed))
        except AudioDecodeError as error:
            return summary | {"unusable": str(error)}
        if isinstance(features, Failure):
            logger.error("%s: %s", source.song_id, features.traceback)
            return summary | {"failed": features.reason}
        with open_atomic(self._folder / _file_name(source.song_id)) as file:
            np.save(file, features.astype(np.float16), allow_pickle=False)
        return summary


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def draw_songs(songs: Sequence[SongInput], max_vectors: int, seed: int) -> list[SongInput]:
    """Return the songs whose frames are taken, sorted by song_id: all, or as many as `max_vectors` frames need."""
    count = max(1, max_vectors // FRAMES_PER_SONG)
    drawn = sorted(songs, key=lambda song: _hash(f"{seed} {song.song_id}"))[:count]
    return sorted(drawn, key=lambda song: song.song_id)


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file, zeros where there is none: features of another file are not taken up again."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _file_name(song_id: str) -> str:
    return f"{_hash(song_id):016x}.npy"


def fit(files: Sequence[Path], config: CodebookFitter.Config, epochs: int, state: Path) -> CodebookFitter:
    """Fit on the sampled features, file by file; after each epoch the state is kept, so that a stopped run goes on."""
    fitter = CodebookFitter(config)
    names = np.array([path.name for path in files])
    first_epoch = _restore(fitter, state, names)
    if first_epoch:
        logger.info("going on after epoch %d", first_epoch)
    else:
        for features in _load(files):
            fitter.add_moments(features)
        fitter.start()
    for epoch in range(first_epoch, epochs):
        for features in _load(files):
            fitter.update(features)
        fitter.finish_step()
        with open_atomic(state) as file:
            np.savez(file, allow_pickle=False, epoch=np.array(epoch + 1), files=names, **fitter.state())
        report = fitter.report()
        logger.info(
            "epoch %d of %d: %.0f %% of entries used, perplexity %.0f",
            epoch + 1,
            epochs,
            100 * report.usage,
            report.perplexity,
        )
    return fitter


def _restore(fitter: CodebookFitter, state: Path, names: NDArray[np.str_]) -> int:
    """Take up the state of a stopped fit on the same files and return its epochs; 0 where there is none.

    Songs that could not be computed then may have features now: they count from the first epoch on.
    """
    if not state.exists():
        return 0
    with np.load(state, allow_pickle=False) as saved:
        if "files" not in saved or not np.array_equal(saved["files"], names):
            return 0
        fitter.restore({name: saved[name] for name in saved.files if name not in ("epoch", "files")})
        return int(saved["epoch"])


def _load(files: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    for path in files:
        yield np.load(path, allow_pickle=False).astype(np.float32)


def sample_features(
    songs: Sequence[SongInput], folder: Path, profile: Profile, frames_per_song: int, options: RunOptions
) -> dict[str, str]:
    """Leave features of every song in `folder`, over Ray, unless they are there; return songs without, and why."""
    todo = [{"source": song} for song in songs if not (folder / _file_name(song.song_id)).exists()]
    logger.info("%d songs, up to %d frames of each; %d songs to go", len(songs), frames_per_song, len(todo))
    cluster = connect(options.device, options.max_worker_bytes)
    budget = FailureBudget(options.max_failed_rate, len(todo))
    make_worker = functools.partial(SampleWorker, profile, cluster.device, folder, frames_per_song)
    failed = {}
    pool = cluster.encoders(options.workers)
    results = stream(todo, make_worker, pool, lambda _: options.max_seconds(MAX_DURATION_S))
    for count, result in enumerate(results, 1):
        row = _after_death(result) if isinstance(result, Died) else result
        if reason := budget.count(row["song_id"], unusable=row["unusable"], failed=row["failed"]):
            failed[row["song_id"]] = reason
        if count == len(todo) or count % 20 == 0:
            logger.info("features of %d of %d songs", count, len(todo))
    return failed


def _after_death(died: Died) -> Row:
    """Return the summary of a song that its worker did not survive."""
    return {"song_id": died.row["source"].song_id, "unusable": "", "failed": died.reason}


def choose_config(files: Sequence[Path], codebook_dim: int, seed: int) -> CodebookFitter.Config:
    """Return the settings for features in files, with a warning where they are few."""
    feature_dim = np.load(files[0], mmap_mode="r", allow_pickle=False).shape[1]
    config = CodebookFitter.Config(feature_dim=feature_dim, codebook_dim=min(codebook_dim, feature_dim), seed=seed)
    num_vectors = sum(len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in files)
    wanted = MIN_VECTORS_PER_CODE * config.codebook_size
    if num_vectors < wanted:
        logger.warning(
            "%d frames for %d entries: many entries will hold one frame each; expected at least %d frames (%.1f hours)",
            *(num_vectors, config.codebook_size, wanted, wanted / FRAME_RATE_HZ / 3600),
        )
    return config


def fit_codebook(
    source: Path, out: Path, profile: Profile, arguments: argparse.Namespace, options: RunOptions
) -> dict[str, Any]:
    """Sample features of songs of `source`, fit, and save the codebook in `out`."""
    started = time.monotonic()
    songs = draw_songs(find_songs(source)[: arguments.limit], arguments.max_vectors, arguments.seed)
    profile = locate_models(profile, ("muq",))
    muq = fingerprint_model(profile.model_path("muq"), "muq")
    frames_per_song = -(-arguments.max_vectors // len(songs))
    settings = {
        "muq": muq,
        "layer": profile.muq_layer,
        "window": (profile.muq_window_s, profile.muq_margin_s),
        "frames_per_song": frames_per_song,
        "codebook_dim": arguments.codebook_dim,
        "seed": arguments.seed,
        "songs": [(song.song_id, *_stamp(song.path)) for song in songs],
    }
    folder = out / PROGRESS / hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    failed = sample_features(songs, folder, profile, frames_per_song, options)
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise InputError(f"{source}: no song gave features: {failed}")
    fitter = fit(files, choose_config(files, arguments.codebook_dim, arguments.seed), arguments.epochs, folder / STATE)
    metadata = {"muq": profile.given_name("muq"), "muq_sha256": muq, "muq_layer": profile.muq_layer}
    codebook: Codebook = fitter.codebook(metadata)
    report = codebook.measure(_load(files))
    codebook.save(out, report=report)
    shutil.rmtree(out / PROGRESS)
    return {
        "songs": len(files),
        "failed": failed,
        "report": asdict(report),
        "out": str(out),
        "wall_s": round(time.monotonic() - started, 2),
    }


def is_codebook(folder: Path) -> bool:
    """Whether a folder holds a codebook, and nothing else that a fit would replace."""
    try:
        return read_config(folder / "config.json").get("model_type") == MODEL_TYPE
    except ModelError:
        return False


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(prog="fit_codebook.py", description=__doc__)
    parser.add_argument(
        "--in", dest="source", type=Path, default=Path("raw"), help="folder or manifest of songs (default: raw/)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("codebook"), help="folder of the codebook (default: codebook/)"
    )
    add_model_flags(parser, ("muq",))
    parser.add_argument("--layer", type=int, help="hidden state of MuQ (default: the profile's)")
    parser.add_argument(
        "--codebook-dim", type=int, default=32, help="channels of a code (default: 32, as LeVo's quantiser)"
    )
    parser.add_argument(
        "--max-vectors",
        type=int,
        default=256 * CODEBOOK_SIZE,
        help="frames to fit on, over all songs (default: 4194304)",
    )
    parser.add_argument("--epochs", type=int, default=5, help="passes over the sampled frames (default: 5)")
    parser.add_argument("--limit", type=int, help="only the first N songs")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    add_run_flags(parser)
    return parser.parse_args()


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    profile = read_profile(arguments)
    if arguments.layer is not None:
        profile = replace(profile, muq_layer=arguments.layer)
    given = (arguments.codebook_dim, arguments.max_vectors, arguments.epochs, arguments.limit)
    if any(number is not None and number < 1 for number in given):
        raise InputError("--codebook-dim, --max-vectors, --epochs and --limit: expected 1 or more")
    options = read_run_options(arguments)
    out = resolve_path(arguments.out)
    require_fit(check_quickly(out, uses_gpu=options.device != "cpu"))
    owned = () if is_codebook(out) else ("*",)  # a codebook of before is replaced
    with claim_folder(out, out / PROGRESS / "lock", "fit", owned):
        return fit_codebook(resolve_path(arguments.source), out, profile, arguments, options), EXIT_FINE


if __name__ == "__main__":
    run_command(main)
