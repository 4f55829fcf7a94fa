"""What all commands share: logging, exit codes, one JSON object as the last line."""

import argparse
import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from jobs.cluster import JobError, leave
from model.network.config import ConfigError
from pipeline.input_file import InputError
from pipeline.lyrics.encoding import LyricsError
from pipeline.lyrics.language_names import UnknownLanguageError, language_code
from pipeline.model_files.errors import ModelError
from pipeline.model_files.profiles import PROFILES, Profile, ProfileError, get_profile
from pipeline.model_files.stage_files import STAGES
from shards.schema import ShardError

EXIT_FINE, EXIT_SHORT, EXIT_WRONG_USE = 0, 1, 2

# What a user can mend: one line, no traceback.
_USE_ERRORS = (InputError, LyricsError, ModelError, ProfileError, ShardError, ConfigError)


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


def add_model_flags(parser: CommandParser, stages: Sequence[str]) -> None:
    """Add --profile, and one flag per model of it."""
    parser.add_argument(
        "--profile",
        default=os.environ.get("SONGBLOOM_PROFILE", "full"),
        help=f"models and settings: {' or '.join(sorted(PROFILES))} (default: $SONGBLOOM_PROFILE, else full)",
    )
    for stage in stages:
        extra = "`whisper` (none but the verifier), `wav2vec2` (by language), " if stage == "aligner" else ""
        parser.add_argument(
            f"--{stage}", metavar="MODEL", help=f"another {stage}: {extra}a local path, a hub id or `miniature`"
        )


def read_language(name: str, flag: str = "--language") -> str:
    """Return the ISO 639-1 code of a language as people write it ("English", "pt_BR"); "auto" where none is said.

    Raises:
        InputError: no such language.
    """
    try:
        return language_code(name) or "auto"
    except UnknownLanguageError as error:
        raise InputError(f"{flag}: {error}") from error


def read_profile(arguments: argparse.Namespace) -> Profile:
    """Return the profile of a command line, with the models that it names."""
    profile = get_profile(arguments.profile)
    named = {stage: getattr(arguments, stage, None) for stage in STAGES}
    return replace(profile, **{stage: name for stage, name in named.items() if name})


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text that stays on its line of a terminal: names of files may hold line ends and escape codes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


class _LogFormatter(logging.Formatter):
    """One line for every message; only tracebacks have more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message as it may be printed."""
        record.message = printable(record.message)
        return super().formatMessage(record)


def run_command(main: Callable[[], tuple[dict[str, Any], int]]) -> NoReturn:
    """Run a command and exit: `main` returns its totals, printed as the last line, and the exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("whisperx", "lightning", "lightning.pytorch", "pytorch_lightning", "py.warnings", "ray", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        totals, code = main()
    except _USE_ERRORS as error:
        sys.exit(_fail(str(error), EXIT_WRONG_USE))
    except OSError as error:  # a full disk, a folder that cannot be written
        sys.exit(_fail(f"{error.filename or 'disk'}: {error.strerror or error}", EXIT_SHORT))
    except JobError as error:
        sys.exit(_fail(str(error), EXIT_SHORT))
    except (MemoryError, RuntimeError) as error:  # Arrow's and PyAV's are MemoryErrors, PyTorch's is none
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        told = next(iter(str(error).splitlines()), "") or "nothing more is known"
        sys.exit(_fail(f"no memory left: {told}; free some, or raise this process's limit (ulimit -v)", EXIT_SHORT))
    finally:
        leave()
    sys.stdout.write(json.dumps(totals, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {printable(message)}\n")
    return code
