"""How the jobs run: workers, device, and how much a song may cost. Nothing here decides what comes out for a song."""

import argparse
from dataclasses import dataclass

from jobs.cluster import Device
from jobs.command import CommandParser
from jobs.failures import MAX_FAILED_IN_ROW
from pipeline.input_file import InputError

# A song may take ten minutes and thirty times its length unless a flag says otherwise: Whisper large-v3 and wav2vec 2.0
# on one core take about five times the length, a GPU a twentieth. What takes longer hangs.
BASE_SECONDS, SECONDS_PER_SECOND = 600.0, 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a user may set for a run."""

    workers: int | None = None
    device: Device = "auto"
    max_failed_rate: float = 0.05
    max_seconds_per_song: float | None = None
    max_worker_bytes: int | None = None

    def max_seconds(self, duration_s: float) -> float:
        """Return how long a song of this length may take."""
        return self.max_seconds_per_song or BASE_SECONDS + SECONDS_PER_SECOND * duration_s


def add_run_flags(parser: CommandParser) -> None:
    """Add the flags that `read_run_options` reads."""
    group = parser.add_argument_group("how the job runs")
    group.add_argument("--workers", type=int, help="workers with models (default: two per GPU, else one per core)")
    group.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="auto: the GPUs if there are any, and an error if one is there that cannot be used (default: auto)",
    )
    group.add_argument(
        "--max-failed-rate",
        type=float,
        default=0.05,
        help="songs that fail for no fault of their own, as for want of memory, are recorded and tried again by the "
        f"next run; more than this share, or {MAX_FAILED_IN_ROW} in a row, stop the job (default: 0.05)",
    )
    group.add_argument(
        "--max-seconds-per-song",
        type=float,
        help=f"a song that takes longer fails (default: {BASE_SECONDS:.0f} and {SECONDS_PER_SECOND:.0f} times its "
        "length)",
    )
    group.add_argument(
        "--max-worker-memory",
        type=float,
        metavar="GB",
        help="a worker that holds more main memory ends, and its song fails after three tries (default: Ray's own "
        "watch, which ends workers where a node's memory is nearly full)",
    )


def read_run_options(arguments: argparse.Namespace) -> RunOptions:
    """Return the options of a command line.

    Raises:
        InputError: a number that makes no sense.
    """
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: expected 1 or more")
    if not 0 <= arguments.max_failed_rate <= 1:
        raise InputError(f"--max-failed-rate {arguments.max_failed_rate}: expected a share, 0 to 1")
    for name in ("max_seconds_per_song", "max_worker_memory"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value}: expected more than 0")
    memory = arguments.max_worker_memory
    return RunOptions(
        workers=arguments.workers,
        device=arguments.device,
        max_failed_rate=arguments.max_failed_rate,
        max_seconds_per_song=arguments.max_seconds_per_song,
        max_worker_bytes=None if memory is None else int(memory * 1e9),
    )
