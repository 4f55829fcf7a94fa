"""Reading: every value comes back, and every kind of damage is named."""

import dataclasses
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.index import IndexRow, read_index
from shards.npy import encode_array
from shards.reader import Sample, ShardReader, find_shard
from shards.schema import ARRAY_FIELDS, LATENTS, ShardError
from shards.tar import build_header
from shards.writer import encode_sample, write_shard

MakeSample = Callable[..., Sample]


def assert_same(found: Sample, expected: Sample) -> None:
    assert (found.key, found.metadata) == (expected.key, expected.metadata)
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def songs(make_sample: MakeSample) -> list[Sample]:
    """Return the songs of the fixture's first shard."""
    return [make_sample("train/0", 600), make_sample("train/1", 601)]


def test_random_access_round_trip(tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample) -> None:
    reader = ShardReader(tmp_path)
    for row, song in reversed(list(zip(rows, songs(make_sample), strict=False))):
        assert_same(reader.read(row), song)


@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_sequential_round_trip(tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample, form: str) -> None:
    shard = rows[0].shard if form == "relative" else tmp_path / rows[0].shard
    for found, song in zip(ShardReader(tmp_path).iterate(shard), songs(make_sample), strict=True):
        assert_same(found, song)


def test_iterate_reads_an_unfinished_dataset(tmp_path: Path, make_sample: MakeSample) -> None:
    (row,) = write_shard(tmp_path / "train" / "0.tar", [make_sample()])
    assert [sample.key for sample in ShardReader(tmp_path).iterate("train/0.tar")] == [row.key]
    with pytest.raises(ShardError, match="dataset.json is missing"):
        ShardReader(tmp_path).read(row)


def test_reader_can_be_sent_to_a_worker(tmp_path: Path, rows: list[IndexRow]) -> None:
    reader = pickle.loads(pickle.dumps(ShardReader(tmp_path)))  # noqa: S301  (made on this line)
    assert reader.read(rows[0]).key == rows[0].key


def test_arrays_can_be_written_to(tmp_path: Path, rows: list[IndexRow]) -> None:
    """Torch warns about arrays that it may not write to."""
    sample = ShardReader(tmp_path).read(rows[0])
    assert all(array.flags.writeable and array.flags.aligned for array in sample.arrays.values())


def test_webdataset_reads_a_shard(tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample) -> None:
    dataset = webdataset.WebDataset(str(tmp_path / rows[0].shard), shardshuffle=False).decode()
    for found, song in zip(dataset, songs(make_sample), strict=True):
        assert (found["__key__"], found["json"]) == (song.key, song.metadata)
        for field in ARRAY_FIELDS:
            np.testing.assert_array_equal(found[field.suffix], getattr(song, field.name))


