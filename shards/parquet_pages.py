"""What the pages of a Parquet file claim to hold, read from their headers before anything is unpacked.

A page of some bytes may unpack to gigabytes: by its compression, or by an encoding that repeats the start of the text
before. Nothing in Arrow bounds that, and the footer need not tell the truth; Arrow goes by the header before each page.
Source: the Parquet format, PageHeader in parquet.thrift; Thrift's compact protocol.
"""

from collections.abc import Iterator
from typing import NamedTuple

from shards.schema import ShardError

_MAX_DEPTH = 8  # of structures in a header; Parquet's have three

_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_PLACES = {
    _DATA_PAGE: (5, 2),
    _DICTIONARY_PAGE: (7, 2),
    _DATA_PAGE_V2: (8, 4),
}  # of its details; of the encoding
# Those whose values are at most as long as the page, or of few bytes for each row. Not DELTA_BYTE_ARRAY, number 7.
_BOUNDED_ENCODINGS = {
    0: "PLAIN",
    2: "PLAIN_DICTIONARY",
    3: "RLE",
    4: "BIT_PACKED",
    5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY",
    8: "RLE_DICTIONARY",
    9: "BYTE_STREAM_SPLIT",
}

# Types of Thrift's compact protocol.
_STOP, _TRUE, _FALSE, _I32, _I64, _BINARY, _STRUCT = 0, 1, 2, 5, 6, 8, 12

_Fields = dict[int, "int | _Fields"]


class Page(NamedTuple):
    """What one page claims."""

    is_dictionary: bool
    num_bytes: int  # unpacked
    num_values: int


def read_pages(chunk: bytes) -> Iterator[Page]:
    """Yield the pages of a column chunk, which must fill it.

    Raises:
        ShardError: what stands there are no pages, or their values may be of any length.
    """
    place = 0
    while place < len(chunk):
        try:
            header, end = _read_struct(chunk, place, 0)
        except IndexError as error:
            raise ShardError(f"the header of the page at byte {place} of a column is cut") from error
        page, packed = _judge(header, place)
        place = end + packed
        yield page
    if place != len(chunk):
        raise ShardError(f"the pages of a column end at byte {place}, expected {len(chunk)}")


def _judge(header: _Fields, start: int) -> tuple[Page, int]:
    """Return the page whose header stands at `start`, and how many bytes it takes behind that."""
    kind, unpacked, packed = (_get(header, number) for number in (1, 2, 3))
    details_place, encoding_place = _PLACES.get(kind, (0, 0))
    details = header.get(details_place)
    if not isinstance(details, dict) or unpacked < 0 or packed < 0:
        raise ShardError(f"byte {start} of a column starts no page")
    num_values, encoding = _get(details, 1), _get(details, encoding_place)
    if num_values < 0 or encoding not in _BOUNDED_ENCODINGS:
        expected = ", ".join(_BOUNDED_ENCODINGS.values())
        raise ShardError(f"the page at byte {start} of a column has encoding {encoding}, expected one of {expected}")
    return Page(kind == _DICTIONARY_PAGE, unpacked, num_values), packed


def _get(fields: _Fields, number: int) -> int:
    """Return a number of a header; -1, which stands for nothing there, where it is missing."""
    value = fields.get(number)
    return value if isinstance(value, int) else -1


def _read_struct(data: bytes, place: int, depth: int) -> tuple[_Fields, int]:
    """Return the 32-bit numbers and structures in a structure, and where it ends; IndexError where the bytes end."""
    fields: _Fields = {}
    number = 0
    while True:
        kind, step = data[place] & 15, data[place] >> 4
        place += 1
        if kind == _STOP:
            return fields, place
        if step:
            number += step
        else:
            value, place = _read_varint(data, place)
            number = _unfold(value)
        if kind == _I32 or kind == _I64 or kind == _BINARY:
            value, place = _read_varint(data, place)
            if kind == _I32:  # what else there is in a header is not looked at, by Arrow either
                fields[number] = _unfold(value)
            elif kind == _BINARY:
                place += value
        elif kind == _STRUCT and depth < _MAX_DEPTH:
            fields[number], place = _read_struct(data, place, depth + 1)
        elif kind == _TRUE or kind == _FALSE:
            fields[number] = int(kind == _TRUE)
        else:  # nothing else stands in the header of a page
            raise ShardError(f"a page header with a field of type {kind}")


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    byte = data[place]
    place += 1
    if byte < 128:
        return byte, place
    value, shift = byte & 127, 7
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ShardError("a page header with a number of more than 64 bits")


def _unfold(value: int) -> int:
    """Return the signed number that stands as `value`, so that small ones of either sign take few bytes."""
    return (value >> 1) ^ -(value & 1)
