"""Rows of a manifest that is text: CSV as RFC 4180 has it, and JSON with one object a line."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.audio.file import AUDIO_SUFFIXES
from pipeline.catalogue.manifest_columns import check_columns, first_line, log_unread
from pipeline.input_file import InputError

MAX_ROW_CHARS = 16 << 20  # of a CSV field or a JSON line: beyond it something is wrong with the whole file
_DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # Excel's own way to name the delimiter
_UNDECODED = re.compile("[\udc80-\udcff]")  # as Python shows bytes that are not UTF-8
_LINE_BREAK = re.compile("\r\n|[\r\n]")
_AUDIO_NAME_END = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(AUDIO_SUFFIXES)))})\s*(.)", re.IGNORECASE)


@contextmanager
def _text_lines(path: Path) -> Iterator[Iterator[str]]:
    """Yield the lines of a text file, with their ends; UTF-8, or UTF-16 with a byte order mark (Excel's)."""
    with path.open("rb") as raw:
        is_wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        raw.seek(0)
        encoding = "utf-16" if is_wide else "utf-8-sig"
        yield _lines(path, io.TextIOWrapper(raw, encoding, errors="surrogateescape", newline=""))


def _lines(path: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    try:
        while line := stream.readline(MAX_ROW_CHARS + 1):
            number += 1
            if len(line) > MAX_ROW_CHARS:
                raise InputError(f"{path}: line {number} has more than {MAX_ROW_CHARS} characters; is it text at all?")
            if _UNDECODED.search(line):
                raise InputError(f"{path}: line {number} is not UTF-8; save the file as UTF-8 (in Excel: CSV UTF-8)")
            yield line
    except UnicodeError as error:
        raise InputError(f"{path}: line {number + 1}: {first_line(error)}; save the file as UTF-8") from error


def read_json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield file and row, for errors, and the object of every line that is not blank.

    Raises:
        InputError: a line is no UTF-8 or no JSON object, or its keys are misspelt or stand there twice.
    """
    unread: set[str] = set()
    row = 0
    with _text_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row += 1
            where = f"{path}: row {row}" + (f" (line {number})" if number != row else "")
            try:
                cells = json.loads(line, object_pairs_hook=_unique_keys)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: cannot be read as JSON, one object a line: {first_line(error)}") from error
            if not isinstance(cells, dict):
                raise InputError(f'{where} is {type(cells).__name__}, expected an object such as {{"audio": "a.mp3"}}')
            unread.update(check_columns(where, list(cells)))
            yield where, cells
    log_unread(path, sorted(unread))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; of a key that stands there twice JSON would keep the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"key {names.most_common(1)[0][0][:80]!r} stands there twice")
    return found


class _RowLines:
    """Passes lines on to the CSV reader and keeps those of the row in progress."""

    def __init__(self, lines: Iterator[str]) -> None:
        """Nothing has been read yet."""
        self._lines = lines
        self.row: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        """Yield the lines."""
        for line in self._lines:
            self.number += 1
            self.row.append(line)
            yield line


def read_csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield file and row, for errors, and the cells of every row by their columns.

    The delimiter is the comma, or what a first line `sep=;` or the header says (semicolon, tab, bar).

    Raises:
        InputError: no UTF-8, a row with more or fewer fields than the header, or quotes that do not match.
    """
    with _text_lines(path) as text, _field_limit(MAX_ROW_CHARS):
        lines = _RowLines(text)
        first = next(iter(lines), "")
        if named := _SEPARATOR_LINE.fullmatch(first):
            delimiter, first = named[1], next(iter(lines), "")
        else:
            delimiter = next((mark for mark in _DELIMITERS if "audio" in _split(first, mark)), ",")
        header = _split(first, delimiter)
        log_unread(path, check_columns(str(path), header))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        row = 0
        while True:
            lines.row, start = [], lines.number + 1
            where = f"{path}: row {row + 1} (line {start})"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(f"{where}, {_explain(error, ''.join(lines.row), header, delimiter)}") from error
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):  # spreadsheets leave empty rows behind
                continue
            row += 1
            _check_cells(where, cells, header, delimiter, "".join(lines.row))
            yield where, dict(zip(header, cells, strict=True))


def _split(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]


@contextmanager
def _field_limit(num_chars: int) -> Iterator[None]:
    before = csv.field_size_limit(num_chars)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_cells(where: str, cells: list[str], header: list[str], delimiter: str, text: str) -> None:
    """Raise InputError where a row can be read in more than one way."""
    if len(cells) != len(header):
        what = repr(delimiter) if len(cells) > len(header) else "line breaks"
        count = f"{len(cells)} field{'s' * (len(cells) > 1)}, expected {len(header)} ({', '.join(header)})"
        raise InputError(f"{where} has {count}; put quotes around text with {what} in it")
    if '\\"' in text:
        raise InputError(f'{where}: \\" is no quote in CSV; write "" for a quote within quotes')
    for name, cell in zip(header, cells, strict=True):
        if ("\n" not in cell and "\r" not in cell) or not _AUDIO_NAME_END.search(cell):
            continue
        for line in _LINE_BREAK.split(cell)[1:]:
            found = _AUDIO_NAME_END.search(line)
            if not found or found[1] != delimiter:
                continue
            is_first_field = header[0] == "audio" and not {delimiter, '"'} & {*line[: found.start()]}
            if is_first_field or line.count(delimiter) == len(header) - 1:
                raise InputError(
                    f"{where}, column {name!r} holds what looks like a row of its own ({line[:30]!r}); is a quote "
                    "left open?"
                )


def _explain(error: csv.Error, text: str, header: list[str], delimiter: str) -> str:
    """Return which column of a row the CSV reader stumbled in, and why."""
    column, is_open = _fault_column(text, delimiter)
    name = f"column {header[column]!r}" if column < len(header) else f"field {column + 1}"
    if is_open:
        return f"{name}: a quote is opened and not closed before the end of the file ({first_line(error)})"
    return f'{name}: text behind a closing quote; write "" for a quote within quotes ({first_line(error)})'


def _fault_column(text: str, delimiter: str) -> tuple[int, bool]:
    """Return the index of the field that is no CSV, and whether its quote is still open at the end."""
    column, state = 0, "start"
    for char in text:
        if state == "quoted":
            state = "closed" if char == '"' else state
        elif char == delimiter:
            column, state = column + 1, "start"
        elif char == '"' and state in ("start", "closed"):
            state = "quoted"
        elif state == "closed" and char not in "\r\n":
            return column, False
        elif state == "start":
            state = "plain"
    return column, state == "quoted"
