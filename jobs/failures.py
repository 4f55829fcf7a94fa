"""Songs that could not be computed: told apart from bad files, and so few that no fault of a machine goes unseen.

Four things go wrong, with four ends. A file without usable audio (`AudioDecodeError`) is quarantined. A model that
cannot be used (`ModelError`, `StageError`) stops the job, and so does a result that cannot be written (`OSError`, as
nothing is written within `attempt`). Whatever else one song raises, such as running out of memory, makes it `failed`:
recorded with its reason, and tried again by the next run.
"""

import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jobs.cluster import JobError
from pipeline.audio.decode import AudioDecodeError
from pipeline.model_files.errors import ModelError
from pipeline.stage import StageError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_FAILED_IN_ROW = 10  # so many one after the other are no chance: a machine is broken, or this program is
# What CUDA and CTranslate2 say when a process has lost its GPU: every later call of that process would fail as well.
_DEVICE_LOST = ("CUDA error", "CUDA failed with error", "cuBLAS failed", "CUDNN_STATUS_EXECUTION_FAILED")
_EXIT_DEVICE_LOST = 70


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a song could not be computed: one line, and where in the program it happened."""

    reason: str
    traceback: str = ""


def attempt(work: Callable[[], Result]) -> Result | Failure:
    """Return what one song's work returns, or why it could not be done.

    Raises:
        AudioDecodeError: the song's own fault.
        ModelError, StageError: a model's fault; the job has to stop.
    """
    try:
        return work()
    except (AudioDecodeError, ModelError, StageError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a library raises over one song must not end the others
        details = traceback.format_exc()
        if _lost_device(error):
            logger.error("the GPU of this process no longer answers, it ends: %s", error)
            os._exit(_EXIT_DEVICE_LOST)  # the song is tried again in a new process, and is failed in the end
        return Failure(f"{type(error).__name__}: {_first_line(error)}", details)


def _lost_device(error: Exception) -> bool:
    if not isinstance(error, RuntimeError) or "out of memory" in str(error):
        return False
    return any(part in str(error) for part in _DEVICE_LOST)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


class FailureBudget:
    """Stops a job in which too many songs fail; a few are written down and tried again by the next run.

    Args:
        max_rate: share of the songs that may fail, 0 to 1. Up to `MAX_FAILED_IN_ROW` never stop a job in its middle.
        num_songs: that the job has to compute.
    """

    def __init__(self, max_rate: float, num_songs: int) -> None:
        """Nothing has failed yet."""
        self._max_failed = max(MAX_FAILED_IN_ROW, int(max_rate * num_songs))
        self._num_songs = num_songs
        self._in_row = 0
        self.reasons: dict[str, str] = {}  # of failed songs by song_id

    def count(self, song_id: str, *, unusable: str, failed: str) -> str:
        """Count one song of a job that leaves songs out, and return why it is left out; "" if it is not.

        Args:
            song_id: of the song.
            unusable: what is wrong with the song itself.
            failed: why it could not be computed here.

        Raises:
            JobError: too many failed.
        """
        if reason := unusable or failed:
            logger.warning("left out: %s: %s", song_id, reason)
        if failed:
            self.add_failure(song_id, failed)
        else:
            self.add_success()
        return reason

    def add_success(self) -> None:
        """Count a song that was computed, whatever its verdict."""
        self._in_row = 0

    def add_failure(self, song_id: str, reason: str) -> None:
        """Count a song that failed.

        Raises:
            JobError: too many did.
        """
        self.reasons[song_id] = reason
        self._in_row += 1
        logger.warning("failed: %s: %s", song_id, reason)
        is_row = self._in_row >= MAX_FAILED_IN_ROW
        if is_row or len(self.reasons) > self._max_failed:
            what = f"{self._in_row} in a row" if is_row else "more than --max-failed-rate allows"
            raise JobError(
                f"{len(self.reasons)} of {self._num_songs} songs failed ({what}), the last one {song_id!r}: {reason}. "
                "That is no fault of the songs: look at the machine (`python jobs/doctor.py`) and run the same command "
                "again; finished songs are kept, failed ones are tried again after all others"
            )
