"""Rows of a manifest in Parquet, by batches; a small file that becomes gigabytes is refused before memory is taken.

Sizes stand in the file's footer and again in the header of every page; both are looked at, since a footer may lie.
Format: github.com/apache/parquet-format (PageHeader, in Thrift's compact protocol).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.manifest_columns import MANIFEST_COLUMNS, InputError, check_columns, first_line, log_unread

MAX_ROWS = 5_000_000  # they take about 3 GB as Python objects; a larger catalogue is several manifests
# Names that count upwards take 2 bytes a row as zstd packs them; what takes less than a quarter names no songs.
MAX_ROWS_PER_BYTE, MIN_ROWS = 4, 10_000
MAX_TEXT_BYTES = 4 << 30
MAX_PAGE_BYTES = 256 << 20  # most writers fill pages to about 1 MiB, DuckDB to 100 MB
# Above 256 MiB text may not be more than 1000 times the file. Lyrics, packed, are a half to a quarter of their length.
MAX_EXPANSION, MIN_BOMB_BYTES = 1_000, 256 << 20
_BATCH_ROWS = 256
_HEADER_BYTES, _MAX_HEADER_BYTES = 1 << 10, 16 << 20  # of a page: sizes first, then statistics of any length
_MAX_DEPTH = 8  # of structs in a page's header; the format has three


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
    for sizes in (_footer_sizes(metadata, columns), _page_sizes(path, file, metadata, columns)):
        _check_text(path, sum(sizes), num_file_bytes)
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


def _footer_sizes(metadata: pq.FileMetaData, columns: list[str]) -> Iterator[int]:
    for chunk in _chunks(metadata, columns):
        yield chunk.total_uncompressed_size


def _chunks(metadata: pq.FileMetaData, columns: list[str]) -> Iterator[pq.ColumnChunkMetaData]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            if (chunk := group.column(index)).path_in_schema in columns:
                yield chunk


def _page_sizes(path: Path, file: BinaryIO, metadata: pq.FileMetaData, columns: list[str]) -> Iterator[int]:
    """Yield how many bytes every page says that it will take, before any is unpacked."""
    num_file_bytes = file.seek(0, os.SEEK_END)
    for chunk in _chunks(metadata, columns):
        place = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
            place = chunk.dictionary_page_offset
        end = place + chunk.total_compressed_size
        while place < end:
            header, header_bytes = _read_header(file, place)
            unpacked, packed = header.get(2), header.get(3)
            contents: dict[int, Any] = next(
                (header[field] for field in (5, 7, 8) if isinstance(header.get(field), dict)), {}
            )
            num_values = contents.get(1, 0)
            if not isinstance(unpacked, int) or not isinstance(packed, int) or not isinstance(num_values, int):
                raise ValueError(f"no page header at byte {place}")
            if not 0 <= unpacked <= MAX_PAGE_BYTES or packed < 0 or not 0 <= num_values <= MAX_ROWS:
                raise InputError(
                    f"{path}: column {chunk.path_in_schema!r} has a page of {unpacked} bytes and {num_values} values, "
                    f"expected at most {MAX_PAGE_BYTES} and {MAX_ROWS}"
                )
            place += header_bytes + packed
            if place > num_file_bytes:  # Arrow would take as much memory as it says
                raise InputError(
                    f"{path}: column {chunk.path_in_schema!r} has a page that ends at byte {place}, the file has "
                    f"{num_file_bytes}: it is cut or damaged"
                )
            yield unpacked


def _read_header(file: BinaryIO, place: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the page header at `place` by their numbers, and its length in bytes."""
    size = _HEADER_BYTES
    while True:
        file.seek(place)
        data = file.read(size)
        try:
            return _read_struct(data, 0, _MAX_DEPTH)
        except IndexError as error:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise ValueError(f"no page header at byte {place}") from error
            size *= 16


def _read_struct(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a Thrift struct (numbers and structs) and the place behind it; IndexError if it is cut."""
    if not depth:
        raise ValueError("page header with too many levels")
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[place]:
        place += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, place = _read_number(data, place)
        fields[number], place = _read_value(data, place, kind & 15, depth)
    return fields, place + 1


def _read_value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true and false
        return kind == 1, place
    if kind == 3:
        return data[place], place + 1
    if kind in (4, 5, 6):
        return _read_number(data, place)
    if kind == 8:  # bytes
        size, place = _read_unsigned(data, place)
        return None, place + size
    if kind == 12:
        return _read_struct(data, place, depth - 1)
    raise ValueError(f"page header with a field of type {kind}")  # no list, map or double is in one


def _read_unsigned(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 70:
            return value, place


def _read_number(data: bytes, place: int) -> tuple[int, int]:
    value, place = _read_unsigned(data, place)
    return (value >> 1) ^ -(value & 1), place


def _to_objects(array: pa.Array) -> list[Any]:
    """Return a column's values; equal texts of a dictionary are one object."""
    if not pa.types.is_dictionary(array.type):
        return list(array.to_pylist())
    used = pc.unique(array.indices).drop_null()
    texts = dict(zip(used.to_pylist(), array.dictionary.take(used).to_pylist(), strict=True))
    return [None if index is None else texts[index] for index in array.indices.to_pylist()]
