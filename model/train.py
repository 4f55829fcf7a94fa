"""Train a song model: `deepspeed model/train.py --config full.yaml`, or with torchrun, or with plain python.

The last line on stdout is one JSON object. Exit code 0: trained; 1: stopped by a loss that is not finite, or a rank has
ended or hangs; 2: wrong use; 75: asked to leave by SIGTERM or SIGUSR1, and saved: start it again.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

EXIT_AGAIN = os.EX_TEMPFAIL  # 75, sysexits.h: "temporary failure, the user is invited to retry"
LEAVE_ON = (signal.SIGTERM, signal.SIGUSR1)
NUM_GPUS = 16  # that a dry run reckons with, as the paper's
SPEAK_FIRST_S = 5.0  # launchers end all ranks when the first one ends: leave it the time to say why


class _Parser(argparse.ArgumentParser):
    """Ends wrong use with one line."""

    def error(self, message: str) -> NoReturn:
        _quit(2, f"{message} (--help lists the flags)")


def _quit(code: int, message: str, *, is_shared: bool = True) -> NoReturn:
    """End with one line; one that all ranks know is said by the first of each machine."""
    if is_shared and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(SPEAK_FIRST_S)
    else:
        sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {message}\n")
    raise SystemExit(code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--config", required=True, metavar="YAML", help="a path, else a file of model/configs/")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override, such as optimizer.lr=1e-4")
    add("--data", metavar="FOLDER", help="dataset: the same as --set data.root=FOLDER")
    add("--out", metavar="FOLDER", help="run folder: the same as --set checkpoint.folder=FOLDER")
    add("--max-steps", type=int, metavar="N", help="stop after step N at the latest; the schedule does not change")
    resume = "go on from the newest checkpoint of the run folder; --no-resume wants a folder without one"
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help=resume)
    device = "auto (the default) takes a GPU where there is one, and ends where there is one that cannot be used"
    add("--device", choices=("auto", "cuda", "cpu"), default="auto", help=device)
    add("--dry-run", action="store_true", help="check the configuration, print sizes and what to expect, and end")
    gpus = "GPUs that --dry-run reckons with (default: as many as ranks were started, else 16)"
    add("--world-size", type=int, metavar="N", help=gpus)
    add("--profile", action="store_true", help="record steps 3 and 4 with PyTorch's profiler, in <run folder>/profile")
    add("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    options = parser.parse_args(arguments)
    for flag, number in (("--max-steps", options.max_steps), ("--world-size", options.world_size)):
        if number is not None and number < 1:
            parser.error(f"{flag} is {number}, expected at least 1")
    if options.world_size is not None and not options.dry_run:
        parser.error("--world-size is for --dry-run alone; a run has as many ranks as its launcher starts")
    for key, value in (("data.root", options.data), ("checkpoint.folder", options.out)):
        if value is not None:
            options.set.append(f"{key}={json.dumps(value)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parse(arguments)
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s", stream=sys.stderr)
    # Read once, when PyTorch loads, hence the imports below: threads that wait must not spin, which is ten times
    # slower as soon as two processes share the cores of a CPU run.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from model.network.config import ConfigError
    from model.network.song_batch import BatchError
    from model.settings.settings import load_config
    from model.training.peers import PeerWatch, Whereabouts
    from model.training.progress import describe_sizes
    from model.training.ranks import Ranks, choose_rank_device, count_local_ranks
    from model.training.roofline import describe_run
    from model.training.step_sums import BadStepError
    from model.training.trainer import join_ranks, leave_ranks
    from model.training.training_run import PeerError, TrainingRun
    from model.weights.checkpoint import CheckpointError
    from model.weights.reference_weights import WeightsError
    from shards.schema import ShardError

    user_errors = (ConfigError, ShardError, BatchError, CheckpointError, WeightsError, OSError)
    try:
        config = load_config(options.config, options.set)
    except user_errors as error:
        _quit(2, str(error))
    if options.dry_run:
        if is_main:
            world_size = options.world_size or int(os.environ.get("WORLD_SIZE", NUM_GPUS))
            try:
                sys.stdout.write(describe_sizes(config) + describe_run(config, world_size))
            except ConfigError as error:  # of what only the model's parameters show
                _quit(2, str(error))
        return
    try:
        device = choose_rank_device(options.device).type
    except ConfigError as error:
        _quit(2, str(error), is_shared=count_local_ranks() is not None)
    failure: BadStepError | None = None
    whereabouts, is_asked_to_leave = Whereabouts(), threading.Event()
    with ExitStack() as stack:

        def join() -> Ranks:
            ranks = join_ranks(device)
            _keep_warnings(Path(config.checkpoint.folder), ranks.rank)
            stack.enter_context(PeerWatch(ranks, whereabouts, config.trainer.rank_timeout_s))
            return ranks

        try:
            run = TrainingRun(
                config,
                join,
                max_steps=options.max_steps,
                resume=options.resume,
                profile=options.profile,
                is_asked_to_leave=is_asked_to_leave.is_set,
                whereabouts=whereabouts,
            )
        except user_errors as error:
            _quit(2, str(error))
        for number in LEAVE_ON:
            signal.signal(number, lambda *_: is_asked_to_leave.set())
        try:
            summary = run.run()
        except user_errors as error:
            _quit(2, f"rank {run.ranks.rank}: {error}", is_shared=False)
        except BadStepError as error:
            failure = error  # known to all ranks: they say good-bye to each other
        except PeerError:
            time.sleep(SPEAK_FIRST_S)
            raise SystemExit(2) from None
        except RuntimeError:  # most likely of a collective, because another rank is gone: the watch says which
            time.sleep(SPEAK_FIRST_S)
            raise
        leave_ranks()
    if failure is not None:
        _quit(1, str(failure))
    if is_main:
        sys.stdout.write(json.dumps(asdict(summary)) + "\n")
        sys.stdout.flush()
    if not summary.is_finished:
        _quit(EXIT_AGAIN, f"asked to leave at step {summary.steps}; start it again to go on")


def _keep_warnings(folder: Path, rank: int) -> None:
    """Write this rank's warnings to a file too: the terminal shows those of rank 0 alone."""
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"run folder {folder} cannot be made: {error.strerror}") from error
    handler = logging.FileHandler(folder / "logs" / f"rank_{rank}.log", delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


if __name__ == "__main__":
    main()
