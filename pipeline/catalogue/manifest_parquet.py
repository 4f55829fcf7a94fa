"""Rows of a manifest in Parquet, by batches; a small file that becomes gigabytes is refused before memory is taken.

Sizes stand in the file's footer and again in the header of every page; both are looked at, since a footer may lie.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalogue.manifest_columns import MANIFEST_COLUMNS, check_columns, first_line, log_unread
from pipeline.catalogue.parquet_layout import Chunk, read_chunks, read_page
from pipeline.input_file import InputError

MAX_ROWS = 5_000_000  # they take about 3 GB as Python objects; a larger catalogue is several manifests
# Names that count upwards take 2 bytes a row as zstd packs them; what takes less than a quarter names no songs.
MAX_ROWS_PER_BYTE, MIN_ROWS = 4, 10_000
MAX_TEXT_BYTES = 4 << 30
MAX_PAGE_BYTES = 256 << 20  # most writers fill pages to about 1 MiB, DuckDB to 100 MB
# Above 256 MiB text may not be more than 1000 times the file. Lyrics, packed, are a half to a quarter of their length.
MAX_EXPANSION, MIN_BOMB_BYTES = 1_000, 256 << 20
_BATCH_ROWS = 256


def read_parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield file and row, for errors, and the known columns of each row as Python objects.

    Raises:
        InputError: no Parquet, columns of another kind than text, or far more text than such a file can hold.
    """
    try:
        with path.open("rb") as file:
            yield from _read_rows(path, file)
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as Parquet: {first_line(error)}") from error


def _read_rows(path: Path, file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    num_file_bytes = path.stat().st_size
    metadata = pq.read_metadata(file)
    schema = metadata.schema.to_arrow_schema()
    log_unread(path, check_columns(str(path), schema.names))
    columns = [name for name in MANIFEST_COLUMNS if name in schema.names]
    for name in columns:
        _check_type(path, name, schema.field(name).type)
    max_rows = min(MAX_ROWS, max(MIN_ROWS, MAX_ROWS_PER_BYTE * num_file_bytes))
    if metadata.num_rows > max_rows:
        raise InputError(
            f"{path}: {metadata.num_rows} rows in {num_file_bytes} bytes, expected at most {max_rows}; split a larger "
            "catalogue into several files"
        )
    chunks = [chunk for chunk in read_chunks(file) if chunk.column in columns]
    _check_text(path, sum(chunk.num_bytes for chunk in chunks), num_file_bytes)
    _check_text(path, _check_pages(path, file, chunks), num_file_bytes)
    texts = [name for name in columns if not pa.types.is_dictionary(schema.field(name).type)]
    table = pq.ParquetFile(file, read_dictionary=texts, pre_buffer=False, buffer_size=1 << 20)
    number = num_text_bytes = 0
    for batch in table.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
        try:
            values = [_to_objects(batch.column(name)) for name in columns]
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: rows {number + 1} to {number + len(batch)}: text is not UTF-8: {error}"
            ) from error
        for cells in zip(*values, strict=True):
            number += 1
            num_text_bytes += sum(len(cell) for cell in cells if isinstance(cell, str))
            _check_text(path, num_text_bytes, num_file_bytes)
            yield f"{path}: row {number}", dict(zip(columns, cells, strict=True))


def _check_type(path: Path, name: str, kind: pa.DataType) -> None:
    """Let text and numbers through; a column without any value has a type of numbers or none."""
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)
    if not (is_text or pa.types.is_integer(values) or pa.types.is_floating(values) or pa.types.is_null(values)):
        raise InputError(f"{path}: column {name!r} is {kind}, expected text")


def _check_text(path: Path, num_bytes: int, num_file_bytes: int) -> None:
    if num_bytes > MAX_TEXT_BYTES:
        raise InputError(f"{path}: more than {MAX_TEXT_BYTES >> 30} GiB of text; split it into several files")
    if num_bytes > max(MIN_BOMB_BYTES, MAX_EXPANSION * num_file_bytes):
        raise InputError(
            f"{path}: {num_file_bytes} bytes that become {num_bytes >> 20} MiB of text and more are no lyrics"
        )


def _check_pages(path: Path, file: BinaryIO, chunks: Sequence[Chunk]) -> int:
    """Return how many bytes all pages say that they will take, before any is unpacked."""
    num_file_bytes, total = file.seek(0, os.SEEK_END), 0
    for chunk in chunks:
        place = chunk.start
        while place < chunk.end:
            page = read_page(file, place)
            if page.unpacked > MAX_PAGE_BYTES or page.num_values > MAX_ROWS:
                raise InputError(
                    f"{path}: column {chunk.column!r} has a page of {page.unpacked} bytes and {page.num_values} "
                    f"values, expected at most {MAX_PAGE_BYTES} and {MAX_ROWS}"
                )
            place += page.header_bytes + page.packed
            if place > num_file_bytes:  # Arrow would take as much memory as it says
                raise InputError(
                    f"{path}: column {chunk.column!r} has a page that ends at byte {place}, the file has "
                    f"{num_file_bytes}: it is cut or damaged"
                )
            total += page.unpacked
    return total


def _to_objects(array: pa.Array) -> list[Any]:
    """Return a column's values; equal texts of a dictionary are one object."""
    if not pa.types.is_dictionary(array.type):
        return list(array.to_pylist())
    used = pc.unique(array.indices).drop_null()
    texts = dict(zip(used.to_pylist(), array.dictionary.take(used).to_pylist(), strict=True))
    return [None if index is None else texts[index] for index in array.indices.to_pylist()]
