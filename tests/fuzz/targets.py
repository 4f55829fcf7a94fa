"""What is fuzzed: every parser of the project that reads bytes of somebody else, with its documented errors.

Anything else that leaves a parser is a fault, and so is an input that takes `MAX_SECONDS`, or a process that grows
beyond `MAX_MEMORY_BYTES`. The most hostile files come first: those that are fetched from others as data sets or models.
"""

from .target import MAX_MEMORY_BYTES, MAX_SECONDS, Target
from .targets_configs import CONFIG_TARGETS
from .targets_files import FILE_TARGETS
from .targets_songs import SONG_TARGETS

__all__ = ["MAX_MEMORY_BYTES", "MAX_SECONDS", "TARGETS", "Target"]

TARGETS = {target.name: target for target in (*FILE_TARGETS, *CONFIG_TARGETS, *SONG_TARGETS)}