def test_longest_key_survives_webdataset(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample("long " * 100)
    write_shard(tmp_path / "train" / "0.tar", [sample])
    (found,) = webdataset.WebDataset(str(tmp_path / "train" / "0.tar"), shardshuffle=False)
    assert found["__key__"] == sample.key
    assert len(found.keys() & {"json", *(field.suffix for field in ARRAY_FIELDS)}) == 5


def read_all(root: Path, row: IndexRow) -> dict[str, str | None]:
    """Return what each way of reading says about a shard; None: nothing."""
    reader = ShardReader(root)
    messages: dict[str, str | None] = {}
    for name, read in (("read", lambda: reader.read(row)), ("iterate", lambda: list(reader.iterate(row.shard)))):
        try:
            read()
            messages[name] = None
        except ShardError as error:
            messages[name] = str(error)
    return messages


def test_missing_shard(tmp_path: Path, rows: list[IndexRow]) -> None:
    (tmp_path / rows[0].shard).unlink()
    messages = read_all(tmp_path, rows[0])
    assert all(message and message.startswith("train/000000.tar: missing from") for message in messages.values())


@pytest.mark.parametrize("num_bytes", [0, 100, 512, 2000, 33_280, 40_000, -1024, -1])
def test_cut_shard(tmp_path: Path, rows: list[IndexRow], num_bytes: int) -> None:
    path = tmp_path / rows[1].shard
    data = path.read_bytes()
    path.write_bytes(data[:num_bytes])
    messages = read_all(tmp_path, rows[1])
    assert messages["iterate"]
    assert "cut" in messages["iterate"] or "end mark" in messages["iterate"]
    is_sample_whole = rows[1].end <= len(data[:num_bytes])
    assert messages["read"] is None if is_sample_whole else "it was cut" in str(messages["read"])


def test_any_flipped_bit_is_noticed_by_random_access(tmp_path: Path, rows: list[IndexRow]) -> None:
    row = rows[1]
    path = tmp_path / row.shard
    data = path.read_bytes()
    for position in range(row.start, row.end, 997):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(ShardError, match=f"train/000000.tar: sample '{row.key}': checksum differs"):
            ShardReader(tmp_path).read(row)


def test_flipped_bit_in_one_sample_leaves_the_others(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / rows[0].shard
    data = bytearray(path.read_bytes())
    data[rows[0].latents_offset + 300] ^= 1
    path.write_bytes(data)
    assert ShardReader(tmp_path).read(rows[1]).key == rows[1].key


@pytest.mark.parametrize("column", ["key", "shard"])
def test_row_of_another_sample_is_noticed(tmp_path: Path, rows: list[IndexRow], column: str) -> None:
    stale = dataclasses.replace(rows[0], **{column: getattr(rows[2], column)})
    with pytest.raises(ShardError, match="starts no header of json|checksum differs"):
        ShardReader(tmp_path).read(stale)


@pytest.mark.parametrize("shard", ["../train/0.tar", "/etc/passwd", "index.parquet", "train/x/0.tar", ".", ""])
def test_path_outside_the_splits_is_refused(tmp_path: Path, rows: list[IndexRow], shard: str) -> None:
    with pytest.raises(ShardError, match="leads out of the dataset|expected train or val"):
        list(ShardReader(tmp_path).iterate(shard))


def test_link_out_of_the_dataset_is_refused(tmp_path: Path, rows: list[IndexRow]) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.tar"
    (tmp_path / rows[0].shard).rename(outside)
    (tmp_path / rows[0].shard).symlink_to(outside)
    with pytest.raises(ShardError, match="leads out of the dataset"):
        ShardReader(tmp_path).read(rows[0])


def test_pipe_instead_of_a_shard_does_not_block(tmp_path: Path, rows: list[IndexRow]) -> None:
    (tmp_path / rows[0].shard).unlink()
    os.mkfifo(tmp_path / rows[0].shard)
    with pytest.raises(ShardError, match="missing"):
        find_shard(tmp_path, rows[0].shard)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Write a shard with any members in any order."""
    padded = [build_header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in members]
    path.write_bytes(b"".join(padded) + bytes(1024))


def _swap(members: list[tuple[str, bytes]]) -> None:
    members[1], members[2] = members[2], members[1]


def _pickle(members: list[tuple[str, bytes]]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    members[2] = (members[2][0], buffer.getvalue())


def _huge(members: list[tuple[str, bytes]]) -> None:
    name, data = members[2]
    members[2] = (name, data.replace(b"(600, 8), }" + b" " * 9, b"(600000000000, 8), }"))


def _channels(members: list[tuple[str, bytes]]) -> None:
    members[2:4] = [(name, encode_array(np.ones((600, 4), np.float16), LATENTS)) for name, _ in members[2:4]]


TAMPER: dict[str, tuple[Callable[[list[tuple[str, bytes]]], object], str]] = {
    "order": (_swap, "expected semantic.npy, found '.*latent.npy'; members have a fixed order"),
    "missing member": (lambda members: members.pop(), "expected prompts.npy, found the end of the shard"),
    "extra member": (lambda members: members.append(("x.txt", b"")), "found 'x.txt', expected <key>.json"),
    "path": (lambda members: members.insert(0, ("../../x.json", b"{}")), "found '../../x.json'"),
    "twice": (lambda members: members.extend(members[:5]), "is there twice"),
    "other key": (lambda members: members.__setitem__(3, ("b.latent_std.npy", members[3][1])), "found 'b.latent_std"),
    "pickle": (_pickle, "latent.npy holds '\\|O'"),
    "huge shape": (_huge, "latent.npy has T=600000000000"),
    "lengths": (_channels, "prompts.npy has C=8, expected 4"),
    "json": (lambda members: members.__setitem__(0, (members[0][0], b"[1]")), "metadata is a list"),
}


def test_tar_that_nobody_tampered_with_is_read(tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample) -> None:
    """Proves that the tars below are refused for what was done to them."""
    sample = make_sample()
    members = [(f"{sample.key}.{suffix}", data) for suffix, data in encode_sample(sample.metadata, sample.arrays)]
    write_tar(tmp_path / "train" / "9.tar", members)
    (found,) = ShardReader(tmp_path).iterate("train/9.tar")
    assert_same(found, sample)


@pytest.mark.parametrize("name", TAMPER)
def test_tampered_tar_is_refused(tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample, name: str) -> None:
    tamper, message = TAMPER[name]
    sample = make_sample()
    members = [(f"{sample.key}.{suffix}", data) for suffix, data in encode_sample(sample.metadata, sample.arrays)]
    tamper(members)
    write_tar(tmp_path / "train" / "9.tar", members)
    with pytest.raises(ShardError, match=f"train/9.tar.*{message}"):
        list(ShardReader(tmp_path).iterate("train/9.tar"))


def test_tampered_sample_is_refused_even_if_the_index_agrees(
    tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write with the checks off, as a hostile writer would: index, checksums and tar agree, the values do not."""
    monkeypatch.setattr("shards.writer.check_sample", lambda sample, where: None)
    sample = make_sample()
    sample.semantic_tokens[7] = 65_535
    (row,) = write_shard(tmp_path / "train" / "9.tar", [sample])
    with pytest.raises(ShardError, match="semantic.npy holds id 65535"):
        ShardReader(tmp_path).read(row)


def test_other_number_of_channels_than_the_dataset(
    tmp_path: Path, rows: list[IndexRow], make_sample: MakeSample
) -> None:
    (row,) = write_shard(tmp_path / "train" / "9.tar", [make_sample(channels=16)])
    with pytest.raises(ShardError, match=r"16 latent channels, dataset.json says 8"):
        ShardReader(tmp_path).read(row)


def test_index_leads_to_every_sample(tmp_path: Path, rows: list[IndexRow]) -> None:
    reader = ShardReader(tmp_path)
    assert [reader.read(row).key for row in read_index(tmp_path)] == [row.key for row in rows]
