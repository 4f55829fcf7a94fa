"""Where the columns of a Parquet file lie and what their pages claim, read from its bytes before anything is unpacked.

Arrow's own view of a column in a damaged footer ends the process (pyarrow 26: `RowGroupMetaData.column`). What is read
here is what Arrow reads: a number of another type counts as missing, of two the last.
Format: github.com/apache/parquet-format (FileMetaData and PageHeader), in Thrift's compact protocol.
"""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

MAX_FOOTER_VALUES = 500_000  # a column of a row group has about 45; beyond that many the footer takes seconds
_MAX_HEADER_VALUES = 1_000  # of a page; it has about 20
_HEADER_BYTES, _MAX_HEADER_BYTES = 1 << 10, 16 << 20  # of a page: sizes first, then statistics of any length
_MAX_DEPTH = 12  # of structs and lists; the format has seven
_END_BYTES = 8  # length of the footer, and the file's mark

_BOOLEANS, _BYTE, _I32, _I64, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, 5, 6, 7, 8, (9, 10), 12
_INTEGERS = (4, _I32, _I64)
_FIXED_BYTES = {_DOUBLE: 8, 13: 16}  # a UUID


class Chunk(NamedTuple):
    """A column of a row group."""

    column: str
    start: int  # byte of its first page
    end: int
    num_bytes: int  # unpacked, as the footer says


class Page(NamedTuple):
    """What the header of a page says."""

    unpacked: int
    packed: int
    num_values: int
    header_bytes: int


def read_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the columns of every row group.

    Raises:
        ValueError: the footer is damaged, or has more than `MAX_FOOTER_VALUES` values.
    """
    num_file_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, num_file_bytes - _END_BYTES))
    size = int.from_bytes(file.read(_END_BYTES)[:4], "little")
    file.seek(max(0, num_file_bytes - _END_BYTES - size))
    try:
        footer = _Values(file.read(size), MAX_FOOTER_VALUES).struct()
    except IndexError as error:
        raise ValueError("the footer is cut or damaged") from error
    for group in _items(footer, 4):
        for column in _items(group, 1):
            facts = _get(column, 3, _STRUCT, {})
            places = [_get(facts, number, _I64, 0) for number in (9, 11)]  # of data, of the dictionary
            start = places[1] if 0 < places[1] < places[0] else places[0]
            names = [name.decode("utf-8") for name in _items(facts, 3, _BINARY)]
            yield Chunk(".".join(names), start, start + _get(facts, 7, _I64, 0), _get(facts, 6, _I64, 0))


def read_page(file: BinaryIO, place: int) -> Page:
    """Return what the header of the page at byte `place` says.

    Raises:
        ValueError: no page header is there.
    """
    if place < 0:
        raise ValueError(f"a page at byte {place}")
    size = _HEADER_BYTES
    while True:
        file.seek(place)
        data = file.read(size)
        try:
            values = _Values(data, _MAX_HEADER_VALUES)
            header = values.struct()
            break
        except IndexError as error:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise ValueError(f"no page header at byte {place}") from error
            size *= 16
    unpacked, packed = (_get(header, number, _I32, -1) for number in (2, 3))
    details = [_get(header, number, _STRUCT, {}) for number in (5, 7, 8) if number in header]
    contents: dict[int, tuple[int, Any]] = details[0] if details else {}
    num_values = _get(contents, 1, _I32, 0)
    if unpacked < 0 or packed < 0 or num_values < 0:
        raise ValueError(f"no page header at byte {place}")
    return Page(unpacked, packed, num_values, values.place)


def _get(fields: dict[int, tuple[int, Any]], number: int, kind: int, missing: Any) -> Any:
    """Return a field of a struct, `missing` where it is not there or is of another type."""
    found, value = fields.get(number, (None, None))
    return value if found == kind else missing


def _items(fields: dict[int, tuple[int, Any]], number: int, kind: int = _STRUCT) -> list[Any]:
    """Return the items of a list in a struct."""
    found, items = _get(fields, number, _LISTS[0], (kind, []))
    if found != kind:
        raise ValueError(f"a list of type {found}, expected {kind}")
    return list(items)


class _Values:
    """A Thrift struct in the compact protocol; IndexError where it is cut, ValueError where it is none."""

    def __init__(self, data: bytes, max_values: int) -> None:
        self.place = 0
        self._data = data
        self._left = max_values

    def struct(self, depth: int = _MAX_DEPTH) -> dict[int, tuple[int, Any]]:
        """Return type and value of each field, by number."""
        fields: dict[int, tuple[int, Any]] = {}
        number = 0
        while kind := self._data[self.place]:
            self.place += 1
            number = number + (kind >> 4) if kind >> 4 else self._integer()
            kind &= 15
            fields[number] = (kind, kind == _BOOLEANS[0] if kind in _BOOLEANS else self._value(kind, depth))
        self.place += 1
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        self._left -= 1
        if not depth or not self._left:
            raise ValueError("too many values or levels")
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            return self.struct(depth - 1)
        if kind in _LISTS:
            return self._list(depth - 1)
        if kind == _BYTE or kind in _BOOLEANS:  # in a list a boolean takes a byte
            return self._bytes(1)[0]
        if kind in _FIXED_BYTES:
            return self._bytes(_FIXED_BYTES[kind])
        raise ValueError(f"a value of type {kind}")  # the format has no maps

    def _list(self, depth: int) -> tuple[int, list[Any]]:
        head = self._bytes(1)[0]
        size = head >> 4 if head >> 4 < 15 else self._unsigned()
        return head & 15, [self._value(head & 15, depth) for _ in range(size)]

    def _bytes(self, size: int) -> bytes:
        data = self._data[self.place : self.place + size]
        if len(data) < size:
            raise IndexError(size)
        self.place += size
        return data

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.place]
            self.place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 70:
                return value

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
