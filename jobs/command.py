"""What all commands share: logging, exit codes, one JSON object as the last line."""

import argparse
import difflib
import json
import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jobs.cluster import JobError
from model.config import ConfigError
from pipeline.inputs import InputError
from pipeline.lyrics_encoding import LyricsError
from pipeline.models import ModelFileError, ModelNotFoundError
from pipeline.profiles import ProfileError
from shards.schema import ShardError

EXIT_FINE, EXIT_SHORT, EXIT_WRONG_USE = 0, 1, 2

# What a user can mend: one line, no traceback.
_USE_ERRORS = (InputError, LyricsError, ModelNotFoundError, ModelFileError, ProfileError, ShardError, ConfigError)


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with the nearest flag for one that does not exist."""

    def __init__(self, *, prog: str, description: str | None, epilog: str | None = None) -> None:
        """Keep the layout of the texts."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; {self.prog} --help lists what there is"
        sys.exit(_fail(f"{self.prog}: {message}{hint if message.startswith('unrecognized') else ''}", EXIT_WRONG_USE))


def run_command(main: Callable[[], tuple[dict[str, Any], int]]) -> NoReturn:
    """Run a command and exit: `main` returns its totals, printed as the last line, and the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("whisperx", "lightning", "lightning.pytorch", "pytorch_lightning", "py.warnings", "ray", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        totals, code = main()
    except _USE_ERRORS as error:
        sys.exit(_fail(str(error), EXIT_WRONG_USE))
    except JobError as error:
        sys.exit(_fail(str(error), EXIT_SHORT))
    sys.stdout.write(json.dumps(totals, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
