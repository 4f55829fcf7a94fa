"""Indexes that unpack to more than they are: refused before it is done, in no time and no memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.index import IndexRow, read_index
from shards.parquet_pages import read_pages
from shards.schema import ShardError
from tests.shards.damage import measure

_READ = """
from shards.index import read_index
def read(path):
    index = read_index(path)
    index.column("song_id")
    next(iter(index))
"""
_VERSION = {"shards_schema_version": "1"}
_PADDING = 200_000  # bytes: as if there were that much of real rows


def write_bomb(root: Path, column: pa.Array, **options: Any) -> None:
    """Write an index whose column song_id is `column` and whose other columns say always the same."""
    table = pq.read_table(root / "index.parquet")
    arrays = [pa.array([values[0].as_py()] * len(column), values.type) for values in table.columns]
    arrays[table.column_names.index("song_id")] = column
    fields = [
        pa.field(name, array.type, nullable=False) for name, array in zip(table.column_names, arrays, strict=True)
    ]
    options = {
        "compression": "zstd",
        "compression_level": 19,
        "store_schema": False,
        "write_statistics": False,
    } | options
    with pq.ParquetWriter(root / "index.parquet", pa.schema(fields), **options) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))
        writer.add_key_value_metadata(_VERSION)


def pad(root: Path) -> None:
    """Put bytes that belong to nothing before the footer, so that the file is long enough for its number of rows."""
    path = root / "index.parquet"
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:footer] + bytes(_PADDING) + data[footer:])


def one_long_text_for_all_rows() -> tuple[pa.Array, dict[str, Any]]:
    """20,000 times 100 kB: 2 GB, of which one is in the file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 100_000])), {}


def pages_of_nothing_but_zeros() -> tuple[pa.Array, dict[str, Any]]:
    return pa.array(["x" * 100_000_000]), {"use_dictionary": False}


def each_text_begins_as_the_one_before() -> tuple[pa.Array, dict[str, Any]]:
    """2,000 times 100 kB in the encoding that names only what is new in a text: 200 MB in a page of 110 kB."""
    texts = ["x" * 100_000] * 2_000
    encodings = {"use_dictionary": False, "column_encoding": {"song_id": "DELTA_BYTE_ARRAY"}}
    return pa.array(texts), encodings


BOMBS: list[tuple[Callable[[], tuple[pa.Array, dict[str, Any]]], str]] = [
    (one_long_text_for_all_rows, "column song_id holds a text of 100000 bytes, expected at most 4096"),
    (pages_of_nothing_but_zeros, "a column claims .* bytes"),
    (each_text_begins_as_the_one_before, "the page at byte .* of a column has encoding 7, expected one of PLAIN"),
]


@pytest.mark.parametrize(("bomb", "message"), BOMBS)
def test_bomb_takes_neither_memory_nor_time(
    tmp_path: Path, rows: list[IndexRow], bomb: Callable[[], tuple[pa.Array, dict[str, Any]]], message: str
) -> None:
    column, options = bomb()
    write_bomb(tmp_path, column, **options)
    pad(tmp_path)
    with pytest.raises(ShardError, match=f"index.parquet: {message}.*; write the index again"):
        read_index(tmp_path).row(0)
    (result,) = measure(_READ, tmp_path)
    assert result["error"].startswith("ShardError: ")
    assert result["seconds"] < 1
    assert result["mb"] < 60


def test_more_rows_than_the_file_has_room_for(tmp_path: Path, rows: list[IndexRow]) -> None:
    write_bomb(tmp_path, pa.array(["x"] * 5_000))
    with pytest.raises(ShardError, match=r"claims 5000 rows in \d+ bytes"):
        read_index(tmp_path)


def test_group_of_a_million_rows_is_not_unpacked_at_once(tmp_path: Path, rows: list[IndexRow]) -> None:
    """Tools that write Parquet make groups of a million rows; a row as Python objects has some kilobytes."""
    write_bomb(tmp_path, pa.array([f"song {number}" for number in range(150_000)]))
    path = tmp_path / "index.parquet"
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:footer] + bytes(1_500_000) + data[footer:])
    assert read_index(tmp_path).row(149_999).song_id == "song 149999"
    (result,) = measure(_READ, tmp_path)
    assert result["error"] is None
    assert result["mb"] < 200


@pytest.mark.parametrize("codec", ["snappy", "gzip", "zstd", "none"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_are_those_that_arrow_wrote(tmp_path: Path, codec: str, version: str) -> None:
    """Of any writer: pages are found by their headers, and fill the column."""
    texts = [f"text {number} " * (number % 50) for number in range(20_000)]
    table = pa.table({"text": texts, "number": list(range(20_000)), "few": ["a", "b"] * 10_000})
    path = tmp_path / "x.parquet"
    pq.write_table(
        table, path, compression=codec, data_page_version=version, data_page_size=10_000, row_group_size=7_000
    )
    metadata, data = pq.ParquetFile(path).metadata, path.read_bytes()
    for group in range(metadata.num_row_groups):
        for number in range(3):
            chunk = metadata.row_group(group).column(number)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            written = data[start : start + chunk.total_compressed_size]
            pages = list(read_pages(written))
            assert sum(page.num_values for page in pages if not page.is_dictionary) == chunk.num_values
            headers = chunk.total_uncompressed_size - sum(page.num_bytes for page in pages)
            assert 0 < headers < 1_000 * len(pages)  # with the smallest and largest text
            for damaged in (written[:-1], written + b"\0", written[1:]):
                with pytest.raises(ShardError, match="of a column|page header"):
                    list(read_pages(damaged))


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (b"\x15" + b"\xff" * 100_000, "a number of more than 64 bits"),
        (b"\x1c" * 100_000, "a field of type 12"),  # a structure in a structure in a structure
        (b"\x18\xff\xff\xff\x7f" * 100, "byte 0 of a column is cut"),  # a text that goes on behind the end
        (b"\x15\x00\x15\x02\x15\x02\x00", "byte 0 of a column starts no page"),
    ],
)
def test_header_that_is_none(chunk: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        list(read_pages(chunk))


def test_chunk_of_endless_pages(tmp_path: Path, rows: list[IndexRow]) -> None:
    """Ten thousand pages without values are no more than a few bytes each, and would be gone through one by one."""
    path = tmp_path / "index.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(4)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = path.read_bytes()[start : start + chunk.total_compressed_size]
    assert len(list(read_pages(data))) <= 2
    file = read_index(tmp_path)._file
    file._bytes_left = 10**6
    file._check_chunk(data)
    with pytest.raises(ShardError, match=r"a column claims .* pages; expected up to 5 values"):
        file._check_chunk(data * 10_000)
