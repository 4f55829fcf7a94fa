"""The contract of a stage: weights load once per worker, and every song that leaves has a reason."""

import time
from abc import ABC, abstractmethod
from typing import ClassVar

from pipeline.song import Drop, Song


class StageError(RuntimeError):
    """A stage that failed for a reason of its own, not the song's: the job stops."""


class Stage(ABC):
    """One step of the pipeline. Its docstring says what it reads, adds and drops.

    Subclasses are cheap to construct and to send to another process; models load in `setup()`, once per worker.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # raise when the same input gives different output: finished songs are then done again

    def setup(self) -> None:  # noqa: B027 - a stage without weights has nothing to set up
        """Load what `process` needs; called once in the process that will run the stage."""

    @abstractmethod
    def process(self, song: Song) -> Song | Drop:
        """Return the song with the stage's fields filled in, or the reason why it leaves the pipeline."""


def run_stages(stages: list[Stage], song: Song, seconds: dict[str, float] | None = None) -> Song | Drop:
    """Pass one song through stages that are set up, in order, until one drops it.

    `seconds`, where given, gets the wall time of every stage that ran, by name.
    """
    for stage in stages:
        started = time.monotonic()
        result = stage.process(song)
        if seconds is not None:
            seconds[stage.name] = time.monotonic() - started
        if isinstance(result, Drop):
            return result
        song = result
    return song
