"""The columns of a manifest: which there are, and what is said of others."""

import difflib
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.input_file import InputError

logger = logging.getLogger(__name__)

MANIFEST_COLUMNS = ("audio", "lyrics", "lyrics_path", "song_id", "language", "title", "artist")

_ALIASES = {  # without what is no letter
    "audiopath": "audio",
    "audiofile": "audio",
    "lyricstext": "lyrics",
    "lyricsfile": "lyrics_path",
    "lyricpath": "lyrics_path",
    "lang": "language",
}
_MIN_LIKENESS = 0.8  # lyric, langauge, artists; lyrics_source and title_sort are other columns


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def check_columns(where: str, names: Sequence[str]) -> list[str]:
    """Return the columns that are not read.

    Raises:
        InputError: `audio` is missing, a column stands there twice, or an unknown one looks like one that is missing.
    """
    for name in MANIFEST_COLUMNS:
        if names.count(name) > 1:
            raise InputError(f"{where}: column {name!r} stands there twice; take one of them out")
    absent = tuple(name for name in MANIFEST_COLUMNS if name not in names)
    unknown = [name for name in names if name not in MANIFEST_COLUMNS]
    for name in unknown:
        if meant := _meant_column(name, absent):
            raise InputError(f"{where}: column {name[:80]!r} is not known; did you mean {meant!r}?")
    if "audio" in absent:
        found = ", ".join(name[:80] for name in names[:20]) or "none"
        raise InputError(
            f"{where}: no 'audio' among the columns ({found}); a manifest has {', '.join(MANIFEST_COLUMNS)}"
        )
    return unknown


@functools.lru_cache(maxsize=1_024)  # JSON says its columns anew in every row
def _meant_column(name: str, absent: tuple[str, ...]) -> str:
    letters = re.sub("[^a-z]", "", name.lower())
    if _ALIASES.get(letters) in absent:
        return _ALIASES[letters]
    plain = {column.replace("_", ""): column for column in absent}
    near = difflib.get_close_matches(letters, plain, 1, _MIN_LIKENESS)
    return plain[near[0]] if near else ""


def log_unread(path: Path, names: Sequence[str]) -> None:
    """Say which columns are not read."""
    if named := sorted({name for name in names if name}):  # spreadsheets leave columns without a name
        logger.warning("%s: columns that are not read: %s", path, ", ".join(named))
