"""How fast the jobs are against what people use today; the last line is JSON with ratios, medians and spread.

clean: jobs/clean_lyrics.py on a folder of songs against a shell loop over the same songs that runs, per song, the
public command lines with the same weights:
    demucs --repo REPO -n separator -d cpu --two-stems vocals SONG
    whisperx VOCALS --model WHISPER --device cpu --compute_type int8 --no_align --output_format json
The rival writes a transcript, without word times and without a look at the lyrics; ours does all of its work. Runs are
interleaved, ours first; both read 16-bit WAV, which Demucs' command line does without ffmpeg. WhisperX calls ffmpeg;
where the machine has none, a stand-in decodes through PyAV.
lyrics: files of 2 kB of every kind read on one core; wanted: 100,000 in 60 s.
"""

import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from jobs.cluster import JobError
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, add_model_flags, read_profile, run_command
from pipeline.audio.decode import decode_audio
from pipeline.bench_lyrics import measure_lyrics
from pipeline.catalogue.inputs import SongInput, find_songs
from pipeline.cleaning.clean_song import MODELS
from pipeline.input_file import InputError
from pipeline.model_files.profiles import Profile, locate_models
from pipeline.separation.demucs_weights import load_separator

logger = logging.getLogger(__name__)

MIN_RATIO = 3.0  # of wall times
MAX_ALIGNER_SHARE = 0.05  # of the seconds that transcription takes
MAX_LYRICS_SECONDS = 60.0  # for 100,000 files
RIVAL_MODEL = "separator"
_FFMPEG = """#!{python}
# Stands in for `ffmpeg -nostdin -threads 0 -i FILE -f s16le -ac 1 -acodec pcm_s16le -ar RATE -`, as WhisperX calls it.
import sys
import av
words = sys.argv
resampler = av.AudioResampler(format="s16", layout="mono", rate=int(words[words.index("-ar") + 1]))
with av.open(words[words.index("-i") + 1]) as container:
    for frame in [*container.decode(audio=0), None]:
        for part in resampler.resample(frame):
            sys.stdout.buffer.write(part.to_ndarray().tobytes())
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """The same songs and weights for both sides."""

    source: Path
    songs: Sequence[SongInput]
    profile: Profile
    folder: Path  # scratch


def time_ours(setup: Setup, run: int) -> tuple[float, dict[str, Any]]:
    """Return the wall seconds of one cleaning run into an empty folder, and its totals."""
    command = [sys.executable, str(Path(__file__).with_name("clean_lyrics.py"))]
    command += ["--in", str(setup.source), "--out", str(setup.folder / f"clean{run}"), "--profile", setup.profile.name]
    for stage in MODELS:
        command += [f"--{stage}", getattr(setup.profile, stage)]
    # Ray's workers give way to other programs unless told otherwise; the rival's do not.
    seconds, output = _time(command, os.environ | {"RAY_worker_niceness": "0"})
    totals: dict[str, Any] = json.loads(output.splitlines()[-1])
    logger.info("run %d, ours: %.1f s for %d songs", run + 1, seconds, len(setup.songs))
    return seconds, totals


def time_rival(setup: Setup, whisper: Path, run: int) -> float:
    """Return the wall seconds of the loop over all songs."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}:{setup.folder / 'bin'}:{os.environ['PATH']}"}
    out = setup.folder / f"rival{run}"
    total_s = 0.0
    for song in setup.songs:
        separate = ["demucs", "--repo", str(setup.folder / "repo"), "-n", RIVAL_MODEL, "-d", "cpu"]
        separate += ["--two-stems", "vocals", "--filename", "{stem}.{ext}", "-o", str(out), str(song.path)]
        transcribe = ["whisperx", str(out / RIVAL_MODEL / "vocals.wav"), "--model", str(whisper), "--device", "cpu"]
        transcribe += ["--compute_type", "int8", "--no_align", "--output_format", "json", "--output_dir", str(out)]
        if setup.profile.given_name("asr").endswith(
            ".en"
        ):  # which of its languages a song has cannot be asked of such a model
            transcribe += ["--language", "en"]
        separate_s, transcribe_s = (_time(command, environment)[0] for command in (separate, transcribe))
        logger.info("run %d, rival: %s %.1f + %.1f s", run + 1, song.song_id, separate_s, transcribe_s)
        total_s += separate_s + transcribe_s
    return total_s


