"""Songs as a manifest (.jsonl, .csv, .parquet) names them, read strictly: nothing is left out in silence."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.catalogue.manifest_columns import MANIFEST_COLUMNS, first_line
from pipeline.catalogue.manifest_parquet import read_parquet_rows
from pipeline.catalogue.manifest_text import read_csv_rows, read_json_rows
from pipeline.input_file import InputError

MAX_LYRICS_CELL_BYTES = 1_000_000  # as lyrics_encoding.MAX_LYRICS_BYTES; a longer one is that song's problem alone
# How pandas, SQL and Python write that there is no value.
_MISSING = frozenset({"", "nan", "NaN", "NAN", "None", "none", "null", "NULL", "Null", "<NA>", "\\N"})
_MAX_MISSING_CHARS = 80  # with the blanks around it
_READERS = {".jsonl": read_json_rows, ".csv": read_csv_rows, ".parquet": read_parquet_rows}
MANIFEST_SUFFIXES = tuple(_READERS)


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One song as a manifest names it: columns that say something, as text."""

    where: str  # file and row, for errors
    values: dict[str, str]
    problem: str = ""  # why this song cannot be used; the others can


def read_manifest(path: Path) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest.

    Raises:
        InputError: it cannot be read, a column is misspelt or stands there twice, or a row is not as its columns say.
    """
    try:
        for where, cells in _READERS[path.suffix.lower()](path):
            yield _checked_row(where, cells)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from error


def _checked_row(where: str, cells: dict[str, Any]) -> ManifestRow:
    values, problem = {}, ""
    for name in MANIFEST_COLUMNS:
        value = cells.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f"{where}: {name!r} is a {type(value).__name__}, expected text")
        text = str(value)
        if len(text) < _MAX_MISSING_CHARS and text.strip() in _MISSING:
            continue
        data = text.encode("utf-8", "replace")  # half an emoji cannot be written to any output
        if name == "lyrics" and len(data) > MAX_LYRICS_CELL_BYTES:
            problem = f"{where}: lyrics of {len(data)} bytes, expected at most {MAX_LYRICS_CELL_BYTES}"
            continue
        values[name] = data.decode()
    if "audio" not in values:
        raise InputError(f"{where}: no 'audio'; every row names an audio file")
    return ManifestRow(where, values, problem)
