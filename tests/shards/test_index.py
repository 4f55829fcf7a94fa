"""The index and dataset.json: bytes, order, and what is refused."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.index import (
    DatasetInfo,
    IndexRow,
    read_dataset_info,
    read_index,
    write_dataset_info,
    write_index,
)
from shards.schema import ShardError

CONTRACT_COLUMNS = [
    "key", "song_id", "split", "shard", "num_frames", "language", "duration_s", "sha256",
    "metadata_offset", "metadata_bytes", "semantic_tokens_offset", "semantic_tokens_bytes",
    "latents_offset", "latents_bytes", "latents_std_offset", "latents_std_bytes", "prompts_offset", "prompts_bytes",
]  # fmt: skip


def test_rows_in_any_order_give_the_same_bytes(tmp_path: Path, rows: list[IndexRow]) -> None:
    expected = (tmp_path / "index.parquet").read_bytes()
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        write_index(tmp_path / "other", shuffled)
        assert (tmp_path / "other" / "index.parquet").read_bytes() == expected


def test_round_trip(tmp_path: Path, rows: list[IndexRow]) -> None:
    index = read_index(tmp_path)
    assert list(index) == rows  # the fixture's order is the sorted one
    assert [index.row(number) for number in range(len(index))] == rows
    assert index.column("num_frames").tolist() == [row.num_frames for row in rows]
    assert list(index.select("val")) == rows[4:]
    assert index.find(rows[2].key) == index.find(rows[2].song_id) == 2
    assert index.find("nobody") is None
    assert pq.read_schema(tmp_path / "index.parquet").names[: len(CONTRACT_COLUMNS)] == CONTRACT_COLUMNS


def test_row_outside_the_index(tmp_path: Path, rows: list[IndexRow]) -> None:
    with pytest.raises(IndexError):
        read_index(tmp_path).row(len(rows))
    with pytest.raises(ShardError, match="split 'test'"):
        read_index(tmp_path).select("test")


def test_rows_survive_a_sidecar(rows: list[IndexRow]) -> None:
    assert [IndexRow(**record) for record in json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))] == rows


@pytest.mark.parametrize("name", ["key", "song_id"])
def test_a_song_twice_is_refused(tmp_path: Path, rows: list[IndexRow], name: str) -> None:
    twice = dataclasses.replace(rows[1], **{name: getattr(rows[0], name)})
    with pytest.raises(ShardError, match=f"{name} '.*' is there twice"):
        write_index(tmp_path / "other", [rows[0], twice])
    assert not (tmp_path / "other").exists()


def test_index_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no samples to write"):
        write_index(tmp_path, [])


HOSTILE_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"shard": "../train/000000.tar"}, "shard '../train"),
    ({"shard": "train/../../x.tar"}, "plain name"),
    ({"shard": "/train/000000.tar"}, "plain name"),
    ({"shard": "train/a/b.tar"}, "plain name"),
    ({"shard": "train/..tar"}, "plain name"),
    ({"shard": "train/0.tar\n"}, "plain name"),
    ({"shard": "train\\0.tar"}, "plain name"),
    ({"shard": "file:///etc/passwd"}, "plain name"),
    ({"split": "val"}, "split is 'val', but the shard is 'train/"),
    ({"key": "a.b"}, "must be names"),
    ({"key": "../a"}, "must be names"),
    ({"key": "__meta__"}, "must be names"),
    ({"song_id": ""}, "must be names"),
    ({"num_frames": 0}, "no song"),
    ({"num_frames": 10**9}, "no song"),
    ({"num_frames": True}, "num_frames is True"),
    ({"duration_s": float("nan")}, "no song"),
    ({"duration_s": 24}, "duration_s is 24"),
    ({"sha256": "x" * 64}, "checksum"),
    ({"crc32": -1}, "checksum"),
    ({"metadata_offset": 0}, "metadata_offset is 0"),
    ({"metadata_offset": 513}, "metadata_offset is 513"),
    ({"latents_offset": 512}, "latents has 9728 bytes at 512"),
    ({"latents_bytes": 2**40}, "latents has 1099511627776 bytes"),
    ({"latents_bytes": 0}, "latents has 0 bytes"),
    ({"shard_bytes": 2048}, "of a shard of 2048 bytes"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE_ROWS)
def test_hostile_row_cannot_exist(rows: list[IndexRow], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        dataclasses.replace(rows[0], **change)


def test_hostile_row_in_the_file_is_refused_when_it_is_reached(tmp_path: Path, rows: list[IndexRow]) -> None:
    table = pq.read_table(tmp_path / "index.parquet")
    shards = ["../../etc/passwd.tar", *(row.shard for row in rows[1:])]
    column = table.schema.get_field_index("shard")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(shards)), tmp_path / "index.parquet")
    index = read_index(tmp_path)
    assert index.row(1) == rows[1]
    with pytest.raises(ShardError, match="etc/passwd"):
        index.row(0)


def rewrite(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(root / "index.parquet")), root / "index.parquet")


HOSTILE_TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "version": (
        lambda table: table.replace_schema_metadata({"shards_schema_version": "2"}),
        "schema version '2', this reader knows 1; update",
    ),
    "no version": (lambda table: table.replace_schema_metadata({}), "schema version 'none'"),
    "unknown": (
        lambda table: table.append_column("x\n", pa.nulls(5, pa.int64())),
        r"column 'x\\n' is unknown to this reader; write the index again",
    ),
    "twice": (
        lambda table: table.append_column("key", table.column("key")),
        "column 'key' is there 2 times; write the index again",
    ),
    "type": (
        lambda table: table.set_column(4, "num_frames", pa.array(["1"] * 5)),
        "column num_frames is string, expected int64; write the index again",
    ),
    "type of a column of few values": (
        lambda table: table.set_column(2, "split", pa.array([1] * 5)),
        "column split is int64, expected string; write the index again",
    ),
    "empty": (lambda table: table.slice(0, 0), "holds no samples"),
    "null": (
        lambda table: table.set_column(0, pa.field("key", pa.string()), pa.array([None, "b", "c", "d", "e"])),
        "empty cells",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_TABLES)
def test_hostile_table_is_refused(tmp_path: Path, rows: list[IndexRow], name: str) -> None:
    change, message = HOSTILE_TABLES[name]
    rewrite(tmp_path, change)
    with pytest.raises(ShardError, match=f"index.parquet: .*{message}"):
        read_index(tmp_path).row(0)


@pytest.mark.parametrize("column", [field.name for field in dataclasses.fields(IndexRow)])
def test_missing_column_is_named_with_the_file_and_what_to_do(
    tmp_path: Path, rows: list[IndexRow], column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command, and `repair` does what they say."""
    rewrite(tmp_path, lambda table: table.drop_columns([column]))
    message = f"{tmp_path}/index.parquet: column {column} is missing; write the index again (python -m shards repair)"
    with pytest.raises(ShardError) as caught:
        read_index(tmp_path)
    assert str(caught.value) == message
    for command in (["verify"], ["stats"], ["stats", "--contents"], ["inspect"], ["merge", str(tmp_path / "out")]):
        assert main([*command, str(tmp_path)]) == 1
        assert capsys.readouterr().out.splitlines()[0] == message
    assert main(["repair", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(message)
    assert list(read_index(tmp_path)) == rows


def test_index_of_many_columns_is_refused_in_no_time(tmp_path: Path, rows: list[IndexRow]) -> None:
    schema = pa.schema([pa.field(f"c{number}", pa.int8()) for number in range(40_000)])
    pq.write_table(schema.empty_table(), tmp_path / "index.parquet", store_schema=False)
    with pytest.raises(ShardError, match="cannot be read as Parquet: .*; write the index again"):
        read_index(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all" * 100], ids=["empty", "magic", "text"])
def test_file_that_is_not_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "index.parquet").write_bytes(data)
    with pytest.raises(ShardError, match="cannot be read as Parquet"):
        read_index(tmp_path)


def test_column_name_that_is_not_utf8_is_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    data = (tmp_path / "index.parquet").read_bytes()
    (tmp_path / "index.parquet").write_bytes(data.replace(b"crc32", b"crc3\xcd"))
    with pytest.raises(ShardError, match="cannot be read as Parquet"):
        read_index(tmp_path)


def test_flipped_bit_in_a_column_is_noticed(tmp_path: Path, rows: list[IndexRow]) -> None:
    """Every page has a checksum; a flip in the footer is no Parquet or another schema."""
    path = tmp_path / "index.parquet"
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(0).column(4)  # num_frames
    data[(place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match="cannot be read as Parquet: .*CRC.*; write the index again"):
        read_index(tmp_path).row(0)


def test_rows_are_found_across_row_groups(tmp_path: Path, rows: list[IndexRow]) -> None:
    pq.write_table(pq.read_table(tmp_path / "index.parquet"), tmp_path / "index.parquet", row_group_size=2)
    index = read_index(tmp_path)
    assert list(index) == rows
    assert list(index.select("train")) == rows[:4]
    assert list(index.select("val")) == [index.row(4)] == rows[4:]
    assert index.select("val").find(rows[4].key) == 0
    assert index.select("val").find(rows[0].key) is None


def test_row_groups_without_rows_do_no_harm(tmp_path: Path, rows: list[IndexRow]) -> None:
    table = pq.read_table(tmp_path / "index.parquet")
    with pq.ParquetWriter(tmp_path / "index.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 2), table.slice(0, 0), table.slice(2, 3)):
            writer.write_table(part)
    assert pq.ParquetFile(tmp_path / "index.parquet").metadata.num_row_groups == 4
    index = read_index(tmp_path)
    assert list(index) == rows
    assert index.column("key").tolist() == [row.key for row in rows]
    assert index.codes("shard")[1] == list(dict.fromkeys(row.shard for row in rows))
    assert list(index.select("val")) == rows[4:]


def test_splits_that_do_not_stand_together_are_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    table = pq.read_table(tmp_path / "index.parquet")
    pq.write_table(table.take([0, 4, 1, 2, 3]), tmp_path / "index.parquet")
    with pytest.raises(ShardError, match="not sorted by split"):
        read_index(tmp_path).select("train")


def test_cut_index_is_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    data = (tmp_path / "index.parquet").read_bytes()
    (tmp_path / "index.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match="cannot be read as Parquet"):
        read_index(tmp_path)


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"index.parquet is missing; name a folder that jobs/extract_tokens.py"):
        read_index(tmp_path)
    with pytest.raises(ShardError, match=r"dataset.json is missing; name a folder that jobs/extract_tokens.py"):
        read_dataset_info(tmp_path)


def test_info_round_trip_and_bytes(tmp_path: Path, rows: list[IndexRow]) -> None:
    info = read_dataset_info(tmp_path)
    data = (tmp_path / "dataset.json").read_bytes()
    write_dataset_info(tmp_path, info)
    assert (tmp_path / "dataset.json").read_bytes() == data
    assert (info.num_samples, info.num_shards, info.splits) == (5, 3, {"train": 4, "val": 1})
    assert info.hours == pytest.approx((600 + 601 + 602 + 603 + 600) / 25 / 3600)
    assert info.latent_channels == len(info.latent_mean) == 8


def test_info_does_not_depend_on_the_order_of_rows(tmp_path: Path, rows: list[IndexRow]) -> None:
    info = read_dataset_info(tmp_path)
    common = {"latent_mean": info.latent_mean, "latent_std": info.latent_std, "fingerprint": info.fingerprint}
    assert DatasetInfo.from_rows(reversed(rows), models=info.models, **common) == info


HOSTILE_INFOS: list[tuple[dict[str, Any], str]] = [
    ({"schema_version": 2}, "schema version 2, this reader knows 1; update"),
    ({"schema_version": "1"}, "schema_version is '1', expected an integer"),
    ({"frame_rate_hz": 50}, "frame_rate_hz is 50, expected 25"),
    ({"codebook_size": 16_385}, "codebook_size is 16385"),
    ({"latent_channels": 64}, "latent_mean must be 64 numbers"),
    ({"latent_mean": ["a"] * 8}, "latent_mean must be 8 numbers"),
    ({"latent_mean": None}, "latent_mean is a NoneType"),
    ({"latent_std": [float("nan")] * 8}, "latent_std must be 8 numbers"),
    ({"latent_std": [0.0] * 8}, "a channel that never changes"),
    ({"splits": {"train": 5}}, "splits is"),
    ({"splits": {"train": 4, "val": 2}}, "the splits hold 6"),
    ({"num_samples": True}, "num_samples is True"),
    ({"num_shards": 6}, "6 shards"),
    ({"hours": -1.0}, "cannot be"),
    ({"hours": 10**400}, "cannot be"),
    ({"fingerprint": 5}, "fingerprint must be text"),
    ({"models": []}, "models is a list"),
    ({"extra": 1}, "key 'extra' is unknown"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE_INFOS)
def test_hostile_info_is_refused(tmp_path: Path, rows: list[IndexRow], change: dict[str, Any], message: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=f"^dataset.json: .*{message}"):
        read_dataset_info(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_info_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ShardError, match="is not JSON"):
        read_dataset_info(tmp_path)


def test_info_without_a_key_is_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / "dataset.json"
    record = json.loads(path.read_text())
    del record["latent_std"]
    path.write_text(json.dumps(record))
    with pytest.raises(ShardError, match="key 'latent_std' is missing"):
        read_dataset_info(tmp_path)