def _time(command: Sequence[str], environment: dict[str, str]) -> tuple[float, str]:
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise JobError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return seconds, done.stdout


def prepare(source: Path, profile: Profile, folder: Path, limit: int | None) -> Setup:
    """Lay out songs and the rival's separator in a scratch folder; only songs that ours would listen to."""
    import torch

    songs = [song for song in find_songs(source) if song.lyrics_path and not song.problem][:limit]
    if not songs:
        raise InputError(f"{source}: no song with lyrics, nothing to compare")
    raw = folder / "raw"
    for number, song in enumerate(songs):
        target = raw / f"{number:03d}"
        target.mkdir(parents=True)
        decoded = decode_audio(song.path)
        soundfile.write(target / f"{song.path.stem}.wav", decoded.samples.T, decoded.sample_rate)
        assert song.lyrics_path is not None
        shutil.copy(song.lyrics_path, target / song.lyrics_path.name)
    model = load_separator(profile.model_path("separator"))
    args, kwargs = model._init_args_kwargs
    (folder / "repo").mkdir()
    package = {"klass": type(model), "args": args, "kwargs": kwargs, "state": model.state_dict()}
    torch.save(package, folder / "repo" / f"{RIVAL_MODEL}.th")  # the format that Demucs' command line reads
    if not shutil.which("ffmpeg"):
        (folder / "bin").mkdir()
        (folder / "bin" / "ffmpeg").write_text(_FFMPEG.format(python=sys.executable))
        (folder / "bin" / "ffmpeg").chmod(0o755)
    return Setup(raw, find_songs(raw), profile, folder)


def compare_clean(source: Path, profile: Profile, limit: int | None, repeats: int) -> dict[str, Any]:
    """Time both sides `repeats` times in turn and return the figures."""
    profile = locate_models(profile, MODELS)
    whisper = profile.model_path("asr")
    with tempfile.TemporaryDirectory() as name:
        setup = prepare(source, profile, Path(name), limit)
        ours, rival = [], []
        for run in range(repeats):
            seconds, totals = time_ours(setup, run)
            ours.append(seconds)
            rival.append(time_rival(setup, whisper, run))
    stages = totals["seconds_per_stage"]
    return {
        "songs": len(setup.songs),
        "audio_s": round(totals["audio_hours"] * 3600, 1),
        "ours_s": _spread(ours),
        "rival_s": _spread(rival),
        "ratio": round(statistics.median(rival) / statistics.median(ours), 2),
        "aligner_share": round(stages["align_lyrics"] / stages["transcribe_vocals"], 3),
        "seconds_per_stage": stages,
        "rival": "per song: demucs (two stems), then whisperx (int8, no alignment)",
        "ffmpeg": "of the machine" if shutil.which("ffmpeg") else "stand-in through PyAV",
        "cpus": os.cpu_count(),
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 2),
        "min": round(min(seconds), 2),
        "max": round(max(seconds), 2),
    }


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    parser = CommandParser(prog="bench.py", description=__doc__)
    parser.add_argument("what", choices=["clean", "lyrics"])
    default = Path(__file__).with_name("demo_songs")
    parser.add_argument(
        "--in", dest="source", type=Path, default=default, help="folder of songs (default: the bundled ones)"
    )
    add_model_flags(parser, ("separator", "asr", "verifier"))
    parser.set_defaults(profile=os.environ.get("SONGBLOOM_PROFILE", "miniature"))
    parser.add_argument("--limit", type=int, help="only the first N songs with lyrics")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--files", type=int, default=5_000, help="of lyrics (default: 5000)")
    arguments = parser.parse_args()
    if arguments.what == "lyrics":
        read = measure_lyrics(max(arguments.files, 1))
        return read, EXIT_FINE if read["seconds_per_100000_files"] <= MAX_LYRICS_SECONDS else EXIT_SHORT
    figures = compare_clean(arguments.source, read_profile(arguments), arguments.limit, max(arguments.repeats, 1))
    is_fine = figures["ratio"] >= MIN_RATIO and figures["aligner_share"] <= MAX_ALIGNER_SHARE
    return figures, EXIT_FINE if is_fine else EXIT_SHORT


if __name__ == "__main__":
    run_command(main)
